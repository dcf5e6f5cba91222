"""Images of other patients, to show in place of a question's own image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def other_patients_images(
    images: Sequence[str], patients: Sequence[str], rng: np.random.Generator, count: int = 1
) -> NDArray[np.object_]:
    """`count` images of other patients for each of n questions: [n, count], None if there is no other patient.

    `images` and `patients` [n] are those of the questions. All other patients are equally likely, however many images
    they have. If there are at least `count` of them, the images of a row are of different patients.
    """
    images_of: dict[str, list[str]] = {}
    for patient, image in sorted(set(zip(patients, images, strict=True))):
        images_of.setdefault(patient, []).append(image)
    names = list(images_of)
    place = {name: i for i, name in enumerate(names)}
    chosen = np.full((len(images), count), None, dtype=object)
    others = len(names) - 1
    if not others:
        return chosen
    for row, patient in enumerate(patients):
        picks = rng.choice(others, size=count, replace=others < count)
        for k, pick in enumerate(picks):
            own = images_of[names[pick + (pick >= place[patient])]]
            chosen[row, k] = own[rng.integers(len(own))]
    return chosen
