"""Questions as data frames: a row per prompt, and a row per (question, paraphrase) pair."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from interp.questions.schema import Question


def prompt_table(questions: Iterable[Question]) -> pd.DataFrame:
    """A row per wording, each question's original first. Every measurement is aligned to this table.

        >>> prompts = interp.prompt_table(questions)
        >>> prompts.loc[:1, ["question", "variant", "register"]].values.tolist()
        [[0, 0, 'casual'], [0, 1, 'formal']]

    Columns: question (int, position in `questions`), variant (int, 0 = original), id, image, patient, type,
    answer (normalized, None where unknown), closed (bool), text, register and phenomenon (None where untagged).
    Wordings that invert the meaning are left out.
    """
    rows = []
    for index, q in enumerate(questions):
        shared = {"question": index, "id": q.id, "image": q.image, "patient": q.group, "type": q.type}
        shared |= {"answer": q.true_answer, "closed": q.closed}
        rows.append(shared | {"variant": 0, "text": q.question, "register": q.register_, "phenomenon": None})
        for k, p in enumerate(q.same_meaning, start=1):
            rows.append(shared | {"variant": k, "text": p.text, "register": p.register_, "phenomenon": p.phenomenon})
    return pd.DataFrame(rows)


def pair_table(prompts: pd.DataFrame) -> pd.DataFrame:
    """A row per (question, paraphrase) pair of a prompt table.

    Columns: original and paraphrase (int, row positions in `prompts`), question, patient, type, phenomenon (str,
    "untagged" where absent), registers (e.g. "formal-casual", None where untagged).
    """
    position = pd.Series(range(len(prompts)), index=prompts.index)
    original = position[(prompts["variant"] == 0).to_numpy()]
    first = pd.Series(original.to_numpy(), index=prompts.loc[original.index, "question"].to_numpy())
    is_paraphrase = (prompts["variant"] > 0).to_numpy()
    rows = prompts[is_paraphrase]
    before = first.loc[rows["question"]].to_numpy()
    registers = prompts["register"].to_numpy()
    after = position[is_paraphrase].to_numpy()
    return pd.DataFrame(
        {
            "original": before,
            "paraphrase": after,
            "question": rows["question"].to_numpy(),
            "patient": rows["patient"].to_numpy(),
            "type": rows["type"].to_numpy(),
            "phenomenon": rows["phenomenon"].fillna("untagged").to_numpy(),
            "registers": [
                f"{registers[a]}-{registers[b]}" if registers[a] and registers[b] else None
                for a, b in zip(before, after, strict=True)
            ],
        }
    )


def fingerprint(questions: Iterable[Question]) -> str:
    """A hash of the questions, including their texts and image names, from which none of it can be read."""
    digest = hashlib.blake2b(digest_size=16)
    for question in questions:
        digest.update(
            question.model_copy(update={"image": Path(question.image).name}).model_dump_json(exclude_none=True).encode()
        )
    return digest.hexdigest()
