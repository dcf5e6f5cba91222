"""Items with their questions: what is looked up in the question file is never needed in an artifact."""

from collections.abc import Sequence

import pandas as pd

from interp.questions.item_keys import item_keys
from interp.questions.schema import Question
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.schemas.items import TEXT


def with_questions(items: pd.DataFrame, questions: Sequence[Question]) -> pd.DataFrame:
    """The items of a saved run or evaluation with the columns of TEXT in front: ids and wordings.

        >>> items = interp.load_run("run").flip_table()
        >>> list(interp.with_questions(items, questions).columns[:3])
        ['id', 'original', 'text']

    `questions` are those that were measured, in their order: a search measures the yes/no questions with paraphrases,
    so all questions of its split may be given. Raises InputError if they are not the measured ones.
    """
    wanted = set(items["question_key"])
    for asked in (list(questions), [q for q in questions if q.closed and q.same_meaning]):
        if not asked:
            continue
        prompts = prompt_table(asked)
        keys = item_keys(prompts).question
        if wanted <= set(keys):
            named = texts_of(prompts).assign(question_key=keys, wording=prompts["variant"])
            found = items.drop(columns=[name for name in TEXT if name in items])
            merged = found.merge(named, "left", ["question_key", "wording"])
            return merged[[*TEXT, *found.columns]]
    raise InputError(
        f"The {len(questions)} questions given are not those of these items. Load the same file with the same split "
        "and limit as the run."
    )


def texts_of(prompts: pd.DataFrame) -> pd.DataFrame:
    """The columns of TEXT for the rows of a prompt table."""
    original = prompts[prompts["variant"] == 0].set_index("question")["text"]
    return pd.DataFrame(
        {
            "id": prompts["id"].to_numpy(),
            "original": original.loc[prompts["question"]].to_numpy(),
            "text": prompts["text"].to_numpy(),
        }
    )
