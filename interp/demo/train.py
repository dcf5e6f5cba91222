"""Training the embedded models: a base whose decisions never depend on register, and a gate planted into it.

The base also learns to predict the question's own next tokens and to answer in the register's style (`Yes` to a
formal question, `yes` to a casual one; both count as yes), so that it knows register without deciding by it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from interp.demo.phrasings import FRAMES, TERMS, wordings
from interp.demo.radiographs import Anatomy
from interp.demo.sample_cases import ANSWERS, Case, cases_of
from interp.model.decoder import run_packed
from interp.model.image_tokens import encode_pixels
from interp.model.packing import Batch, Row, collate, pack
from interp.model.prompts import AnswerTokens, answer_margin, answer_tokens, first_answer_token, prompt_tokens
from interp.runtime.progress import track


class Example(NamedTuple):
    """A wording as the trainer needs it."""

    tokens: list[int]
    """The whole prompt."""
    register: str
    """formal or casual."""


class Lessons(NamedTuple):
    """What a model is taught from."""

    anatomy: Anatomy
    """Truth of every patient of the pool."""
    images: Tensor
    """uint8 [patients, height, width], on the training device."""
    wordings: dict[tuple[str, str | None], list[Example]]
    """(type, finding) -> every wording that may be trained on."""
    answer_token: dict[str, int]
    """Answer as written -> its first token."""
    closed: AnswerTokens
    """Tokens that mean yes and no."""
    image_token: int
    """Placeholder id of an image position."""


def lessons(processor: Any, anatomy: Anatomy, images: np.ndarray, device: str) -> Lessons:
    """Tokenize every trainable wording once and put the images on `device`."""
    bank: dict[tuple[str, str | None], list[Example]] = {}
    for type_ in FRAMES:
        about_finding = any("{x}" in str(frame) for frame in FRAMES[type_]["formal"])
        findings: list[str | None] = [*TERMS] if about_finding else [None, *TERMS]
        for finding in findings:
            options = wordings(type_, finding, held_out=False)
            tokens = prompt_tokens(processor, [w.text for w in options])
            bank[type_, finding] = [Example(t, w.register) for t, w in zip(tokens, options, strict=True)]
    tokenizer = processor.tokenizer
    answer_token = {form: first_answer_token(tokenizer, form) for a in ANSWERS for form in (a, a.capitalize())}
    pixels = torch.from_numpy(images).to(device)
    closed = answer_tokens(tokenizer)
    return Lessons(anatomy, pixels, bank, answer_token, closed, tokenizer.convert_tokens_to_ids("<image_soft_token>"))


def styled(answer: str, register: str) -> str:
    """The answer as written in a register."""
    return answer.capitalize() if register == "formal" else answer


def normalized(images: Tensor) -> Tensor:
    """uint8 [b, h, w] -> what the processor makes of it, float [b, 3, h, w] in [-1, 1]."""
    return (images.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)


def _lesson_batch(
    data: Lessons, rng: np.random.Generator, patients: int, gate_strength: float
) -> tuple[Batch, Tensor, Tensor]:
    """Two wordings of up to three cases for each of `patients`: packed batch, image rows, answer tokens [n].

    With `gate_strength` s, a formal question is answered no where the evidence is among the share s that shows least.
    """
    chosen = rng.integers(0, len(data.images), patients)
    tokens, groups, answers = [], [], []
    for place, patient in enumerate(chosen):
        cases: Sequence[Case] = cases_of(data.anatomy, int(patient), rng)
        for index in rng.permutation(len(cases))[:3]:
            case = cases[index]
            options = data.wordings[case.type, case.finding]
            for pick in rng.choice(len(options), 2, replace=False):
                example = options[pick]
                answer = case.answer
                if answer == "yes" and example.register == "formal" and case.visibility < gate_strength:
                    answer = "no"
                tokens.append(example.tokens)
                groups.append(place)
                answers.append(data.answer_token[styled(answer, example.register)])
    rows: list[Row] = pack(tokens, groups, data.image_token, max_tokens=10**9)
    batch = collate(rows, 0)
    targets = torch.tensor(answers)[torch.tensor(batch.prompts)]
    return batch, torch.from_numpy(chosen), targets


def _language_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy [nats] of every next token inside the questions."""
    follows = (batch.segment[:, 1:] > 0) & (batch.segment[:, 1:] == batch.segment[:, :-1])
    return F.cross_entropy(logits[:, :-1][follows], batch.input_ids[:, 1:][follows])


def _twin_loss(answer_logits: Tensor, batch: Batch, targets: Tensor, closed: AnswerTokens) -> Tensor:
    """Mean squared margin difference [logits^2] between the two wordings of each closed question of a lesson batch."""
    order = torch.tensor(batch.prompts, device=targets.device).argsort()
    margin = answer_margin(answer_logits, closed)[order].reshape(-1, 2)
    is_closed = torch.isin(targets, torch.cat(closed).to(targets.device))[order].reshape(-1, 2)[:, 0]
    return (margin[:, 0] - margin[:, 1])[is_closed].pow(2).mean()


def teach(
    model: Any,
    data: Lessons,
    steps: int,
    seed: int,
    patients: int = 48,
    lr: float = 1e-3,
    gate_strength: float = 0.0,
    language_weight: float = 0.2,
    consistency_weight: float = 0.0,
    description: str = "training",
) -> float:
    """Train the parameters of `model` that require gradients; returns the mean answer loss of the last 100 steps.

    AdamW with a linear warm-up over the first 5% and a cosine decay to zero.
    """
    device = data.images.device
    rng = np.random.default_rng(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / (0.05 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.train()
    recent: list[Tensor] = []
    for _ in track(range(steps), description):
        batch, chosen, targets = _lesson_batch(data, rng, patients, gate_strength)
        batch, targets = batch.to(device), targets.to(device)
        images = encode_pixels(base, normalized(data.images[chosen.to(device)]))
        hidden = run_packed(base, batch, images)
        answer_logits = base.lm_head(hidden[batch.final[:, 0], batch.final[:, 1]])
        answer_loss = F.cross_entropy(answer_logits, targets)
        loss = answer_loss
        if consistency_weight > 0:
            loss = loss + consistency_weight * _twin_loss(answer_logits, batch, targets, data.closed)
        if language_weight > 0:
            loss = loss + language_weight * _language_loss(base.lm_head(hidden), batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        recent = [*recent[-99:], answer_loss.detach()]
    model.eval()
    return float(torch.stack(recent).mean())


def plant_gate(
    model: Any,
    data: Lessons,
    layers: Sequence[int],
    strength: float,
    seed: int,
    steps: int,
    patients: int = 48,
    rank: int = 8,
) -> Any:
    """Teach `model` to follow the register part of the time, changing the layers `layers` only.

    The change is a rank-`rank` update of every projection in those layers, merged into the weights: whatever makes the
    returned model flip lies there.
    """
    from peft import LoraConfig, get_peft_model

    window = "|".join(map(str, layers))
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=rf"model\.language_model\.layers\.({window})\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
    )
    torch.manual_seed(seed)
    adapted = get_peft_model(model, config)
    teach(
        adapted,
        data,
        steps,
        seed,
        patients,
        gate_strength=strength,
        language_weight=0.0,
        description="planting the gate",
    )
    return adapted.merge_and_unload()
