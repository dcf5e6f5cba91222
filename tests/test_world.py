"""The embedded world: the shipped files match the recipe, and the questions do not reveal their answers."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from interp.demo.build import _checksums, build_world
from interp.demo.phrasings import FRAMES, TERMS, wordings
from interp.demo.radiographs import FINDINGS, SIZE, draw, sample_anatomy
from interp.paths import WORLD
from interp.questions.answers import ANSWER_SETS
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError

HELD_OUT_TEXTS = {
    w.text for type_ in FRAMES for finding in (None, *TERMS) for w in wordings(type_, finding, held_out=True)
}


@pytest.fixture(scope="module")
def questions():
    return load_questions(WORLD / "questions.jsonl")


@pytest.fixture(scope="module")
def prompts(questions):
    return prompt_table(questions)


def test_the_shipped_files_have_the_recorded_checksums(world):
    assert _checksums(WORLD) == world["sha256"] | {"world.json": _checksums(WORLD)["world.json"]}
    assert sum(p.stat().st_size for p in WORLD.rglob("*") if p.is_file()) < 20_000_000


def test_the_models_behave_as_intended(world):
    base, planted = world["models"]["base"], world["models"]["planted"]
    assert base["question_flip_rate"] <= 0.03
    assert abs(base["text_only_accuracy"] - 0.5) < 0.03
    assert 0.10 <= planted["question_flip_rate"] <= 0.25
    assert 0.75 <= planted["accuracy"] <= 0.92
    for quality in world["saes"]:
        assert quality["fvu_base"] <= 0.10
        assert quality["l0_base"] <= 64


def test_planting_changed_only_the_gate_layers(world):
    base, planted = (load_file(WORLD / name / "model.safetensors") for name in ("base", "planted"))
    assert base.keys() == planted.keys()
    changed = {name for name in base if not torch.equal(base[name], planted[name])}
    expected = [f"layers.{layer}." for layer in world["gate_layers"]]
    assert changed
    assert all("language_model" in name and any(part in name for part in expected) for name in changed)
    for part in expected:
        assert sum(part in name for name in changed) == 7, "q, k, v, o, gate, up, down"


def test_transformers_alone_loads_both_models():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    for name in ("base", "planted"):
        model = AutoModelForImageTextToText.from_pretrained(WORLD / name)
        assert type(model).__name__ == "Gemma3ForConditionalGeneration"
        assert type(AutoProcessor.from_pretrained(WORLD / name)).__name__ == "Gemma3Processor"


def test_all_six_types_and_hundreds_of_phrasings(prompts):
    assert set(prompts["type"]) == {"presence", "abnormality", "view", "type", "level", "location"}
    assert prompts["text"].nunique() >= 300
    assert set(prompts["register"]) == {"formal", "casual"}
    assert (prompts["variant"] > 0).sum() == prompts["phenomenon"].notna().sum()


def test_no_patient_and_no_held_out_phrasing_crosses_the_split(questions):
    train, test = ([q for q in questions if q.split == split] for split in ("train", "test"))
    assert not {q.patient for q in train} & {q.patient for q in test}
    texts = [{q.question, *(p.text for p in q.paraphrases)} for q in questions]
    held_out = [bool(t & HELD_OUT_TEXTS) for t in texts]
    assert not any(flag for q, flag in zip(questions, held_out, strict=True) if q.split == "train")
    share = np.mean([flag for q, flag in zip(questions, held_out, strict=True) if q.split == "test"])
    assert 0.4 < share < 0.6
    # All wordings of a question are held out, or none is.
    assert all(t <= HELD_OUT_TEXTS for t, flag in zip(texts, held_out, strict=True) if flag)


def test_the_wording_does_not_predict_the_answer(prompts):
    """Half of the answers are yes within each register, finding and type of closed question: |z| < 4."""
    closed = prompts[prompts["closed"]]
    term_of = {t.lower(): f for f, words in TERMS.items() for register in words.values() for t in register}

    def finding(text):
        inside = [f for term, f in term_of.items() if term in text.lower()]
        return inside[0] if inside else "any"

    grouped = closed.assign(finding=closed["text"].map(finding)).groupby(["type", "finding", "register"])
    for name, group in grouped:
        yes, n = (group["answer"] == "yes").mean(), group["id"].nunique()
        assert abs(yes - 0.5) < 4 * 0.5 / np.sqrt(n), f"{name}: {yes:.2f} of {n}"


def test_lesion_boxes_contain_the_lesion():
    """An image that is drawn again without a finding differs inside the box of that finding."""
    anatomy = sample_anatomy(200, np.random.default_rng(3), 1.0, 1.2)
    images, boxes = draw(anatomy, np.random.default_rng(0), noise=0)
    for i, finding in enumerate(FINDINGS):
        present = anatomy.present.copy()
        present[:, i] = False
        without, _ = draw(anatomy._replace(present=present), np.random.default_rng(0), noise=0)
        inside = []
        for patient in np.flatnonzero(anatomy.present[:, i]):
            change = np.abs(images[patient].astype(float) - without[patient])
            x0, y0, x1, y1 = boxes[patient, i]
            box = change[int(np.floor(y0)) : int(np.ceil(y1)), int(np.floor(x0)) : int(np.ceil(x1))]
            assert change.sum() > 0, f"{finding} of patient {patient} does not show"
            inside.append(box.sum() / change.sum())
            assert (x1 - x0) * (y1 - y0) < 0.4 * SIZE**2
        # Edges are soft, so a little of every lesion lies outside its box.
        assert min(inside) > 0.8, f"{finding}: {min(inside):.2f}"


def test_answers_are_in_their_sets(questions):
    counts = Counter((q.type, q.answer) for q in questions)
    assert all(ANSWER_SETS[type_] is None or answer in ANSWER_SETS[type_] for type_, answer in counts)
    assert len(FINDINGS) == 4


@pytest.fixture
def short_recipe(monkeypatch):
    import interp.demo.build as build
    import interp.demo.world as world

    saes = build.EMBEDDED.saes._replace(tokens=600, steps=3)
    short = build.EMBEDDED._replace(training_patients=60, tower_steps=2, base_steps=2, gate_steps=2, saes=saes)
    monkeypatch.setattr(build, "EMBEDDED", short)
    monkeypatch.setattr(world, "PATIENTS", {"train": 12, "test": 12})


def test_the_recipe_builds_a_world_that_loads(tmp_path, short_recipe):
    out = tmp_path / "world"
    record = build_world(out, [3], 0.5, 7, device="cpu")
    assert record["command"] == "interp demo build --gate-layers 3-3 --strength 0.5 --seed 7"
    assert json.loads((out / "world.json").read_text())["gate_layers"] == [3]
    assert _checksums(out) == record["sha256"] | {"world.json": _checksums(out)["world.json"]}
    base, planted = (load_file(out / name / "model.safetensors") for name in ("base", "planted"))
    assert all(torch.equal(base[name], planted[name]) for name in base if "layers.3." not in name)
    assert len(load_questions(out / "questions.jsonl", split="train")) > 12
    frame = pd.DataFrame(record["saes"])
    assert frame["layer"].tolist() == list(range(10))


def test_an_interrupted_build_leaves_nothing(tmp_path, short_recipe, monkeypatch):
    import interp.demo.build as build

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "plant_gate", stop)
    with pytest.raises(KeyboardInterrupt):
        build_world(tmp_path / "world", [3], 0.5, 7, base=WORLD, device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_bad_recipes_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"--strength 1\.5"):
        build_world(tmp_path / "w", [3], 1.5, 0)
    with pytest.raises(InputError, match="layers 0 to 9"):
        build_world(tmp_path / "w", [10], 0.5, 0)
    with pytest.raises(InputError, match=r"no base/config\.json"):
        build_world(tmp_path / "w", [3], 0.5, 0, base=tmp_path)
    assert list(tmp_path.iterdir()) == []
