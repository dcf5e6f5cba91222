"""The spelling of the taught answers: that of the data in lower case, or the capitals that the base prefers.

A base that says "Yes" must first learn to say "yes" if that is what it is taught. This costs steps and changes no
answer, since the evaluation ignores case.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from finetune.lora.modules import set_dropout
from finetune.lora.settings import TrainSettings
from finetune.training.batches import Step
from finetune.training.forward import FirstTokenLogits, first_token_logits
from finetune.training.prefix_states import PrefixStates, Prompt
from interp.model.image_tokens import encode_images
from interp.model.prompts import first_answer_token
from interp.model.vlm import Vlm
from interp.questions.schema import Question

if TYPE_CHECKING:
    from peft import PeftModel

QUESTIONS = 16
"""Number of questions per answer that the base is asked; the first of the training data."""
CHUNK = 8
"""Number of questions per pass."""


def answer_spellings(
    vlm: Vlm, adapted: "PeftModel", taught: Sequence[Question], settings: TrainSettings
) -> dict[str, str]:
    """Answer in lower case -> the spelling that the training teaches; nothing for answers that stay as they are.

    With `settings.spelling` "model", it is the spelling whose first token has the highest mean probability over
    QUESTIONS original wordings with that answer. The adapter must be untrained, so that the model answers as its base.
    """
    if settings.spelling == "lower-case":
        return {}
    asked: dict[str, list[Question]] = {}
    for question in taught:
        asked.setdefault(question.true_answer or "", []).append(question)
    set_dropout(adapted, False)
    forward, frozen = FirstTokenLogits(adapted), PrefixStates(vlm)
    return {answer: _preferred(forward, frozen, answer, found[:QUESTIONS]) for answer, found in asked.items()}


def respelled(steps: Sequence[Step], spellings: Mapping[str, str]) -> list[Step]:
    """The steps with their answers spelled as `answer_spellings` says."""
    return [
        step._replace(items=[item._replace(answer=spellings.get(item.answer, item.answer)) for item in step.items])
        for step in steps
    ]


def candidates(tokenizer: Any, answer: str) -> dict[str, int]:
    """Spelling -> its first token, for the spellings of an answer whose first token the evaluation takes for it."""

    def word(token: int) -> str:
        return tokenizer.decode([token]).strip().lower()

    first = first_answer_token(tokenizer, answer)
    spelled = dict.fromkeys((answer, answer.capitalize(), answer.title(), answer.upper()))
    tokens = {spelling: first_answer_token(tokenizer, spelling) for spelling in spelled}
    return {spelling: token for spelling, token in tokens.items() if word(token) == word(first)}


def _preferred(forward: FirstTokenLogits, frozen: PrefixStates, answer: str, questions: Sequence[Question]) -> str:
    spelled = candidates(frozen.vlm.processor.tokenizer, answer)
    if len(set(spelled.values())) == 1:
        return answer
    encode_images(frozen.vlm, [question.image for question in questions])
    tokens = torch.tensor(list(spelled.values()), device=frozen.vlm.device)
    found = torch.zeros(len(spelled), dtype=torch.float64, device=frozen.vlm.device)
    for start in range(0, len(questions), CHUNK):
        prompts = [Prompt(q.image, q.question, q.closed) for q in questions[start : start + CHUNK]]
        found += first_token_logits(forward, frozen, prompts).double().softmax(-1)[:, tokens].sum(0)
    return list(spelled)[int(found.argmax())]
