"""Writes the embedded world's data: PNG radiographs and JSON Lines files of questions with paraphrases."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from interp.demo.free_form import free_form_row
from interp.demo.phrasings import FRAMES, TERMS, Wording, changed_phenomenon, sample_wordings, wordings
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


def held_out_texts() -> set[str]:
    """The text of every wording that is held out from training."""
    asked = [(type_, finding) for type_ in FRAMES for finding in (None, *TERMS)]
    return {w.text for case in asked for w in wordings(*case, held_out=True)}


def write_world(folder: Path, seed: int) -> None:
    """Write `questions.jsonl` and `images/` for the patients of both splits.

    In the test split, half of the questions use only held-out wordings, which no training shows. The closed questions
    of this split are also written in free form (`interp.demo.free_form`), as `questions-free-form.jsonl`.
    """
    from PIL import Image

    rng, free_rng = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 6])
    (folder / "images").mkdir(parents=True)
    rows, free_form = [], []
    for split, count in PATIENTS.items():
        anatomy, images, boxes = sample_images(count, rng)
        for patient in range(count):
            name = f"{split[:2]}{patient:04d}"
            Image.fromarray(images[patient]).save(folder / "images" / f"{name}.png", optimize=True)
            for number, case in enumerate(sample_cases(anatomy, patient, rng)):
                held_out = split == "test" and bool(rng.random() < 0.5)
                words = sample_wordings(wordings(case.type, case.finding, held_out), 1 + PARAPHRASES, rng)
                lesion = boxes[patient, FINDINGS.index(case.finding)] if case.finding else None
                rows.append(_row(name, split, number, case, words, lesion))
                if split == "test" and case.answer in ("yes", "no"):
                    free_form.append(free_form_row(rows[-1], case.finding, free_rng))
    for name, written in (("questions.jsonl", rows), ("questions-free-form.jsonl", free_form)):
        text = "".join(json.dumps(row) + "\n" for row in written)
        (folder / name).write_text(text, encoding="utf-8")


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
