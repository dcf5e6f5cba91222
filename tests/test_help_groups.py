"""Help pages group their options, and a command that was given a path says what was probably meant."""

import re

import pytest

SECTION = re.compile(r"^([A-Z][A-Za-z ]+):$", re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "first"), [(["interp", "find-features"], "--layers"), (["finetune", "evaluate"], "adapters")]
)
def test_options_are_in_groups_and_each_is_listed_once(called, command, first):
    code, page, _ = called(*command, "--help")
    assert code == 0
    titles = SECTION.findall(page)
    assert titles[-1] == "Advanced options"
    assert {"Options", "Data options", "Model options", "SAE options", "Output options"} <= set(titles)
    body = page[page.index(f"{titles[0]}:") :]
    assert first in body[: body.index("Data options:")]
    model = page[page.index("Model options:") :].split("options:")[1]
    assert "--model" in model
    assert "--saes" not in model
    named = re.findall(r"^  (?:-\w, )?(--[\w-]+)", body, re.MULTILINE)
    assert len(named) == len(set(named)) > 15


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["finetune", "./adapter"], "`finetune evaluate ./adapter`"),
        (["finetune", "eval"], "Did you mean `finetune evaluate`?"),
        (["interp", "artifacts/"], "`interp report artifacts/`"),
        (["interp", "find-feature"], "Did you mean `interp find-features`?"),
        (["interp", "xyz"], "It has find-features, "),
    ],
)
def test_a_word_that_is_no_command(called, arguments, told):
    code, _, error = called(*arguments)
    assert code == 2
    assert told in error


def test_questions_that_cannot_flip_are_counted(called, own_data):
    from conftest import read_rows, write_rows

    rows = read_rows(own_data / "questions.jsonl")
    write_rows(own_data / "questions.jsonl", [row | {"paraphrases": []} for row in rows])
    given = ("--questions", own_data / "questions.jsonl", "--split", "all", "--out", own_data / "run")
    code, _, error = called("interp", "find-features", *given)
    assert code == 2
    assert "Of 12 questions, 12 ask for yes or no and 0 have paraphrases" in error
    assert "`interp paraphrase" in error


def test_a_benchmark_takes_its_models_as_arguments_only(called):
    code, said, _ = called("finetune", "benchmark", "--help")
    assert code == 0
    assert not re.search(r"--model\b", said)
    assert "--tolerance" in said
