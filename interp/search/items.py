"""The items of a search: every pair of an original and another wording, with what was measured on it."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interp.questions.item_keys import item_keys
from interp.questions.item_texts import texts_of
from interp.questions.lexicon import named_finding
from interp.schemas.items import SEARCH_ITEMS, TEXT
from interp.screening.flips import Flips


def search_items(
    prompts: pd.DataFrame,
    flips: Flips,
    held_out: NDArray[np.bool_],
    delta: NDArray[np.float32],
    recovery: NDArray[np.float64],
) -> pd.DataFrame:
    """One row per pair, in the order of `flips`: the columns of TEXT and SEARCH_ITEMS (`interp.schemas.items`).

    `held_out` [pairs] marks the half on which features are tested; `delta` [pairs] is the first feature's f(p) - f(q)
    [activation units], and `recovery` [pairs] the share of the margin shift that its patch recovers, NaN if unpatched.
    """
    pairs = flips.pairs
    rows = prompts.iloc[pairs["paraphrase"].to_numpy()].reset_index(drop=True)
    keys, texts = item_keys(prompts), texts_of(prompts)
    place = pairs["paraphrase"].to_numpy()
    shown = texts.iloc[place].reset_index(drop=True)
    table = pd.DataFrame(
        {
            **{name: shown[name] for name in TEXT},
            "question_key": np.array(keys.question, object)[place],
            "patient_key": np.array(keys.patient, object)[place],
            "wording": rows["variant"].to_numpy(),
            "type": rows["type"].to_numpy(),
            "finding": [named_finding(text) for text in shown["original"]],
            "phenomenon": pairs["phenomenon"].to_numpy(),
            "registers": pairs["registers"].to_numpy(object),
            "answer": rows["answer"].to_numpy(object),
            "margin_original": flips.margin_before,
            "margin_wording": flips.margin_after,
            "flipped": flips.flipped,
            "banked": flips.banked,
            "held_out": held_out,
            "delta": delta,
            "recovery": recovery,
        }
    )
    return table[[*TEXT, *SEARCH_ITEMS]]
