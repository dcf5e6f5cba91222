"""Time training on question-paraphrase pairs: ours, the published recipe as usually written, and a well-tuned loop.

    python tests/benchmarks/training.py
    python tests/benchmarks/training.py --shape medgemma-4b

naive is plain transformers and peft with batch 1 and accumulation over 8, where each of two wordings has its own
forward pass with the pixels through the tower. batched pads 8 questions in both wordings into a batch of 16, runs the
tower once per question without gradients, and computes logits of the last position only. Both get prepared inputs,
while ours reads and tokenizes them. All train the same LoRA with AdamW.

The floor is the time of counted operations at the speed of a large matrix product. Of a step, these are its own,
forward and backward from the lowest trained layer, in the mean over up to 32. Of the first epoch, they are those of its
steps, of the tower once per image, and of the frozen layers once for every position of the wordings of all epochs,
which are computed before the first step. What the wordings of an image begin with counts once, and attention in the
frozen layers does not count. medgemma-4b needs a GPU.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from flop_formulas import FlopCounterMode
from ready import ready
from shape import (
    MIMIC,
    PIXELS,
    SHAPES,
    Counts,
    Operations,
    distinct_positions,
    machine,
    matmul_rate,
    operations,
    questions,
    random_medgemma,
    report,
    synchronize,
)
from torch import Tensor
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from finetune.lora.modules import add_lora, set_dropout
from finetune.lora.settings import TrainSettings
from finetune.training.batches import Item, Step, training_steps
from finetune.training.forward import FirstTokenLogits, batch_losses, build_batch, prompts_asked
from finetune.training.loop import accelerator_for, train
from finetune.training.loss import objective_of
from finetune.training.prefix_states import PrefixStates
from interp.images.decode import open_image
from interp.model.image_tokens import encode_images, encode_pixels
from interp.model.load import load_vlm
from interp.model.prompts import first_answer_token
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.runtime.memory import memory_left
from interp.runtime.threads import take_short_turns
from interp.schemas.layer_list import parse_layers

SETTINGS = TrainSettings()
"""The published settings: 8 questions per step, 3 epochs."""
COUNTED = 32
"""Steps of the first epoch whose operations are counted; the others are taken to need as many."""
Inputs = list[tuple[dict[str, Tensor], Tensor]]
"""The processor's inputs for some prompts, and the first token of each question's true answer."""


def chat(vlm: Vlm, asked: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Model inputs for images and wordings, left-padded, in main memory."""
    content = [[{"type": "image", "image": open_image(image)}, {"type": "text", "text": text}] for image, text in asked]
    inputs = vlm.processor.apply_chat_template(
        [[{"role": "user", "content": part}] for part in content],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    return dict(inputs) | {"pixel_values": inputs["pixel_values"].to(vlm.tower_dtype)}


def targets_of(vlm: Vlm, items: Sequence[Item]) -> Tensor:
    return torch.tensor([first_answer_token(vlm.processor.tokenizer, item.answer) for item in items])


def naive_inputs(vlm: Vlm, items: Sequence[Item]) -> Inputs:
    """One entry per question with its two wordings, which run separately."""
    return [
        (
            {
                f"{k}.{name}": value
                for k, text in enumerate((item.original, item.paraphrase))
                for name, value in chat(vlm, [(item.image, str(text))]).items()
            },
            targets_of(vlm, [item]),
        )
        for item in items
    ]


def batched_inputs(vlm: Vlm, items: Sequence[Item]) -> Inputs:
    """One entry with all original wordings, then all paraphrases, and the pixels of the originals only."""
    asked = [(i.image, i.original) for i in items] + [(i.image, str(i.paraphrase)) for i in items]
    inputs = chat(vlm, asked)
    # Without these, padding would shift the positions of a prompt.
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return [(inputs | {"pixel_values": inputs["pixel_values"][: len(items)]}, targets_of(vlm, items))]


def published_loss(p: Tensor, q: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of both wordings and their symmetric KL, summed over the questions; logits [n, vocabulary]."""
    ce = (F.cross_entropy(p, targets, reduction="sum") + F.cross_entropy(q, targets, reduction="sum")) / 2
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    there = F.kl_div(log_p, log_q, reduction="sum", log_target=True)
    return ce + (there + F.kl_div(log_q, log_p, reduction="sum", log_target=True)) / 2


def naive_step(adapted: Any, inputs: Inputs) -> None:
    """Accumulate the gradient of some questions, one wording at a time."""
    for wordings, targets in inputs:
        logits = []
        for k in range(2):
            mine = {n[2:]: v.to(adapted.device) for n, v in wordings.items() if n.startswith(f"{k}.")}
            logits.append(adapted(**mine).logits[:, -1].float())
        published_loss(*logits, targets.to(adapted.device)).backward()


def batched_step(adapted: Any, inputs: Inputs) -> None:
    """Accumulate the gradient of some questions in one batch."""
    for given, targets in inputs:
        mine = {name: value.to(adapted.device, non_blocking=True) for name, value in given.items()}
        ids, model = mine.pop("input_ids"), adapted.get_base_model()
        with torch.no_grad():
            features = encode_pixels(model, mine.pop("pixel_values"))
            is_image = (ids == model.config.image_token_id)[..., None]
            # As embeddings, because not every supported version of transformers accepts encoded images.
            embedded = model.get_input_embeddings()(ids).masked_scatter(is_image, torch.cat([features, features]))
        logits = adapted(**mine, inputs_embeds=embedded, logits_to_keep=1).logits[:, -1].float()
        published_loss(*logits.chunk(2), targets.to(adapted.device)).backward()


PEERS = {"naive": (naive_inputs, naive_step), "batched": (batched_inputs, batched_step)}
"""Name of another loop -> its inputs, and its gradient of a step."""


def plain_pairs(adapted: Any, step: Callable[[Any, Inputs], None], batches: Sequence[Inputs], n: int) -> float:
    """Speed of a plain loop with a step per batch of `n` questions [pairs/s]: the median without the first step."""
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=SETTINGS.lr, weight_decay=SETTINGS.weight_decay)
    taken = []
    set_dropout(adapted, True)
    for batch in batches:
        synchronize()
        started = time.perf_counter()
        step(adapted, batch)
        torch.nn.utils.clip_grad_norm_(parameters, SETTINGS.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
        taken.append(time.perf_counter() - started)
    set_dropout(adapted, False)
    return n / statistics.median(taken[1:])


class Pace(NamedTuple):
    """Speed of our training, as medians of repeated runs."""

    first: float
    """Speed of the first epoch, including what is computed once [pairs/s]."""
    steady: float
    """Speed of the later epochs [pairs/s]."""
    whole: float
    """Speed of the whole run [pairs/s]."""


def our_pairs(vlm: Vlm, adapted: Any, steps: Sequence[Step], repeats: int) -> Pace:
    """Train `repeats` times after an epoch that warms up."""
    in_epoch = sum(step.epoch == 0 for step in steps)
    pairs = sum(len(step.items) for step in steps[:in_epoch])
    train(vlm, adapted, steps[:in_epoch], SETTINGS, accelerator_for("auto"))
    first, steady, whole = [], [], []
    for _ in range(repeats):
        vlm.image_tokens.clear()
        stamps = [time.perf_counter()]
        hook = register_optimizer_step_post_hook(lambda *_, into=stamps: into.append(time.perf_counter()))
        train(vlm, adapted, steps, SETTINGS, accelerator_for("auto"))
        hook.remove()
        synchronize()
        epochs = [later - before for before, later in pairwise(stamps[::in_epoch])]
        first.append(epochs[0])
        steady += epochs[1:]
        whole.append(statistics.mean(epochs))
    return Pace(*(pairs / statistics.median(part) for part in (first, steady, whole)))


def kept(vlm: Vlm, items: Sequence[Item]) -> PrefixStates:
    """The frozen layers with all that these questions need."""
    prompts = prompts_asked(items)
    vlm.image_tokens.clear()
    encode_images(vlm, [p.image for p in prompts])
    frozen = PrefixStates(vlm)
    frozen.keep(prompts, memory_left(vlm.device).host)
    return frozen


def packed_step(vlm: Vlm, adapted: Any, frozen: PrefixStates, items: Sequence[Item]) -> None:
    """Accumulate the gradient of some questions as `train` does."""
    losses = batch_losses(FirstTokenLogits(adapted), build_batch(frozen, items), objective_of(vlm, SETTINGS))
    (losses.cross_entropy + losses.divergence).sum().backward()


class Work(NamedTuple):
    """Operations of the first epoch [FLOP]."""

    tower: int
    """The vision tower, once per image."""
    frozen: int
    """The layers below the lowest trained one, without attention between positions."""
    steps: int
    """All steps, forward and backward."""


def work(vlm: Vlm, adapted: Any, steps: Sequence[Step], cost: Operations) -> Work:
    """Count the operations of the first epoch of `steps`; `cost` is that of the model without its adapter."""
    items = [item for step in steps for item in step.items]
    frozen = kept(vlm, items)
    prompts = list(dict.fromkeys(prompts_asked(items)))
    images = [prompt.image for prompt in prompts]
    positions = distinct_positions(frozen.pack(prompts), images)
    first = [step for step in steps if step.epoch == 0]
    with FlopCounterMode(display=False) as counter:
        for step in first[:COUNTED]:
            packed_step(vlm, adapted, frozen, step.items)
    adapted.zero_grad()
    all_steps = counter.get_total_flops() * len(first) // len(first[:COUNTED])
    below = positions * cost.position * frozen.first // vlm.n_layers
    return Work(len(set(images)) * cost.image, below, all_steps)


def gradient(adapted: Any, run: Callable[[], None]) -> dict[str, Tensor]:
    """The gradient that `run` accumulates, by parameter."""
    adapted.zero_grad()
    run()
    found = {n: p.grad.double().flatten() for n, p in adapted.named_parameters() if p.grad is not None}
    adapted.zero_grad()
    return found


def likeness(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[float, float]:
    """Cosine of two gradients, and the smallest cosine of any parameter."""
    names = sorted(one)
    single = [float(F.cosine_similarity(one[n], other[n], dim=0)) for n in names]
    whole = F.cosine_similarity(torch.cat([one[n] for n in names]), torch.cat([other[n] for n in names]), dim=0)
    return float(whole), min(single)


def compare(vlm: Vlm, adapted: Any, items: Sequence[Item]) -> dict[str, float]:
    """Similarity of our gradient and of the batched loop's to the naive recipe's, on one batch without dropout."""
    found = {}
    naive = gradient(adapted, lambda: naive_step(adapted, naive_inputs(vlm, items)))
    batched = gradient(adapted, lambda: batched_step(adapted, batched_inputs(vlm, items)))
    with ready(vlm):
        frozen = kept(vlm, items)
        found[""] = gradient(adapted, lambda: packed_step(vlm, adapted, frozen, items))
    found["batched_"] = batched
    told = {}
    for name, mine in found.items():
        told[f"{name}cosine"], told[f"{name}least_cosine"] = likeness(mine, naive)
    return told


@contextmanager
def peak(found: dict[str, float], name: str) -> Iterator[None]:
    """Record the peak of allocated GPU memory [GiB]; nothing on a CPU."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    found[name] = torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    """Time the three ways, compare their gradients, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--layers", help="by default 15-19, of tiny 4-5")
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps an epoch")
    parser.add_argument(
        "--peer-steps", type=int, default=4, help="optimizer steps of the other loops, one to warm up; 0: none"
    )
    parser.add_argument("--repeats", type=int, default=2, help="runs of ours of 3 epochs")
    options = parser.parse_args()
    started = time.perf_counter()
    # As all commands do.
    take_short_turns()
    if options.shape == "tiny":
        vlm = load_vlm(WORLD / "planted")
    else:
        known = [q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed]
        vlm = random_medgemma(prompt_table(known[:20]))
    layers = parse_layers(
        options.layers or ("4-5" if options.shape == "tiny" else "15-19"), range(vlm.n_layers), vlm.n_layers
    )
    cost = operations(vlm)
    adapted = add_lora(vlm, layers, SETTINGS.rank, SETTINGS.alpha, SETTINGS.dropout)
    n = SETTINGS.batch_size
    asked = n * options.steps
    counts = Counts(max(1, round(asked * MIMIC.images / MIMIC.questions)), asked, 2 * asked)
    pairs, memory = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        taught = questions(counts, Path(folder), PIXELS[options.shape])
        steps = training_steps(taught, SETTINGS.epochs, n, SETTINGS.seed)
        assert all(item.paraphrase for step in steps for item in step.items)
        with peak(memory, "ours"), ready(vlm):
            ours = our_pairs(vlm, adapted, steps, options.repeats)
            done = work(vlm, adapted, steps, cost)
        pairs |= {"ours, kept inputs": ours.steady, "ours, first epoch": ours.first, "ours, whole run": ours.whole}
        print(f"ours, kept inputs: {ours.steady:.1f} pairs/s", file=sys.stderr, flush=True)
        rate = matmul_rate(vlm.device, vlm.model.dtype)
        facts: dict[str, Any] = {"shape": options.shape, "layers": f"{layers[0]}-{layers[-1]}"} | machine(vlm)
        for name, (prepare, step) in PEERS.items() if options.peer_steps else ():
            batches = [prepare(vlm, part.items) for part in steps[: options.peer_steps]]
            with peak(memory, name):
                pairs[name] = plain_pairs(adapted, step, batches, n)
            print(f"{name}: {pairs[name]:.1f} pairs/s", file=sys.stderr, flush=True)
        if options.peer_steps:
            items = steps[0].items
            facts |= {f"gradient_{name}": value for name, value in compare(vlm, adapted, items).items()}
            if vlm.model.dtype != torch.float32:
                vlm.model.float()
                facts |= {f"gradient_float32_{name}": value for name, value in compare(vlm, adapted, items).items()}
    facts |= {
        "images": counts.images,
        "questions": counts.questions,
        "matmul_tflop_per_s": rate / 1e12,
        "step_tflop": done.steps / options.steps / 1e12,
        "step_floor_s": done.steps / options.steps / rate,
        "step_s": n / ours.steady,
        "share_of_floor": done.steps / rate * ours.steady / asked,
        **{f"first_epoch_{name}_tflop": value / 1e12 for name, value in done._asdict().items()},
        "first_epoch_floor_s": sum(done) / rate,
        "first_epoch_s": asked / ours.first,
        "first_epoch_share_of_floor": sum(done) / rate * ours.first / asked,
        "total_s": time.perf_counter() - started,
    }
    table = pd.DataFrame({"pairs_per_s": pairs})
    for name in [name for name in PEERS if name in pairs]:
        table[f"over_{name}"] = table["pairs_per_s"] / pairs[name]
    table["peak_gib"] = [memory.get(name.split(",")[0]) for name in table.index]
    report(facts, table)


if __name__ == "__main__":
    main()
