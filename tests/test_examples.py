"""The examples in the docstrings of all public names, run as one session, and the ten lines of notebooks/README.md."""

import doctest
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import finetune
import interp

ORDER = (
    "load_vlm",
    "load_questions",
    "prompt_table",
    "measure",
    "answer_margin",
    "locate_saes",
    "load_sae",
    "find_features",
    "save_result",
    "study_feature",
    "train_and_evaluate",
    "evaluate_saved",
    "save_evaluation",
    "study_grounding",
    "ablate_saved",
)
"""Examples that others continue, in the order of a session; the other ones come after them."""
PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name) for package in (interp, finetune) for name in package.__all__
}


def rank(name: str) -> tuple[int, str]:
    short = name.split(".")[1]
    return (ORDER.index(short) if short in ORDER else len(ORDER)), name


class Session(NamedTuple):
    """All examples, after they were run in one namespace and one folder."""

    said: dict[str, str]
    """Name -> what was wrong with its example; empty if nothing."""
    space: dict[str, Any]
    """The namespace."""
    folder: Path
    """The folder."""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    said, parser = {}, doctest.DocTestParser()
    space = {"interp": interp, "finetune": finetune, "torch": torch}
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in sorted(PUBLIC, key=rank):
            example = parser.get_doctest(inspect.getdoc(PUBLIC[name]) or "", space, name, None, 0)
            example.globs = space
            if example.examples:
                wrong = []
                runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
                runner.run(example, out=wrong.append, clear_globs=False)
                said[name] = "".join(wrong)
    return Session(said, space, folder)


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - {"interp.WORLD"}))
def test_every_public_name_has_an_example_that_runs(name, session):
    assert name in session.said, "its docstring has no example (>>>)"
    assert not session.said[name], session.said[name]


README = (Path(__file__).parents[1] / "notebooks" / "README.md").read_text()
ANSWERS = dict(re.findall(r"^\| ([^|]+\?) \| `([^`]+)` \|$", README, re.MULTILINE))
"""Question of a user -> the line that answers it."""
FACTS = {
    "What do my questions allow to be measured?": lambda about: about.questions == 240,
    "Which questions flip, and how far?": lambda flips: flips["flipped"].all() and {"original", "text"} <= set(flips),
    "Is there a gate, and which layers should I train?": lambda found: set(found[1]) == {4, 5},
    "What does a feature fire on?": lambda wordings: wordings["mean_activation"].iloc[0] > 20,
    "Does it cause the flips, and more than chance?": lambda test: test.recovery.value > test.random,
    "Do SAEs of another model fit mine?": lambda table: table["layer"].tolist() == [5, 6],
    "Which questions did the adapter break?": lambda items: "text" in items and items["flipped_after"].all(),
    "Is the adapter better, and does it still look at the image?": lambda said: "text-only agreement" in said[0],
    "What does holding a feature at zero do?": lambda said: "clamp 5:466" in said[0],
    "What changed between two runs?": lambda table: (table["difference"] == 0).all(),
}
"""Question -> whether an answer is one, on the results of the examples."""


@pytest.mark.parametrize("question", FACTS)
def test_a_line_of_the_readme_answers_a_question(question, session, monkeypatch):
    monkeypatch.chdir(session.folder)
    if not Path("run-2").exists():
        interp.save_result(session.space["result"], "run-2", interp.ItemsKept(keep=True))
    space = session.space | {"saes": interp.WORLD / "saes", "data": interp.DataSpec(limit=3)}
    assert FACTS[question](eval(ANSWERS[question], space))


def test_every_question_of_the_readme_is_tried():
    assert set(ANSWERS) == set(FACTS)
    assert len(FACTS) == 10
