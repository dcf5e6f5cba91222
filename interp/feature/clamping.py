"""What holding a feature at zero does to flips and accuracy, at the final token of every prompt."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from interp.measurement.clamp_spec import make_clamp
from interp.measurement.clamps import clamped
from interp.measurement.margins import measure
from interp.model.vlm import Vlm
from interp.questions.tables import pair_table
from interp.saes.sae import Sae
from interp.schemas.record import interval_of
from interp.schemas.study import Clamped
from interp.statistics import UNDEFINED, mean_interval, share_interval


def clamp_feature(vlm: Vlm, sae: Sae, feature: int, prompts: pd.DataFrame, margin: Tensor, seed: int) -> Clamped:
    """Compare the model with the feature at zero with the model as it is, whose margins are `margin` [n prompts]."""
    with clamped(vlm, [make_clamp(sae, feature, 0.0, "final", vlm.device)]):
        held = measure(vlm, prompts, description="feature at zero").margin
    pairs = pair_table(prompts)
    patients = pairs.groupby("question")["patient"].first().tolist()
    before, after = (_flipped_questions(pairs, each.numpy()) for each in (margin, held))
    answered = prompts["answer"].notna().to_numpy()
    yes = (prompts["answer"] == "yes").to_numpy()
    right_before, right_after = (((each.numpy() > 0) == yes)[answered].astype(float) for each in (margin, held))
    known = prompts["patient"][answered].tolist()
    change = mean_interval(right_after - right_before, known, seed) if known else UNDEFINED
    return Clamped(
        flip_rate_before=interval_of(share_interval(before, patients, seed)),
        flip_rate_after=interval_of(share_interval(after, patients, seed)),
        flip_rate_change=interval_of(mean_interval(after - before, patients, seed)),
        accuracy_change=interval_of(change),
    )


def _flipped_questions(pairs: pd.DataFrame, margin: NDArray[np.float32]) -> NDArray[np.float64]:
    """Whether each question has a flip, 1 or 0, in the order of the questions: [questions]."""
    flipped = (margin[pairs["original"]] > 0) != (margin[pairs["paraphrase"]] > 0)
    return pairs.assign(flipped=flipped).groupby("question")["flipped"].any().to_numpy(float)
