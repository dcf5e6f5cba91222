"""`import interp` and `import finetune` are light and complete, and give the functions that the commands call."""

import inspect
import json
import pkgutil
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest
from layers_files import layers_document

import finetune
import interp
from finetune.lora.layers import read_choice
from interp.model.spec import given_model
from interp.questions.spec import given_data
from interp.schemas.layers import read_layers
from interp.search.result import FindResult

HEAVY = {"torch", "transformers", "pandas", "numpy", "pydantic", "sae_lens", "matplotlib", "scipy", "peft", "rich"}
PACKAGES = pytest.mark.parametrize("package", [interp, finetune], ids=lambda package: package.__name__)


def fresh(code: str) -> str:
    """The output of a new Python process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_imports_nothing_heavy():
    code = "import sys, json, interp, finetune; interp.InputError; interp.WORLD; dir(interp)"
    loaded = json.loads(fresh(f"{code}; print(json.dumps(list(sys.modules)))"))
    assert "interp.paths" in loaded
    assert not HEAVY & set(loaded)


@PACKAGES
def test_a_command_loads_nothing_heavy_before_it_runs(package):
    code = f"import sys, json, {package.__name__}.cli.app; print(json.dumps(list(sys.modules)))"
    assert not (HEAVY - {"rich"}) & set(json.loads(fresh(code)))


@PACKAGES
def test_scripts_that_release_0_1_installed_still_start(package):
    code = f"import sys; from {package.__name__}.cli import main; sys.argv = ['x', '--version']; main()"
    assert version("gatescope") in fresh(code)


@PACKAGES
def test_every_public_name_is_there(package):
    for name in package.__all__:
        value = getattr(package, name)
        assert value is not None
        assert name in dir(package)
        assert inspect.getdoc(value) or name == "WORLD"


@PACKAGES
def test_only_what_is_public_is_listed(package):
    assert dir(package) == sorted([*package.__all__])
    assert package.__version__ == version("gatescope")


@PACKAGES
def test_a_package_is_typed(package):
    assert (Path(package.__file__).parent / "py.typed").is_file()


@PACKAGES
def test_no_name_is_that_of_a_module(package):
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(package.__all__), "what such a name gives would depend on what was imported before"


@PACKAGES
def test_a_name_that_is_not_there_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"No {package.__name__} attribute find_gates"):
        _ = package.find_gates
    with pytest.raises(ImportError):
        exec(f"from {package.__name__} import find_gates")


def test_without_arguments_it_is_the_embedded_world():
    assert interp.load_vlm().name == "planted"
    assert interp.load_questions() == interp.load_questions(interp.WORLD / "questions.jsonl")


def test_saes_are_given_as_a_place_or_by_layer():
    vlm, questions = interp.load_vlm(dtype="float32"), interp.load_questions(split="train")[:60]
    by_place = interp.find_features(vlm, interp.WORLD / "saes", questions, layers=[4, 5])
    by_layer = interp.find_features(vlm, interp.locate_saes(interp.WORLD / "saes"), questions, layers=[4, 5])
    assert list(by_place.artifact.saes) == [4, 5]
    assert by_place.artifact == by_layer.artifact
    assert by_place.features.equals(by_layer.features)
    with pytest.raises(interp.InputError, match="no such folder"):
        interp.find_features(vlm, "no/such/place/saes", questions)


def test_data_is_a_file_a_specification_or_loaded_questions():
    both = [q for split in ("train", "test") for q in interp.load_questions(split=split)[:30]]
    file = interp.WORLD / "questions.jsonl"
    assert given_data(file) == interp.DataSpec(file)
    assert given_data(str(file)).load() == interp.DataSpec(str(file)).load() == interp.DataSpec().load()
    loaded = given_data(both)
    assert (loaded.load(), loaded.load_test()) == (both[:30], both[30:])
    assert loaded.load_splits() == ([q for q in both[:30] if q.answer is not None], both[30:])
    with pytest.raises(interp.InputError, match="None of the 30 questions given is in split 'test'"):
        given_data(both[:30]).load_test()
    with pytest.raises(interp.InputError, match="data is of type int"):
        given_data(3)


def test_a_model_is_a_folder_or_a_specification():
    assert given_model("some/model") == interp.ModelSpec("some/model")
    assert given_model(interp.WORLD) == interp.ModelSpec(interp.WORLD)
    assert given_model(interp.ModelSpec("x")) == interp.ModelSpec("x")
    with pytest.raises(interp.InputError, match="model is of type list"):
        given_model([])


def test_layers_are_text_numbers_a_file_a_folder_or_a_search(tmp_path):
    file = tmp_path / "layers.json"
    file.write_text(json.dumps(layers_document("m", 3, 8)))
    found = read_layers(file)
    chosen = [read_choice(None, source) for source in (file, str(file), tmp_path, found)]
    assert all(each == found for each in chosen)
    assert [read_choice(layers, None) for layers in ("1-2", [2, 1], (1,))] == ["1-2", "1-2", "1"]
    with pytest.raises(interp.InputError, match="layers holds 'a'"):
        read_choice(["a"], None)


def test_completion_offers_what_one_wants_and_no_internals():
    search = {name for name in dir(FindResult(*[None] * len(fields(FindResult)))) if name[0] != "_"}
    assert {"verdict", "layers", "profile", "features", "table", "flip_table", "plot_profile", "artifact"} <= search
    assert not {"top_activations", "top_recovery", "drawings"} & search
    evaluation = {name for name in dir(finetune.Evaluation.model_construct()) if name[0] != "_"}
    assert {"table", "items", "find", "sentences", "plot_changes", "to_json"} <= evaluation
    assert not {"dict", "copy", "parse_obj", "construct", "model_dump", "model_fields", "schema_json"} & evaluation


def test_tolerance_is_in_points_as_on_the_command_line():
    assert finetune.EvaluationSettings().tolerance == 5
    with pytest.raises(interp.InputError, match=r"0.05 percentage points.* A share of 0.05 is 5 points"):
        finetune.EvaluationSettings(tolerance=0.05)
