"""The card that the training writes into the folder of an adapter."""

import json
import re
from pathlib import Path

import pytest
import torch
from finetune_world import UNSEEN, WORDINGS, make_world, plain_logits
from huggingface_hub import ModelCard

from finetune.lora.adapter_folder import load_adapter, read_record
from finetune.lora.settings import TrainSettings
from finetune.publishing.card import Base, base_metadata, file_names_only, model_card, with_base
from finetune.training.run import train_and_evaluate
from interp.model.load import load_vlm
from interp.model.spec import ModelSpec
from interp.questions.files import load_questions
from interp.questions.spec import DataSpec
from interp.runtime.errors import InputError
from interp.schemas.layer_list import layers_text
from interp.schemas.layers import ModelEntry, PromptEntry

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SETTINGS = TrainSettings(rank=4, alpha=8, dropout=0.1, lr=1e-2, batch_size=6, epochs=2, consistency_weight=0.5, seed=7)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("card") / "world", patients=6)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "adapter"
    return out, train_and_evaluate(
        ModelSpec(world.model, device="cpu"), DataSpec(world.questions), out, SETTINGS, layers="1-2"
    )


def card_of(trained, **changes) -> str:
    """The card of the trained adapter with changes to its record."""
    folder, evaluation = trained
    return model_card(read_record(folder).model_copy(update=changes), evaluation)


def hub_model(name="google/medgemma-4b-it") -> ModelEntry:
    return ModelEntry(id=name, revision=COMMIT, n_layers=34, d_model=2560, dtype="bfloat16")


def tables(text: str) -> list[list[str]]:
    """The cells of every row of every table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_the_front_matter_of_a_local_base(trained):
    card = ModelCard.load(trained[0] / "README.md")
    assert card.data.to_dict() == {
        "library_name": "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": ["lora", "gatescope", "medical", "robustness"],
    }


def test_the_results_are_those_of_the_evaluation(trained):
    evaluation = json.loads((trained[0] / "evaluation.json").read_text())
    text = ModelCard.load(trained[0] / "README.md").text
    rows = {row[0]: row[1:] for row in tables(text)}
    overall = [c for c in evaluation["comparisons"] if c["kind"] == "all"]
    assert {c["measure"] for c in overall} > {"question_flip_rate", "accuracy", "text_only_agreement", "dangerous"}
    logits = ("margin_difference", "blank_margin", "opposite_margin_shift")
    units = dict.fromkeys(logits, " [logits]") | {"margin_dispersion": "", "margin_auc": ""}
    words = {"margin_auc": "margin AUC", "text_only_agreement": "text-only agreement"}
    words["first_token_accuracy"] = "first-token accuracy"
    for c in overall:
        unit = units.get(c["measure"], " [%]")
        scale, digits, form = (100, 1, ".1f") if unit == " [%]" else (1, 2, ".2f")
        p = "–" if c["p"] is None else "<\xa0.001" if c["p"] < 0.001 else f"{c['p']:.3f}".removeprefix("0")
        expected = [f"{c['n']:,}"]
        for arm, sign in (("before", ""), ("after", ""), ("difference", "+")):
            value, low, high = (
                None
                if (end := c[arm][name]) is None
                else f"{round(scale * end, digits) + 0.0:{sign}{form}}".replace("-", "−")
                for name in ("value", "low", "high")
            )
            shown = "–" if value is None else value
            expected.append(shown if low is None else f"{shown} [{low},\xa0{high}]")
        name = words.get(c["measure"], c["measure"].replace("text_only", "text-only").replace("_", " "))
        assert rows[name + unit] == [*expected, p]
    assert evaluation["verdict"] in text
    assert f"{evaluation['questions']} held-out questions of {evaluation['patients']} patients" in text
    assert evaluation["data"] in text


def test_a_collapse_is_told(trained):
    folder, evaluation = trained
    said = "Collapsed: adapter answers no to all 26 wordings of closed questions."
    card = model_card(read_record(folder), evaluation.model_copy(update={"collapsed": {"adapter": said}}))
    assert said in card
    assert said not in model_card(read_record(folder), evaluation.model_copy(update={"collapsed": {}}))


def test_recipe_and_data_are_those_of_the_record(trained):
    record = json.loads((trained[0] / "gatescope.json").read_text())
    text = ModelCard.load(trained[0] / "README.md").text
    rows = {row[0]: row[1] for row in tables(text)}
    for row, key in {
        "rank": "rank",
        "alpha": "alpha",
        "dropout": "dropout",
        "learning rate": "lr",
        "seed": "seed",
    }.items():
        assert rows[row] == str(record["settings"][key]) == str(getattr(SETTINGS, key))
    for row, key in {
        "batch size": "batch_size",
        "epochs": "epochs",
        "consistency weight": "consistency_weight",
        "answer weight": "answer_weight",
    }.items():
        assert rows[row] == str(record["settings"][key]) == str(getattr(SETTINGS, key))
    assert rows["trainable parameters"] == f"{record['trainable_parameters']:,}"
    assert rows["optimizer steps"] == str(record["steps"])
    assert rows["layers"] == "1-2 of 0-2"
    assert (
        rows["mean loss, first and last tenth of the steps"] == f"{record['first_loss']:.3f}, {record['last_loss']:.3f}"
    )
    prose = " ".join(text.split())
    counts = (
        f"{record['questions']} questions with {record['paraphrases']} paraphrases, on {record['patients']} patients"
    )
    assert counts in prose
    assert f"fingerprint `{record['data']}`. The files" in prose
    assert "chosen by hand (`--layers 1-2`)" in prose
    assert f"gatescope {record['software']['gatescope']}" in prose
    assert "## Prompt" not in text


def test_it_holds_no_path_text_hash_or_patient(world, trained):
    card = (trained[0] / "README.md").read_text()
    assert not re.search(r"(^|[\s\"'`(\[=])(/|~|\.\.?/|[A-Za-z]:\\)", card, re.MULTILINE)
    for private in (str(world.model.parent), str(trained[0].parent), str(Path.home()) + "/", "patient1", "images/"):
        assert private not in card
    for bank in (WORDINGS, UNSEEN):
        assert not [text for texts in bank.values() for text in texts if text in card]
    assert not [digest for digest in read_record(trained[0]).text_hashes if digest in card]


def test_its_own_lines_load_the_adapter(world, trained, monkeypatch):
    """The lines of code run as they are, apart from the two names that a reader fills in."""
    from peft import PeftModel
    from transformers import Gemma3Processor

    code = re.search(r"```python\n(.*?)```", (trained[0] / "README.md").read_text(), re.DOTALL).group(1)
    monkeypatch.chdir(world.model.parent)
    code = code.replace("path/to/this/adapter", str(trained[0]))
    names: dict = {}
    exec(code, names)
    assert isinstance(names["model"], PeftModel)
    assert isinstance(names["processor"], Gemma3Processor)
    question = load_questions(world.questions)[0]
    ours = load_vlm(world.model, "cpu", "float32")
    load_adapter(ours, trained[0])
    with torch.no_grad():
        found = plain_logits(names["model"].eval(), names["processor"], question.image, question.question)
        expected = plain_logits(ours.model, ours.processor, question.image, question.question)
    assert torch.allclose(found, expected, atol=1e-4)
    assert any("lora_B" in name and p.abs().sum() > 0 for name, p in names["model"].named_parameters())


def test_a_base_of_the_hub_is_named_with_its_revision_and_terms(trained):
    card = card_of(trained, model=hub_model(), layers=[15, 16, 17, 18, 19])
    data = ModelCard(card).data
    assert data.base_model == "google/medgemma-4b-it"
    assert (data.license, data.license_name) == ("other", "health-ai-developer-foundations")
    assert data.license_link == "https://developers.google.com/health-ai-developer-foundations/terms"
    assert f"[google/medgemma-4b-it](https://huggingface.co/google/medgemma-4b-it), revision `{COMMIT}`." in card
    assert 'AutoModelForImageTextToText.from_pretrained("google/medgemma-4b-it")' in card
    assert "# GateScope adapter, layers 15-19\n" in card
    assert "provided under and subject to the Health AI" in card
    assert f"({data.license_link})" in card


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("google/medgemma-1.5-4b-it", "health-ai-developer-foundations"),
        ("me/MedGemma-finetuned", "health-ai-developer-foundations"),
        ("google/gemma-3-4b-it", "gemma"),
        ("me/radiology-vlm", None),
    ],
)
def test_terms_follow_the_name_of_the_base(name, expected):
    found = base_metadata(Base(name, True, None))
    assert found["base_model"] == name
    assert found.get("license_name") == expected
    assert found.get("license") == (expected and "other")
    assert (found.get("license_link") or "https://").startswith("https://")


def test_unrecognised_terms_are_said_to_be_those_of_the_base(trained):
    card = card_of(trained, model=hub_model("me/radiology-vlm"))
    assert ModelCard(card).data.license is None
    assert "this card names no licence" in card


@pytest.mark.parametrize("path", ["/data/secret/medgemma", r"C:\Users\me\medgemma", "../up/medgemma"])
def test_a_path_in_the_record_is_cut_to_its_name(trained, path):
    model = hub_model(path).model_copy(update={"revision": None})
    card = card_of(trained, model=model, layers_from=f"layers.json at {path}, rule write")
    assert path not in card
    assert "secret" not in card
    assert 'from_pretrained("medgemma")' in card
    assert "found by `interp find-features` (`layers.json at medgemma, rule write`)" in card
    assert ModelCard(card).data.base_model is None


def test_a_prompt_style_that_is_not_plain_is_told(trained):
    prompt = PromptEntry(image_first=False, system="You read films.\nBe brief.", answer_instruction="Answer yes or no.")
    text = card_of(trained, prompt=prompt)
    assert "## Prompt" in text
    assert "- Image after the question." in text
    assert "      You read films.\n      Be brief.\n" in text
    assert "      Answer yes or no.\n" in text


def test_another_base_changes_front_matter_and_its_section_only(trained):
    local = card_of(trained).replace("## Intended use\n", "## Intended use\n\nAdded by hand.\n")
    moved = with_base(local, Base("google/gemma-3-4b-it", True, None))
    data = ModelCard(moved).data
    assert (data.base_model, data.license_name, data.library_name) == ("google/gemma-3-4b-it", "gemma", "peft")
    assert 'from_pretrained("google/gemma-3-4b-it")' in moved
    assert "revision not recorded" in moved
    assert "local folder" not in moved
    split = "## Results"
    assert moved[moved.index(split) :] == local[local.index(split) :]
    again = with_base(moved, Base("google/gemma-3-4b-it", True, None))
    assert again == moved


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("# Bare\n", "front matter"),
        ("---\na: [\n---\n# x\n", "unreadable"),
        ("---\na: b\n---\n# x\n", "the section .* is missing"),
    ],
)
def test_a_card_that_cannot_take_another_base(card, message):
    with pytest.raises(InputError, match=message):
        with_base(card, Base("google/gemma-3-4b-it", True, None))


def test_layers_in_short():
    assert layers_text([15, 16, 17, 18, 19]) == "15-19"
    assert layers_text([4]) == "4"
    assert layers_text([0, 1, 5, 9, 10]) == "0-1, 5, 9-10"


def test_file_names_only():
    assert file_names_only("--layers 1-2") == "--layers 1-2"
    assert file_names_only("from /a/b/layers.json and c\\d.json") == "from layers.json and d.json"
