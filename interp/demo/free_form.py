"""Free-form wordings: questions as clinicians and patients write them, which no template made.

Each line of `free_form.jsonl` was written by hand. It asks for the same as the canonical question of its topic, in one
register, and differs from that question mainly by one of PSF-Med's phenomena. A third of the wordings, fixed by the
hash of their text, may be shown in training; the others never are.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interp.questions.registers import REGISTERS

CANONICAL = {
    "cardiomegaly": "Is there cardiomegaly?",
    "effusion": "Is there pleural effusion?",
    "pneumothorax": "Is there pneumothorax?",
    "opacity": "Is there a lung opacity?",
    "abnormality": "Is there an abnormality?",
}
"""Topic -> its question in the canonical form of `interp.questions.canonical`."""
PER_REGISTER = 2
"""Free-form paraphrases of each register that a question gets."""
TUNING_SHARE = 3
"""One in so many wordings is for tuning."""


class FreeForm(NamedTuple):
    """A wording that was written by hand."""

    topic: str
    """What it asks about: a finding of the embedded world or "abnormality"."""
    register: str
    """Its tone, one of REGISTERS."""
    phenomenon: str
    """What mainly distinguishes it from the canonical question, in PSF-Med's terms."""
    text: str
    """The wording."""

    @property
    def for_tuning(self) -> bool:
        """Whether training may show it."""
        return int(hashlib.sha256(self.text.encode()).hexdigest()[:8], 16) % TUNING_SHARE == 0


@cache
def free_form_wordings(tuning: bool) -> tuple[FreeForm, ...]:
    """The wordings that training may show, or those that it never shows."""
    lines = Path(__file__).with_name("free_form.jsonl").read_text(encoding="utf-8").splitlines()
    found = (FreeForm(**json.loads(line)) for line in lines)
    return tuple(wording for wording in found if wording.for_tuning == tuning)


def free_form_row(row: dict[str, Any], finding: str | None, rng: np.random.Generator) -> dict[str, Any]:
    """The closed question of a row of `questions.jsonl`, asked canonically and in free form.

    `finding` is what the row asks about; None if it asks about any abnormality. The paraphrases are drawn from those
    that training never shows, PER_REGISTER of each register.
    """
    topic = finding or "abnormality"
    drawn: list[FreeForm] = []
    for register in REGISTERS:
        options = [w for w in free_form_wordings(tuning=False) if (w.topic, w.register) == (topic, register)]
        drawn += [options[i] for i in rng.choice(len(options), PER_REGISTER, replace=False)]
    paraphrases = [{"text": w.text, "phenomenon": w.phenomenon, "register": w.register} for w in drawn]
    asked = {name: value for name, value in row.items() if name != "register"}
    return asked | {"question": CANONICAL[topic], "paraphrases": paraphrases}
