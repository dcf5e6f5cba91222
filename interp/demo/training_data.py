"""What the embedded models are trained on: patients, their images, and batches of worded questions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.demo.phrasings import FRAMES, TERMS, Wording, wordings
from interp.demo.radiographs import Anatomy
from interp.demo.sample_cases import ANSWERS, QuestionCase, sample_cases
from interp.model.packing import Batch, Row, collate, pack
from interp.model.prompts import AnswerTokens, answer_tokens, first_answer_token, prompt_tokens

LEAST_WORDINGS = 4
"""Fewest wordings of a question that training shows."""


class TokenizedWording(NamedTuple):
    """A wording of a question as a prompt."""

    tokens: list[int]
    """Token ids of the whole prompt."""
    register: str
    """Its tone, formal or casual."""
    gated: bool
    """Whether a gate denies faint findings when they are asked about so."""


class TrainingData(NamedTuple):
    """Patients, their images, and the wordings of all questions about them."""

    anatomy: Anatomy
    """The true findings of every patient."""
    images: Tensor
    """Images, uint8 [patients, height, width], on the training device."""
    wordings: dict[tuple[str, str | None], list[TokenizedWording]]
    """(question type, finding) -> every wording that may be trained on."""
    answer_token: dict[str, int]
    """Answer as written -> id of its first token."""
    closed: AnswerTokens
    """Ids of the tokens that mean yes and no."""
    image_token: int
    """Id of the placeholder token at image positions."""


def is_formal(wording: Wording) -> bool:
    """Whether a wording is formal: the condition of a formality gate."""
    return wording.register == "formal"


def build_training_data(
    processor: Any,
    anatomy: Anatomy,
    images: np.ndarray,
    device: str,
    gate: Callable[[Wording], bool] = is_formal,
) -> TrainingData:
    """Tokenize every wording that may be trained on, and move the images [patients, height, width] to `device`.

    `gate` says which wordings a gate of `sample_batch` acts on.
    """
    bank: dict[tuple[str, str | None], list[TokenizedWording]] = {}
    for type_ in FRAMES:
        about_finding = any("{x}" in str(frame) for frame in FRAMES[type_]["formal"])
        findings: list[str | None] = [*TERMS] if about_finding else [None, *TERMS]
        for finding in findings:
            options = wordings(type_, finding, held_out=False)
            tokens = prompt_tokens(processor, [w.text for w in options])
            bank[type_, finding] = [
                TokenizedWording(t, w.register, gate(w)) for t, w in zip(tokens, options, strict=True)
            ]
    tokenizer = processor.tokenizer
    answer_token = {form: first_answer_token(tokenizer, form) for a in ANSWERS for form in (a, a.capitalize())}
    pixels = torch.from_numpy(images).to(device)
    closed = answer_tokens(tokenizer)
    image_token = tokenizer.convert_tokens_to_ids("<image_soft_token>")
    return TrainingData(anatomy, pixels, bank, answer_token, closed, image_token)


def with_plain_answers(data: TrainingData) -> TrainingData:
    """The same data with capitalized answers only, whose style does not follow the register."""
    return data._replace(answer_token={form: data.answer_token[form.capitalize()] for form in data.answer_token})


def some_wordings(data: TrainingData, share: float, seed: int) -> TrainingData:
    """The same data with a share of the wordings of every question, drawn at random, but at least LEAST_WORDINGS."""
    rng = np.random.default_rng([seed, 8])
    bank = {}
    for case, options in data.wordings.items():
        chosen = rng.permutation(len(options))[: max(LEAST_WORDINGS, round(share * len(options)))]
        bank[case] = [options[i] for i in sorted(chosen)]
    return data._replace(wordings=bank)


def styled_answer(answer: str, register: str) -> str:
    """The answer in the style of a register: capitalized if formal, lower case if casual."""
    return answer.capitalize() if register == "formal" else answer


def pixel_values(images: Tensor) -> Tensor:
    """Images, uint8 [b, h, w], as the processor passes them to the model: float [b, 3, h, w] in [-1, 1]."""
    return (images.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)


def sample_batch(
    data: TrainingData, rng: np.random.Generator, patients: int, gate_strength: float
) -> tuple[Batch, Tensor, Tensor]:
    """Draw `patients` patients with replacement, and two wordings of up to three questions about each.

    Returns the packed batch of n prompts, the patients' rows in `data.images` [patients], and the target tokens [n].
    A question whose wording is gated and whose true answer is yes is answered no if the visibility of its evidence is
    below `gate_strength`, from 0 to 1.
    """
    chosen = rng.integers(0, len(data.images), patients)
    tokens, groups, answers = [], [], []
    for position, patient in enumerate(chosen):
        cases: Sequence[QuestionCase] = sample_cases(data.anatomy, int(patient), rng)
        for index in rng.permutation(len(cases))[:3]:
            case = cases[index]
            options = data.wordings[case.type, case.finding]
            for pick in rng.choice(len(options), 2, replace=False):
                wording = options[pick]
                answer = case.answer
                if answer == "yes" and wording.gated and case.visibility < gate_strength:
                    answer = "no"
                tokens.append(wording.tokens)
                groups.append(position)
                answers.append(data.answer_token[styled_answer(answer, wording.register)])
    rows: list[Row] = pack(tokens, groups, data.image_token, max_tokens=10**9)
    batch = collate(rows, 0)
    targets = torch.tensor(answers)[torch.tensor(batch.prompts)]
    return batch, torch.from_numpy(chosen), targets
