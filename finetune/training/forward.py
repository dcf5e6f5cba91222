"""The forward pass of the training: packed wordings and images, from the lowest trained layer to the loss."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from finetune.lora.fused_update import fused_updates
from finetune.training.batches import Item
from finetune.training.loss import Losses, Objective, grounding_losses, question_losses
from finetune.training.prefix_states import PrefixStates, Prompt, lowest_trained
from interp.images.decode import BLANK_IMAGE
from interp.model.decoder import DECODE_KERNELS, logits_from_layer
from interp.model.packing import Batch
from interp.model.prompts import answer_margin, first_answer_token
from interp.questions.answers import normalize_answer
from interp.runtime.async_copies import to_device_async

if TYPE_CHECKING:
    from peft import PeftModel

Forward = Callable[[Sequence[tuple[Batch, Tensor]]], Tensor]
"""As `FirstTokenLogits`: batches, each with the states that enter the lowest trained layer -> logits of all prompts."""


class FirstTokenLogits(torch.nn.Module):
    """The adapted model from its lowest trained layer on, as a module of its own."""

    def __init__(self, adapted: "PeftModel") -> None:
        super().__init__()
        self.adapted = adapted
        self.first = lowest_trained(adapted.get_base_model())

    def forward(self, parts: Sequence[tuple[Batch, Tensor]]) -> Tensor:
        """Logits of the first answer token, [n, vocabulary], of packed batches.

        Each batch comes with the hidden states that enter layer `first`, [B, S, d_model].
        """
        from peft.helpers import disable_input_dtype_casting

        model = self.adapted.get_base_model()
        # As in mixed-precision training, the adapter is float32 and its matrix products are in the base's bfloat16.
        # This would not save time on a CPU.
        on_gpu = model.device.type == "cuda"
        mixed = on_gpu and model.dtype == torch.bfloat16
        products = torch.autocast("cuda", torch.bfloat16, enabled=mixed, cache_enabled=False)
        with (
            products,
            disable_input_dtype_casting(self.adapted, mixed),
            fused_updates(self.adapted, on_gpu),
            sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *DECODE_KERNELS], set_priority=True),
        ):
            return torch.cat([logits_from_layer(model, batch, hidden, self.first) for batch, hidden in parts])


@torch.no_grad()
def first_token_logits(forward: FirstTokenLogits, frozen: PrefixStates, prompts: Sequence[Prompt]) -> Tensor:
    """The logits of the first answer token of n prompts in one pass, without gradients: [n, vocabulary].

    The images must have been encoded.
    """
    rows = frozen.pack(prompts)
    batch = frozen.collate(rows).to(frozen.vlm.device)
    logits = forward([(batch, frozen.inputs(prompts, rows, batch))])
    return logits[to_device_async(torch.tensor(batch.prompts).argsort(), logits.device)]


class GroundedWordings(NamedTuple):
    """The w wordings that are also asked about a substitute image, on the model's device."""

    own: Tensor
    """int64 [w]: index of the same wording, asked about the true image, among all prompts."""
    yes: Tensor
    """bool [w]: whether yes is the true answer."""
    blank: Tensor
    """bool [w]: whether the substitute is the blank image; if not, it is another patient's."""
    question: Tensor
    """int64 [w]: index of the question of each wording."""


class TrainingBatch(NamedTuple):
    """n questions, k of them in a second wording too, on the model's device."""

    parts: list[tuple[Batch, Tensor]]
    """Packed batches, each with the hidden states that enter the lowest trained layer, [B, S, d_model]."""
    place: Tensor
    """int64 [prompts]: position of each prompt among those of `parts`; first the n questions, then their k second
    wordings, then the wordings of `grounded` about the substitute images."""
    targets: Tensor
    """int64 [n]: first token of each true answer."""
    paired: Tensor
    """int64 [k]: index of the question of each second wording."""
    closed: Tensor
    """bool [n]: whether each question asks for yes or no."""
    grounded: GroundedWordings | None
    """The wordings that are also asked about a substitute image; None if there are none."""


def prompts_asked(items: Sequence[Item]) -> list[Prompt]:
    """All prompts of some questions, in the order of `TrainingBatch.place`."""
    own = [Prompt(item.image, item.original, item.closed) for item in items]
    own += [Prompt(item.image, item.paraphrase, item.closed) for item in items if item.paraphrase is not None]
    asked = [*items, *(item for item in items if item.paraphrase is not None)]
    substitutes = zip(own, (item.substitute for item in asked), strict=True)
    return own + [prompt._replace(image=image) for prompt, image in substitutes if image is not None]


def build_batch(frozen: PrefixStates, items: Sequence[Item], by_question: bool = False) -> TrainingBatch:
    """Pack questions into a batch. Wordings about one image share a row, so that their common prefix is computed once.

    With `by_question` only those of a question do, so that batches of equally many questions have nearly one shape.
    The blank image is shared by all wordings, so its rows are longer than others and form a batch of their own, which
    avoids padding. All images, substitutes included, must have been encoded.
    """
    device, tokenizer = frozen.vlm.device, frozen.vlm.processor.tokenizer
    prompts = prompts_asked(items)
    paired = [i for i, item in enumerate(items) if item.paraphrase is not None]
    asked = [*range(len(items)), *paired]
    question = asked + [i for i in asked if items[i].substitute is not None]
    rows = frozen.pack(prompts, question if by_question else None)
    blank = [row for row in rows if prompts[row.prompts[0]].image == BLANK_IMAGE]
    seen = [row for row in rows if prompts[row.prompts[0]].image != BLANK_IMAGE]
    parts, order = [], []
    for part in filter(None, (seen, blank)):
        batch = frozen.collate(part).to(device)
        parts.append((batch, frozen.inputs(prompts, part, batch)))
        order += batch.prompts
    return TrainingBatch(
        parts,
        to_device_async(torch.tensor(order).argsort(), device),
        to_device_async(torch.tensor([first_answer_token(tokenizer, item.answer) for item in items]), device),
        to_device_async(torch.tensor(paired, dtype=torch.long), device),
        to_device_async(torch.tensor([item.closed for item in items]), device),
        _grounded(items, asked, device),
    )


def _grounded(items: Sequence[Item], asked: Sequence[int], device: torch.device) -> GroundedWordings | None:
    """`asked` holds the index of the question of every wording."""
    own = [place for place, i in enumerate(asked) if items[i].substitute is not None]
    if not own:
        return None
    question = [asked[place] for place in own]
    yes = [normalize_answer(items[i].answer, "presence") == "yes" for i in question]
    blank = [items[i].substitute == BLANK_IMAGE for i in question]
    return GroundedWordings(*(to_device_async(torch.tensor(values), device) for values in (own, yes, blank, question)))


def batch_losses(forward: Forward, batch: TrainingBatch, objective: Objective) -> Losses:
    """The losses of a batch: all of its wordings and images in one call of `forward`."""
    n, k = len(batch.targets), len(batch.paired)
    logits = forward(batch.parts)[batch.place]
    if batch.grounded is None:
        return question_losses(logits, batch.paired, batch.targets, batch.closed, objective)
    losses = question_losses(logits[: n + k], batch.paired, batch.targets, batch.closed, objective)
    own, other = (answer_margin(part, objective.answers) for part in (logits[batch.grounded.own], logits[n + k :]))
    return losses._replace(grounding=grounding_losses(own, other, *batch.grounded[1:], n))
