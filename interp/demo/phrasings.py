"""How people ask about a chest radiograph: frames and terms, by question type and register.

A wording is a frame whose slot is filled with a term. The last HELD_OUT frames of every list are held out from all
training; they give the test split its unseen wordings.
"""

from typing import NamedTuple

import numpy as np

from interp.questions.frames import LEXICAL, SCOPE, SYNTAX
from interp.questions.registers import REGISTERS

HELD_OUT = 3

TERMS = {
    "cardiomegaly": {
        "formal": ("cardiomegaly", "cardiac enlargement", "an enlarged cardiac silhouette"),
        "casual": ("a big heart", "an enlarged heart", "heart enlargement"),
    },
    "effusion": {
        "formal": ("pleural effusion", "a pleural fluid collection", "an effusion"),
        "casual": ("fluid in the chest", "lung fluid", "fluid around the lung"),
    },
    "pneumothorax": {
        "formal": ("pneumothorax", "a pneumothorax", "pleural air"),
        "casual": ("a collapsed lung", "air around the lung", "a lung collapse"),
    },
    "opacity": {
        "formal": ("a focal opacity", "a parenchymal opacity", "focal opacification"),
        "casual": ("a spot on the lung", "a shadow on the lung", "a white patch"),
    },
}

# A frame may name the phenomenon that it adds to a plain wording; most add none.
SPECIFICITY, NEGATION = "specificity_modulation", "negation_pattern"

FRAMES: dict[str, dict[str, tuple[str | tuple[str, str], ...]]] = {
    "presence": {
        "formal": (
            "Is there radiographic evidence of {x}?",
            "Does the examination demonstrate {x}?",
            "Please determine whether {x} is identified.",
            "Is {x} appreciated on the current study?",
            "Are findings consistent with {x} present?",
            "Does the radiograph reveal {x}?",
            ("Is there any degree of {x} identified on this examination?", SCOPE),
            ("Does the frontal chest radiograph demonstrate {x}?", SPECIFICITY),
            ("Is {x} present, or is it not identified?", NEGATION),
            "Kindly indicate whether {x} is demonstrated.",
            "Is the presence of {x} appreciated?",
            "Does this study demonstrate radiographic signs of {x}?",
            ("Is there evidence of {x} in either hemithorax?", SCOPE),
            # held out
            "Is {x} identified on the radiograph?",
            "Does the current examination reveal evidence of {x}?",
            ("Please indicate whether any degree of {x} is appreciated.", SCOPE),
        ),
        "casual": (
            "Any {x} here?",
            "Do you see {x}?",
            "Can you spot {x} in this pic?",
            "Does this look like {x}?",
            "Is there {x} in this one?",
            "Got {x}?",
            ("Is there {x} at all?", SCOPE),
            ("Is there {x} in this chest x-ray pic?", SPECIFICITY),
            ("So is there {x} or not?", NEGATION),
            "Have we got {x} here?",
            "Do they have {x}?",
            "Can you see {x} in here?",
            ("Even a little bit of {x}?", SCOPE),
            # held out
            "Do you spot {x} here?",
            "Does this one look like it has {x}?",
            ("Any {x} at all in this pic?", SCOPE),
        ),
    },
    "abnormality": {
        "formal": (
            "Is there radiographic evidence of an abnormality?",
            "Does the examination demonstrate any abnormality?",
            "Please determine whether an abnormality is identified.",
            "Is the current study abnormal?",
            "Are abnormal findings present?",
            ("Is any degree of abnormality appreciated on this examination?", SCOPE),
            ("Does the frontal chest radiograph demonstrate an abnormality?", SPECIFICITY),
            "Is the presence of an abnormality appreciated?",
            # held out
            "Does the radiograph reveal an abnormality?",
            "Is an abnormality identified on the current study?",
            "Kindly indicate whether abnormal findings are demonstrated.",
        ),
        "casual": (
            "Anything wrong here?",
            "Do you see anything wrong?",
            "Does this look bad?",
            "Is something off in this one?",
            "Can you spot anything wrong in this pic?",
            ("Anything wrong at all?", SCOPE),
            ("Is something wrong in this chest x-ray pic?", SPECIFICITY),
            "Got anything wrong here?",
            # held out
            "Is anything wrong in this pic?",
            "Do you spot something off here?",
            "Does this one look off?",
        ),
    },
    "view": {
        "formal": (
            "Which radiographic projection was obtained?",
            "Please indicate the projection of this study.",
            "In which projection was the examination acquired?",
            "What is the projection of the current radiograph?",
            "Kindly determine the radiographic projection.",
            # held out
            "Which projection was acquired for this examination?",
            "Please determine the projection of the radiograph.",
            "What projection is demonstrated on the current study?",
        ),
        "casual": (
            "What view is this?",
            "Which way was this pic taken?",
            "What kind of view have we got here?",
            "Is this one ap or pa?",
            "Which view is this pic?",
            # held out
            "What view is this one?",
            "Which view have we got?",
            "Which way was this one taken?",
        ),
    },
    "type": {
        "formal": (
            "What is the morphology of the opacity?",
            "Please characterize the morphology of the focal opacity.",
            "How is the parenchymal opacity characterized?",
            "Which morphology does the opacity demonstrate?",
            "Kindly indicate the type of the opacity.",
            # held out
            "Which type of opacity is demonstrated?",
            "Please indicate the morphology of the opacity.",
            "What is the morphology of the parenchymal opacity?",
        ),
        "casual": (
            "What kind of spot is it?",
            "What does the shadow look like?",
            "What kind of shadow is this?",
            "What type of spot have we got?",
            "How does the white patch look?",
            # held out
            "What kind of white patch is it?",
            "What does the spot look like?",
            "What type of shadow is it?",
        ),
    },
    "level": {
        "formal": (
            "What is the severity of {x}?",
            "Please grade the severity of {x}.",
            "To what degree is {x} demonstrated?",
            "Kindly indicate the degree of {x}.",
            "Which degree of severity does {x} demonstrate?",
            # held out
            "Please indicate the severity of {x}.",
            "What is the degree of {x}?",
            "Kindly grade the degree of {x}.",
        ),
        "casual": (
            "How bad is {x}?",
            "How much of {x} is there?",
            "Is {x} bad or just a little?",
            "How bad does {x} look?",
            "So how much {x} have we got?",
            # held out
            "How bad is {x} here?",
            "How much {x} is there in this one?",
            "So how bad does {x} look?",
        ),
    },
    "location": {
        "formal": (
            "In which hemithorax is {x} located?",
            "Please indicate the laterality of {x}.",
            "Which side demonstrates {x}?",
            "What is the laterality of {x}?",
            "Kindly determine the location of {x}.",
            # held out
            "Please determine the laterality of {x}.",
            "In which hemithorax is {x} demonstrated?",
            "What is the location of {x}?",
        ),
        "casual": (
            "Which side is {x} on?",
            "Where is {x}?",
            "Where do you see {x}?",
            "What side has {x}?",
            "Is {x} left or right?",
            # held out
            "Which side has {x}?",
            "Where do you spot {x}?",
            "What side is {x} on?",
        ),
    },
}


class Wording(NamedTuple):
    """A wording of a question."""

    text: str
    """The sentence."""
    register: str
    """Its tone, one of REGISTERS."""
    frame: int
    """Position of its frame in the list."""
    added: str | None
    """The phenomenon that the frame adds; None if it adds none."""


def wordings(type_: str, finding: str | None, held_out: bool) -> list[Wording]:
    """Every wording of a question of `type_` about `finding`, from the held-out frames only or from all others."""
    result = []
    for register in REGISTERS:
        frames = FRAMES[type_][register]
        cut = len(frames) - HELD_OUT
        for index, frame in enumerate(frames):
            if (index >= cut) == held_out:
                text, added = (frame, None) if isinstance(frame, str) else frame
                terms = TERMS[finding][register] if finding is not None and "{x}" in text else ("",)
                result += [Wording(_sentence(text.format(x=term)), register, index, added) for term in terms]
    return result


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def changed_phenomenon(original: Wording, paraphrase: Wording) -> str:
    """What a paraphrase changes about the original, in PSF-Med's terms."""
    if paraphrase.added is not None:
        return paraphrase.added
    if (original.register, original.frame) == (paraphrase.register, paraphrase.frame):
        return LEXICAL
    return SYNTAX


def sample_wordings(options: list[Wording], n: int, rng: np.random.Generator) -> list[Wording]:
    """Draw `n` different wordings in alternating registers, the first register at random."""
    first = int(rng.integers(2))
    piles = [[w for w in options if w.register == REGISTERS[(first + i) % 2]] for i in range(2)]
    piles = [[pile[i] for i in rng.permutation(len(pile))] for pile in piles]
    # The paraphrases alternate between the other register and that of the original.
    order = [0] + [1 if k % 2 else 0 for k in range(1, n)]
    taken = [0, 0]
    result = []
    for pile in order:
        if taken[pile] < len(piles[pile]):
            result.append(piles[pile][taken[pile]])
            taken[pile] += 1
    return result


def all_texts() -> list[str]:
    """Every wording of every question, for training the tokenizer."""
    texts = []
    for type_ in FRAMES:
        findings = [*TERMS] if any("{x}" in str(f) for f in FRAMES[type_]["formal"]) else [None]
        for finding in findings:
            for held_out in (False, True):
                texts += [w.text for w in wordings(type_, finding, held_out)]
    return list(dict.fromkeys(texts))
