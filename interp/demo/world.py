"""Writes the embedded world's data: PNG radiographs and a JSON Lines file of questions with paraphrases."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from interp.demo.phrasings import Wording, changed_phenomenon, sample_wordings, wordings
from interp.demo.radiographs import FINDINGS, Anatomy, draw, sample_anatomy
from interp.demo.sample_cases import sample_cases

FAINTEST, STRONGEST = 0.3, 1.2  # contrast of a finding [lung-to-tissue steps]
NOISE = 0.05  # standard deviation of the pixel noise on a 0-1 scale
PATIENTS = {"train": 420, "test": 320}
PARAPHRASES = 4


def sample_images(n: int, rng: np.random.Generator) -> tuple[Anatomy, np.ndarray, np.ndarray]:
    """Draw `n` patients: their true findings, and images and boxes as in `radiographs.draw`."""
    anatomy = sample_anatomy(n, rng, FAINTEST, STRONGEST)
    return anatomy, *draw(anatomy, rng, NOISE)


def write_world(folder: Path, seed: int) -> None:
    """Write `questions.jsonl` and `images/` for the patients of both splits.

    In the test split, half of the questions use only held-out wordings, which no training shows.
    """
    from PIL import Image

    rng = np.random.default_rng([seed, 1])
    (folder / "images").mkdir(parents=True)
    lines = []
    for split, count in PATIENTS.items():
        anatomy, images, boxes = sample_images(count, rng)
        for patient in range(count):
            name = f"{split[:2]}{patient:04d}"
            Image.fromarray(images[patient]).save(folder / "images" / f"{name}.png", optimize=True)
            for number, case in enumerate(sample_cases(anatomy, patient, rng)):
                held_out = split == "test" and bool(rng.random() < 0.5)
                words = sample_wordings(wordings(case.type, case.finding, held_out), 1 + PARAPHRASES, rng)
                lesion = boxes[patient, FINDINGS.index(case.finding)] if case.finding else None
                lines.append(_row(name, split, number, case, words, lesion))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "questions.jsonl").write_text(text, encoding="utf-8")


def _row(name: str, split: str, number: int, case: Any, words: list[Wording], lesion: np.ndarray | None) -> dict:
    shown = lesion is not None and not np.isnan(lesion).any()
    return {
        "id": f"{name}-{number}",
        "image": f"images/{name}.png",
        "patient": name,
        "type": case.type,
        "question": words[0].text,
        "register": words[0].register,
        "answer": case.answer,
        "paraphrases": [
            {"text": w.text, "phenomenon": changed_phenomenon(words[0], w), "register": w.register} for w in words[1:]
        ],
        "boxes": [[round(float(v), 1) for v in lesion]] if shown and lesion is not None else [],
        "split": split,
    }
