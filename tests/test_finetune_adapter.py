import json
import os
import shutil
from hashlib import scrypt

import pytest
import torch
from finetune_world import awaken, make_world, plain_logits

from finetune.evaluation.run import evaluate_saved
from finetune.evaluation.settings import EvaluationSettings
from finetune.lora.adapter_folder import base_of, load_adapter, read_record
from finetune.lora.modules import add_lora
from finetune.lora.seen_texts import salt_of, shown, text_hash, text_hashes
from finetune.lora.settings import TrainSettings
from finetune.training.run import train_and_evaluate
from interp.model.load import load_vlm
from interp.model.spec import ModelSpec
from interp.questions.files import load_questions
from interp.questions.spec import DataSpec
from interp.questions.tables import fingerprint
from interp.runtime.errors import InputError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("adapter") / "world", patients=6)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "deep" / "adapter"
    settings = TrainSettings(rank=4, alpha=8, epochs=2, lr=1e-2, seed=7)
    evaluation = train_and_evaluate(
        ModelSpec(world.model, device="cpu"), DataSpec(world.questions), out, settings, layers="1-2"
    )
    return out, evaluation


def test_plain_transformers_and_peft_load_it(world, trained):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    folder, _ = trained
    ours = load_vlm(world.model, "cpu", "float32")
    load_adapter(ours, folder)
    plain = AutoModelForImageTextToText.from_pretrained(world.model)
    adapted = PeftModel.from_pretrained(plain, folder).eval()
    untouched = load_vlm(world.model, "cpu", "float32")
    with torch.no_grad():
        for q in load_questions(world.questions)[:8]:
            found = plain_logits(adapted, ours.processor, q.image, q.question)
            expected = plain_logits(ours.model, ours.processor, q.image, q.question)
            base = plain_logits(untouched.model, ours.processor, q.image, q.question)
            assert torch.allclose(found, expected, atol=1e-5)
            assert not torch.allclose(found, base, atol=1e-3)


def test_a_saved_adapter_keeps_every_weight(world, tmp_path):
    adapted = add_lora(load_vlm(world.model, "cpu", "float32"), [0, 2], rank=3)
    awaken(adapted)
    adapted.save_pretrained(str(tmp_path))
    loaded = load_adapter(load_vlm(world.model, "cpu", "float32"), tmp_path)
    weights = {name: p for name, p in loaded.named_parameters() if "lora_" in name}
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            assert torch.equal(parameter, weights[name]), name


def test_an_older_folder_is_read(world, trained, tmp_path):
    """Folders from before manifests, provenance and salted hashes, and from when modules and ranks could be chosen."""
    folder = tmp_path / "older"
    shutil.copytree(trained[0], folder)
    (folder / "manifest.json").unlink()
    content = json.loads((folder / "gatescope.json").read_text())
    del content["provenance"]
    content["settings"] |= {"modules": "mlp", "allocation": "weighted"}
    content["text_hashes"] = ["ab" * 8]
    (folder / "gatescope.json").write_text(json.dumps(content))
    record = read_record(folder)
    assert (record.schema_version, record.provenance, record.layers) == (1, None, read_record(trained[0]).layers)
    load_adapter(load_vlm(world.model, "cpu"), folder)


def test_the_folder_and_its_record(world, trained):
    folder, evaluation = trained
    names = {path.name for path in folder.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "gatescope.json",
        "evaluation.json",
        "history.csv",
    } <= names
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"], "nothing half-written beside it"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(world.model) == base_of(folder)
    record = read_record(folder)
    taught = load_questions(world.questions, split="train")
    assert (record.layers, record.layers_from, record.model.id) == ([1, 2], "--layers 1-2", "model")
    assert record.settings["seed"] == 7
    assert (record.questions, record.patients, record.data) == (len(taught), 3, fingerprint(taught))
    texts = {t for q in taught for t in (q.question, *(p.text for p in q.paraphrases))}
    salt = salt_of(record.text_hashes[0])
    assert set(record.text_hashes) <= {text_hash(t, salt) for t in texts}
    assert {text_hash(q.question, salt) for q in taught} <= set(record.text_hashes)
    assert record.text_hashes == sorted(record.text_hashes)
    assert record.last_loss < record.first_loss
    history = (folder / "history.csv").read_text().splitlines()
    assert history[0] == "step,epoch,lr,loss,ce,kl,grounding,grad_norm"
    assert len(history) == 1 + record.steps == 1 + 2 * 3
    assert (folder / "evaluation.json").read_text() == evaluation.to_json()
    for path in folder.iterdir():
        assert not any(text.encode() in path.read_bytes() for text in texts), path


def test_hashes_of_texts_are_slow_salted_and_recognised():
    texts = ["Is it here?", " IS IT HERE?\n", "Any fluid?"]
    first, other = text_hashes(texts), text_hashes([*texts, "More?"])
    # Computed as in RFC 7914; no hash alone shows that two adapters have a text in common.
    salt = salt_of(first[0])
    by_hand = scrypt(b"is it here?", salt=salt.encode(), n=256, r=8, p=1, dklen=8).hex()
    assert f"{salt}${by_hand}" in first
    assert len(first) == 2
    assert not {entry.partition("$")[2] for entry in first} & {entry.partition("$")[2] for entry in other}
    asked = ["is it here?", "is  it here?", "More?", "Any fluid?"]
    assert shown(asked, first).tolist() == [True, False, False, True]
    assert shown(asked, {*first, *other}).tolist() == [True, False, True, True]
    # Older adapters, without a salt.
    assert shown(asked, {text_hash("Any fluid?")}).tolist() == [False, False, False, True]
    assert not shown(asked, set()).any()


def test_evaluating_it_again_gives_the_same_numbers(world, trained):
    folder, evaluation = trained
    again = evaluate_saved([folder], DataSpec(world.questions), ModelSpec(device="cpu"), EvaluationSettings(seed=7))
    assert again.sentences == evaluation.sentences
    first, second = (table.select_dtypes("number").to_numpy() for table in (evaluation.table(), again.table()))
    assert second == pytest.approx(first, abs=1e-4, nan_ok=True)


def test_an_adapter_from_elsewhere_has_no_record(world, tmp_path):
    add_lora(load_vlm(world.model, "cpu", "float32"), [1]).save_pretrained(str(tmp_path / "plain"))
    found = evaluate_saved([tmp_path / "plain"], DataSpec(world.questions), ModelSpec(device="cpu"))
    assert read_record(tmp_path / "plain") is None
    assert "phrasings" not in {c.kind for c in found.comparisons}


def test_an_adapter_of_another_size_is_refused(world, trained, tmp_path):
    other = make_world(tmp_path / "other", patients=2, width=64)
    with pytest.raises(InputError, match="does not fit"):
        load_adapter(load_vlm(other.model, "cpu", "float32"), trained[0])


def test_an_adapter_for_layers_that_the_model_lacks_is_refused(trained, tmp_path):
    other = make_world(tmp_path / "other", patients=2, layers=2)
    with pytest.raises(InputError, match="does not fit"):
        load_adapter(load_vlm(other.model, "cpu", "float32"), trained[0])


@pytest.mark.parametrize("damage", ["weights missing", "weights cut", "newer record", "broken record"])
def test_damaged_adapters_are_refused(world, trained, tmp_path, damage):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in trained[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights, record = folder / "adapter_model.safetensors", folder / "gatescope.json"
    if damage == "weights missing":
        weights.unlink()
    elif damage == "weights cut":
        os.truncate(weights, 100)
    elif damage == "newer record":
        record.write_text(json.dumps(json.loads(record.read_text()) | {"schema_version": 99}))
    else:
        record.write_text("{")
    with pytest.raises(InputError, match=str(folder)):
        evaluate_saved([folder], DataSpec(world.questions), ModelSpec(device="cpu"))
