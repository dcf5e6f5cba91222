"""Where adapters lie and what is said about them: hub ids, checkpoints, whole models, other bases, unknown prompts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import read_rows, write_rows
from finetune_world import awaken, make_world
from test_foreign_adapters import edit, plain, save

from finetune.evaluation.run import evaluate_saved
from finetune.evaluation.settings import EvaluationSettings
from finetune.grounding.settings import GroundingSettings
from finetune.grounding.study import load_study
from finetune.lora.locate import Given, locate_adapter
from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.training.run import train_and_evaluate
from interp.model.load import load_vlm
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.errors import InputError
from interp.storage.hub import locate_any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SETTINGS = EvaluationSettings(new_tokens=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("places") / "world", patients=4)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "adapter"
    settings = TrainSettings(rank=2, alpha=4, epochs=1, lr=1e-2)
    train_and_evaluate(ModelSpec(world.model, device="cpu"), DataSpec(world.questions), out, settings, layers="1-2")
    return out


@pytest.fixture
def adapter(world, tmp_path):
    """An adapter that plain peft made."""
    save(world, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Copy a folder into a hub cache under a name, in a folder of the repository or not; the network is forbidden."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def copy(folder, repo, inside=""):
        root = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        shutil.copytree(folder, root / "snapshots" / COMMIT / inside, dirs_exist_ok=True)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(COMMIT)
        return root / "snapshots" / COMMIT / inside

    return copy


def evaluated(world, adapters, model=None, **fields):
    return evaluate_saved(adapters, DataSpec(world.questions), ModelSpec(model, device="cpu", **fields), SETTINGS)


def numbers(evaluation, arm):
    """Everything that was measured of an arm, without its name."""
    found = [each for each in evaluation.comparisons if each.arm == arm and each.reference == "base"]
    assert found
    return [each.model_dump(exclude={"arm"}) for each in found]


def test_a_hub_id_is_an_adapter(world, adapter, put):
    there = put(adapter, "saillab/medgemma-4b-targeted-lora-mimic-mt-12k")
    assert locate_adapter("saillab/medgemma-4b-targeted-lora-mimic-mt-12k") == Given(there, False)
    found = evaluated(world, [Path("saillab/medgemma-4b-targeted-lora-mimic-mt-12k")])
    expected = evaluated(world, [adapter])
    assert list(found.arms) == ["base", "medgemma-4b-targeted-lora-mimic-mt-12k"]
    assert numbers(found, found.shown[0]) == numbers(expected, "adapter")


def test_a_folder_of_a_repository_is_an_adapter(world, adapter, put):
    there = put(adapter, "me/runs", "seed-0/final")
    inside, page = "seed-0/final", "https://huggingface.co/me/runs"
    for given in (f"me/runs/{inside}", f"me/runs/{inside}/", Path(f"{page}/{inside}"), f"{page}/tree/main/{inside}"):
        assert locate_adapter(given) == Given(there, False)
    with pytest.raises(InputError, match="holds no adapter in a folder 'seed-1'"):
        locate_adapter("me/runs/seed-1")


def test_a_hub_id_that_is_not_there_says_how_to_get_it(put):
    with pytest.raises(InputError, match="hf download me/absent"):
        locate_adapter("me/absent")


@pytest.mark.parametrize("given", ["absent", "/absent/adapter", "./me/adapter", "me/../adapter/.."])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(given, put):
    with pytest.raises(InputError, match=r"no such folder|no adapter|not in the local cache"):
        locate_adapter(given)


def test_a_misspelt_folder_is_no_hub_id(adapter, tmp_path, monkeypatch, put):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(adapter, "artifacts/adapter")
    for given in ("artifacts/adaptor", "./artifacts/adaptr", str(tmp_path / "artifacts/adapters")):
        with pytest.raises(InputError, match=r"no such folder.* Did you mean .*artifacts/adapter\?"):
            locate_adapter(given)
    with pytest.raises(InputError, match="there is a folder artifacts here"):
        locate_adapter("artifacts/runs/seed-0")
    put(adapter, "artifacts/other")
    assert not locate_adapter("artifacts/other").is_model, "the cache has it"
    with pytest.raises(InputError, match=r"Did you mean artifacts/adapter\?"):
        locate_any("artifacts/adaptor")


def test_a_folder_with_one_checkpoint_stands_for_it(world, adapter, tmp_path, capsys):
    shutil.copytree(adapter, tmp_path / "out" / "checkpoint-500")
    (tmp_path / "out" / "runs").mkdir()
    assert locate_adapter(tmp_path / "out") == Given(tmp_path / "out" / "checkpoint-500", False)
    assert "the adapter is that in its folder checkpoint-500" in capsys.readouterr().err
    assert list(evaluated(world, [tmp_path / "out"]).arms) == ["base", "out"]


def test_of_several_checkpoints_one_must_be_given(adapter, tmp_path):
    for step in (500, 1000, 90):
        shutil.copytree(adapter, tmp_path / "out" / f"checkpoint-{step}")
    with pytest.raises(InputError, match=r"holds 3 adapters \(checkpoint-90, .*Give one .*out/checkpoint-1000\."):
        locate_adapter(tmp_path / "out")


@pytest.mark.parametrize("again", ["run", "run/../run/checkpoint-5", "link"])
def test_an_adapter_given_twice_in_different_ways_is_refused(world, adapter, tmp_path, again):
    shutil.copytree(adapter, tmp_path / "run" / "checkpoint-5")
    (tmp_path / "link").symlink_to(tmp_path / "run" / "checkpoint-5")
    with pytest.raises(InputError, match="The same adapter is given twice"):
        evaluated(world, [tmp_path / "run" / "checkpoint-5", tmp_path / again], world.model)


def test_the_adapter_of_a_folder_comes_before_its_checkpoints(adapter, tmp_path):
    shutil.copytree(adapter, adapter / "checkpoint-500")
    assert locate_adapter(adapter) == Given(adapter, False)


def test_a_base_is_given_where_the_configuration_names_none(world, adapter):
    edit(adapter, base_model_name_or_path=None)
    with pytest.raises(InputError, match=r"names no base model\. Give one with --model"):
        evaluated(world, [adapter])
    found = evaluated(world, [adapter], world.model)
    assert any("does not say on which base" in said for said in found.verdicts["adapter"].warnings)


@pytest.fixture
def merged(world, adapter, tmp_path):
    """The model with the adapter merged into it, by plain peft."""
    from peft import PeftModel

    PeftModel.from_pretrained(plain(world), adapter).merge_and_unload().save_pretrained(tmp_path / "merged")
    for path in world.model.iterdir():
        if not (tmp_path / "merged" / path.name).exists():
            shutil.copy(path, tmp_path / "merged" / path.name)
    return tmp_path / "merged"


def test_a_merged_model_is_an_arm_and_equals_its_adapter(world, adapter, merged, put):
    put(merged, "me/merged")
    found = evaluated(world, [adapter, merged, Path("me/merged-hub")][:2], world.model)
    assert list(found.arms) == ["base", "adapter", "merged"]
    assert found.verdicts["merged"].warnings == ["merged is a whole model in place of an adapter."]
    for one, other in zip(numbers(found, "adapter"), numbers(found, "merged"), strict=True):
        assert one["measure"] == other["measure"]
        for part in ("before", "after", "difference"):
            if one[part]["value"] is not None:
                assert other[part]["value"] == pytest.approx(one[part]["value"], abs=1e-3)
    # In any order, alone, and by a hub id.
    for adapters in ([merged, adapter], [merged], [Path("https://huggingface.co/me/merged")]):
        again = evaluated(world, adapters, world.model)
        assert numbers(again, "merged") == numbers(found, "merged")
        if adapter in adapters:
            assert numbers(again, "adapter") == numbers(found, "adapter")


def test_a_whole_model_needs_a_base(world, merged):
    with pytest.raises(InputError, match=r"names no base to compare it with\. Give the base with --model"):
        evaluated(world, [merged])


def warnings_of(evaluation):
    said = evaluation.verdicts[evaluation.shown[0]].warnings
    for sentence in said:
        assert sentence in evaluation.sentences
        assert sentence in json.loads(evaluation.to_json())["verdict"]
    return " ".join(said)


def test_nothing_is_said_of_an_adapter_with_its_record_and_base(world, trained):
    assert warnings_of(evaluated(world, [trained])) == ""
    assert warnings_of(evaluated(world, [trained], world.model)) == ""


def test_a_grounding_study_says_nothing_of_an_adapter_with_its_record_and_base(world, trained, tmp_path, capsys):
    boxed = tmp_path / "boxed.jsonl"
    write_rows(boxed, [row | {"boxes": [[2, 2, 9, 9]]} for row in read_rows(world.questions)])
    data, settings = DataSpec(boxed, world.questions.parent), GroundingSettings(any_answer=True, limit=1)
    loaded = load_study(trained, data, ModelSpec(device="cpu"), settings)
    assert loaded.adapted is not None
    assert capsys.readouterr().err == ""


def test_a_copy_of_the_base_is_the_base(world, trained, tmp_path):
    shutil.copytree(world.model, tmp_path / "elsewhere")
    assert warnings_of(evaluated(world, [trained], tmp_path / "elsewhere")) == ""


def test_other_weights_of_the_same_name_are_another_base(world, trained, tmp_path):
    adapted = add_lora(load_vlm(world.model, "cpu", "float32"), [0])
    awaken(adapted)
    shutil.copytree(world.model, tmp_path / "model")
    adapted.merge_and_unload().save_pretrained(tmp_path / "model")
    said = warnings_of(evaluated(world, [trained], tmp_path / "model"))
    assert "was trained on another base: the weights of model are not those that its folder records" in said


def test_an_adapter_of_a_base_of_another_name(world, adapter):
    edit(adapter, base_model_name_or_path="google/medgemma-4b-it")
    said = warnings_of(evaluated(world, [adapter], world.model))
    assert "adapter records another base, google/medgemma-4b-it, but is evaluated on model." in said


def test_an_adapter_without_a_record_is_asked_in_the_plain_style(world, adapter):
    said = warnings_of(evaluated(world, [adapter]))
    assert "adapter has no record of its training (gatescope.json)" in said
    assert "it is asked in the plain style" in said
    assert "another base" not in said
    styled = warnings_of(evaluated(world, [adapter], system="You are a radiologist."))
    assert "it is asked in the style of this evaluation" in styled


def test_unknown_settings_are_named(world, adapter):
    edit(adapter, group_size=16)
    assert "peft does not know the following settings of adapter: group_size = 16." in warnings_of(
        evaluated(world, [adapter])
    )


def test_saved_processor_files_name_no_place(world, trained):
    for path in trained.iterdir():
        if path.suffix in (".json", ".jinja") and path.name not in ("adapter_config.json",):
            assert str(world.model.parent) not in path.read_text(), path.name
            assert "is_local" not in path.read_text(), path.name
