"""The examples in the docstrings of all public names, run as one session; and what `interp` and `finetune` accept."""

import doctest
import inspect

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


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> dict[str, str]:
    """Name -> what was wrong with its example, if it has one; all run in one namespace and one folder."""
    told: dict[str, str] = {}
    parser = doctest.DocTestParser()
    space = {"interp": interp, "finetune": finetune, "torch": torch}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        for name in sorted(PUBLIC, key=rank):
            example = parser.get_doctest(inspect.getdoc(PUBLIC[name]) or "", space, name, None, 0)
            example.globs = space
            if example.examples:
                said: list[str] = []
                runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
                runner.run(example, out=said.append, clear_globs=False)
                told[name] = "".join(said)
    return told


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - {"interp.WORLD"}))
def test_every_public_name_has_an_example_that_runs(name, session):
    assert name in session, "its docstring has no example (>>>)"
    assert not session[name], session[name]
