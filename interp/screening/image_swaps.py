"""Prompts under the image of another patient: what the image changes at the final token, with the same words."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interp.images.decode import BLANK_IMAGE
from interp.images.other_patients import other_patients_images

AN_IMAGE = 25
"""Most prompts of one image, so that no few images make up the sample."""


def swap_images(
    prompts: pd.DataFrame, patients: Collection[str], count: int, seed: int
) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """Row positions [n] of some prompts of `patients`, and these prompts with the image of another of them.

    The wordings of the questions about an image, at most AN_IMAGE of them, move to the same other image, so that they
    share its prefix. Images are added in random order until there are `count` prompts. Without another patient, the
    image is blank.
    """
    rng = np.random.default_rng([seed, 19])
    asked = prompts["patient"].isin(list(patients)).to_numpy()
    images = prompts.loc[asked, ["image", "patient"]].drop_duplicates("image").sample(frac=1, random_state=rng)
    others = other_patients_images(images["image"].tolist(), images["patient"].tolist(), rng)[:, 0]
    other_of = {image: BLANK_IMAGE if o is None else o for image, o in zip(images["image"], others, strict=True)}
    rows_of = prompts.assign(row=np.arange(len(prompts)))[asked].groupby("image")["row"]
    rows_of = {image: rows.to_numpy() for image, rows in rows_of}
    rows = list[int]()
    for image in other_of:
        if len(rows) >= count:
            break
        own = rows_of[image]
        rows += own.tolist() if len(own) <= AN_IMAGE else rng.choice(own, AN_IMAGE, replace=False).tolist()
    chosen = np.array(rows, dtype=np.int64)
    swapped = prompts.iloc[chosen].reset_index(drop=True)
    return chosen, swapped.assign(image=swapped["image"].map(other_of))
