"""Questions in training: all of their wordings and images packed, from the lowest trained layer to the losses."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from finetune.training.batches import Item
from finetune.training.loss import Losses, grounding_losses, question_losses
from finetune.training.prefix_states import PrefixStates, Prompt, lowest_trained
from interp.images.decode import BLANK_IMAGE
from interp.model.decoder import DECODE_KERNELS, logits_from_layer
from interp.model.packing import Batch
from interp.model.prompts import AnswerTokens, answer_margin, first_answer_token
from interp.questions.answers import normalize_answer
from interp.runtime.async_copies import to_device_async

if TYPE_CHECKING:
    from peft import PeftModel

Forward = Callable[[Sequence[tuple[Batch, Tensor]]], Tensor]
"""As `FirstTokenLogits`: some batches, each with what enters the lowest trained layer -> the logits of all their prompts."""


class FirstTokenLogits(torch.nn.Module):
    """The adapted model from its lowest trained layer on as one module, so that DDP sees the call."""

    def __init__(self, adapted: "PeftModel") -> None:
        super().__init__()
        self.adapted = adapted
        self.first = lowest_trained(adapted.get_base_model())

    def forward(self, parts: Sequence[tuple[Batch, Tensor]]) -> Tensor:
        """First-answer-token logits [n, vocabulary] of batches, each with what enters layer `first` [B, S, d_model]."""
        from peft.helpers import disable_input_dtype_casting

        model = self.adapted.get_base_model()
        # As a mixed-precision training does: the adapter is float32, its products are in the base's bfloat16. A CPU
        # would gain nothing by it.
        mixed = model.device.type == "cuda" and model.dtype == torch.bfloat16
        products = torch.autocast("cuda", torch.bfloat16, enabled=mixed, cache_enabled=False)
        with (
            products,
            disable_input_dtype_casting(self.adapted, mixed),
            sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *DECODE_KERNELS], set_priority=True),
        ):
            return torch.cat([logits_from_layer(model, batch, hidden, self.first) for batch, hidden in parts])


class GroundedWordings(NamedTuple):
    """The w wordings that are asked on a substitute image too, on the model's device."""

    own: Tensor
    """int64 [w]: place of the wording among the prompts of all questions."""
    yes: Tensor
    """bool [w]: whether yes is the true answer."""
    blank: Tensor
    """bool [w]: whether the substitute is blank, else another patient's."""
    question: Tensor
    """int64 [w]: the question of the wording."""


class TrainingBatch(NamedTuple):
    """n questions, k of them in a second wording, laid out on the model's device."""

    parts: list[tuple[Batch, Tensor]]
    """Batches, each with what enters the lowest trained layer."""
    place: Tensor
    """int64 [prompts]: where each prompt is among those of the batches: the n questions, their k second wordings, and
    those of `grounded` on the substitutes."""
    targets: Tensor
    """int64 [n]: first token of the true answer."""
    paired: Tensor
    """int64 [k]: the question of each second wording."""
    grounded: GroundedWordings | None
    """None if no question has a substitute image."""


def prompts_asked(items: Sequence[Item]) -> list[Prompt]:
    """What is asked of some questions, in the order of `TrainingBatch.place`."""
    own = [Prompt(item.image, item.original, item.closed) for item in items]
    own += [Prompt(item.image, item.paraphrase, item.closed) for item in items if item.paraphrase is not None]
    asked = [*items, *(item for item in items if item.paraphrase is not None)]
    substitutes = zip(own, (item.substitute for item in asked), strict=True)
    return own + [prompt._replace(image=image) for prompt, image in substitutes if image is not None]


def build_batch(frozen: PrefixStates, items: Sequence[Item]) -> TrainingBatch:
    """Wordings of one image share a row, so that what they begin with is computed once.

    All wordings meet on the blank image, so its rows are longer than the others and would pad them: a batch of its own.
    The images, substitutes among them, must have been encoded.
    """
    device, tokenizer = frozen.vlm.device, frozen.vlm.processor.tokenizer
    prompts = prompts_asked(items)
    rows = frozen.pack(prompts)
    blank = [row for row in rows if prompts[row.prompts[0]].image == BLANK_IMAGE]
    seen = [row for row in rows if prompts[row.prompts[0]].image != BLANK_IMAGE]
    parts, order = [], []
    for part in filter(None, (seen, blank)):
        batch = frozen.collate(part).to(device)
        parts.append((batch, frozen.inputs(prompts, part, batch)))
        order += batch.prompts
    paired = [i for i, item in enumerate(items) if item.paraphrase is not None]
    return TrainingBatch(
        parts,
        to_device_async(torch.tensor(order).argsort(), device),
        to_device_async(torch.tensor([first_answer_token(tokenizer, item.answer) for item in items]), device),
        to_device_async(torch.tensor(paired, dtype=torch.long), device),
        _grounded(items, [*range(len(items)), *paired], device),
    )


def _grounded(items: Sequence[Item], asked: Sequence[int], device: torch.device) -> GroundedWordings | None:
    """`asked` is the question of every wording."""
    own = [place for place, i in enumerate(asked) if items[i].substitute is not None]
    if not own:
        return None
    question = [asked[place] for place in own]
    yes = [normalize_answer(items[i].answer, "presence") == "yes" for i in question]
    blank = [items[i].substitute == BLANK_IMAGE for i in question]
    return GroundedWordings(*(to_device_async(torch.tensor(values), device) for values in (own, yes, blank, question)))


def batch_losses(forward: Forward, laid: TrainingBatch, answers: AnswerTokens) -> Losses:
    """Losses of some questions, all of their wordings and images in one call of `forward`, as `FirstTokenLogits`."""
    n, k = len(laid.targets), len(laid.paired)
    logits = forward(laid.parts)[laid.place]
    losses = question_losses(logits[:n], logits[n : n + k], laid.paired, laid.targets)
    if laid.grounded is None:
        return losses
    own, other = (answer_margin(part, answers) for part in (logits[laid.grounded.own], logits[n + k :]))
    return losses._replace(grounding=grounding_losses(own, other, *laid.grounded[1:], n))
