"""Models of other families, measured by plain generation, against single forwards; and Gemma 3 against the engine."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import other_families
import pytest
import torch
from finetune_world import make_world
from PIL import Image

from finetune.evaluation.assess import question_tables
from finetune.evaluation.benchmark import benchmark
from finetune.evaluation.collect import collect_answers, swaps_of
from finetune.evaluation.engine import PackedEngine
from finetune.evaluation.plain_engine import PlainEngine, check_template, load_plain_engine
from finetune.evaluation.settings import EvaluationSettings
from interp.images.decode import BLANK_IMAGE, open_image
from interp.measurement.generate import end_tokens
from interp.model.blank_images import ALL_BLANKS, BLANKS, gaussian_image
from interp.model.load import load_vlm
from interp.model.prompts import DEFAULT_STYLE, PromptStyle, chat_messages
from interp.model.spec import ModelSpec
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.spec import DataSpec
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.storage.hub import Source
from interp.views.report.collect import collect
from interp.views.report.render import render
from interp.views.tables.evaluation import evaluation_overview

CPU = ModelSpec(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("benchmark") / "world", patients=12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {make.__name__: make(root / make.__name__) for make in (other_families.llava, other_families.llava_next)}


@pytest.fixture(scope="module")
def engines(folders):
    model, processor = other_families.qwen2_vl()
    qwen = PlainEngine(model, processor, Source(Path("qwen2_vl"), "qwen2_vl", None), DEFAULT_STYLE, batch_size=3)
    check_template(qwen)
    return {name: load_plain_engine(folder, CPU, batch_size=3) for name, folder in folders.items()} | {"qwen2_vl": qwen}


@pytest.fixture(scope="module")
def shapes(world):
    """Questions about pictures of three shapes."""
    rng = np.random.default_rng(0)
    questions = load_questions(world.questions, split="test")[:6]
    folder = world.questions.parent / "shapes"
    folder.mkdir()
    asked = []
    for k, question in enumerate(questions):
        size = [(40, 70), (64, 64), (90, 50)][k % 3]
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{k}.png")
        asked.append(question.model_copy(update={"image": str(folder / f"{k}.png")}))
    return asked


def test_a_gemma_that_does_not_fit_is_refused_and_other_families_are_not_counted(world, folders):
    little = replace(CPU, max_memory=0.001)
    with pytest.raises(InputError, match=r"needs at least 0\.\d GiB of main memory \(.*allowed by --max-memory"):
        load_plain_engine(world.model, little, batch_size=3)
    load_plain_engine(folders["llava"], little, batch_size=3)


FAMILIES = ["llava", "llava_next", "qwen2_vl"]


def inputs_alone(engine, text, picture, closed=False):
    """What the processor makes of one prompt, without padding."""
    messages = chat_messages(text, closed, True, engine.style)
    rendered = engine.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return engine.processor(text=[rendered], images=[[picture]], return_tensors="pt")


def margin_of(logits, tokenizer):
    sums = []
    for word in ("yes", "no"):
        ids = [i for token, i in tokenizer.get_vocab().items() if token.strip("▁Ġ ").lower() == word]
        sums.append(torch.logsumexp(logits[ids].double(), 0))
    return float(sums[0] - sums[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_margins_and_first_tokens_are_those_of_single_forwards(engines, shapes, family):
    engine, prompts = engines[family], prompt_table(shapes)
    found = engine.first_tokens(prompts, "prompts")
    assert np.ptp(found.margin) > 0.5
    for row, prompt in enumerate(prompts.itertuples()):
        with torch.no_grad():
            logits = engine.model(**inputs_alone(engine, prompt.text, open_image(prompt.image))).logits[0, -1]
        assert found.margin[row] == pytest.approx(margin_of(logits, engine.tokenizer), abs=1e-4)
        assert found.top_token[row] == int(logits.argmax())


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_greedy_whatever_the_generation_config_asks_for(engines, shapes, family):
    engine, prompts = engines[family], prompt_table(shapes).head(6)
    said = engine.answers(prompts, 3, "answers")
    for text, prompt in zip(said, prompts.itertuples(), strict=True):
        tokens, picture = [], open_image(prompt.image)
        inputs = inputs_alone(engine, prompt.text, picture)
        for _ in range(3):
            with torch.no_grad():
                token = int(engine.model(**inputs).logits[0, -1].argmax())
            if token in end_tokens(engine.model):
                break
            tokens.append(token)
            more = {"input_ids": torch.tensor([[token]]), "attention_mask": torch.ones(1, 1, dtype=torch.long)}
            if "mm_token_type_ids" in inputs:
                more["mm_token_type_ids"] = torch.zeros(1, 1, dtype=inputs["mm_token_type_ids"].dtype)
            inputs.update({name: torch.cat([inputs[name], extra], 1) for name, extra in more.items()})
        assert text == engine.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_penalties_of_a_model_are_left_out(folders, shapes, tmp_path):
    engine, prompts = load_plain_engine(folders["llava"], CPU, 4), prompt_table(shapes).head(4)
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in folders["llava"].iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    config = json.loads((changed / "generation_config.json").read_text())
    config |= {"do_sample": True, "temperature": 0.01, "repetition_penalty": 5.0, "max_new_tokens": 2}
    (changed / "generation_config.json").write_text(json.dumps(config))
    other = load_plain_engine(changed, CPU, 4)
    assert other.answers(prompts, 4, "") == engine.answers(prompts, 4, "")
    assert (engine.own_limit, other.own_limit) == (None, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_blank_images_by_hand(engines, shapes, family):
    engine, prompts = engines[family], prompt_table(shapes).head(3)
    images = [question.image for question in shapes]
    engine.prepare_blanks(images, seed=3)
    grey = open_image(BLANK_IMAGE)
    black, white = (Image.new("RGB", grey.size, (level,) * 3) for level in (0, 255))

    def pixels(picture):
        return inputs_alone(engine, "?", picture)["pixel_values"]

    low, high = pixels(black), pixels(white)
    noise = low + torch.rand(low.shape, generator=torch.Generator().manual_seed(3)) * (high - low)
    own = [pixels(open_image(image)) for image in images]
    if {each.shape for each in own} != {low.shape}:
        own = [pixels(open_image(image).resize(grey.size)) for image in images]
    shown = {
        BLANKS["grey"]: (grey, None),
        BLANKS["white"]: (white, None),
        ALL_BLANKS["gaussian"]: (gaussian_image(3), None),
        BLANKS["noise"]: (grey, noise),
        BLANKS["mean"]: (grey, torch.stack(own).mean(0)),
    }
    for name, (picture, replaced) in shown.items():
        found = engine.first_tokens(prompts.assign(image=name), name).margin
        for row, text in enumerate(prompts["text"]):
            inputs = inputs_alone(engine, text, picture)
            if replaced is not None:
                inputs["pixel_values"] = replaced
            with torch.no_grad():
                logits = engine.model(**inputs).logits[0, -1]
            assert found[row] == pytest.approx(margin_of(logits, engine.tokenizer), abs=1e-4), name


def test_a_tiny_gemma_3_answers_as_in_the_packed_engine(world):
    questions = load_questions(world.questions, split="test")
    prompts, _ = question_tables(questions)
    vlm, plain = load_vlm(world.model, "cpu", "float32"), load_plain_engine(world.model, CPU, 5)
    found = []
    for engine in (PackedEngine(vlm), plain):
        engine.prepare_blanks(list(prompts["image"]), 2)
        found.append(collect_answers(engine, prompts, swaps_of(questions, prompts, 2), 3, "", ALL_BLANKS))
    fast, slow = found
    np.testing.assert_allclose(slow.margin, fast.margin, atol=1e-4)
    np.testing.assert_allclose(slow.swapped_margin, fast.swapped_margin, atol=1e-4)
    np.testing.assert_allclose(slow.opposite_margin, fast.opposite_margin, atol=1e-4)
    for kind in ALL_BLANKS:
        np.testing.assert_allclose(slow.blank_margin[kind], fast.blank_margin[kind], atol=1e-4, err_msg=kind)
    assert (slow.right_token == fast.right_token).all()
    assert slow.parsed.tolist() == fast.parsed.tolist()
    assert slow.published.tolist() == fast.published.tolist()
    np.testing.assert_array_equal(slow.right_sequence, fast.right_sequence)


def test_the_embedded_model_has_the_numbers_of_an_evaluation():
    from finetune.evaluation.arms import Arm, base_arm
    from finetune.evaluation.evaluate import evaluate

    data = DataSpec(limit=60)
    slow = benchmark([WORLD / "planted"], data, CPU, EvaluationSettings(seed=1))
    vlm = load_vlm(WORLD / "planted", "cpu", "float32")
    fast = evaluate(vlm, [base_arm(), Arm("again")], data.load_test(), seed=1)
    of_all = {(c.measure, c.kind, c.subset): c for c in fast.comparisons if c.arm == "again"}
    assert {(m.measure, m.kind, m.subset) for m in slow.measured} == set(of_all)
    for m in slow.measured:
        c = of_all[m.measure, m.kind, m.subset]
        assert (m.n, m.patients) == (c.n, c.patients)
        assert m.value.value == pytest.approx(c.before.value, abs=2e-4), m.measure
        # In draws of a few questions that are nearly equal, the dispersion divides by rounding errors.
        if m.kind == "all":
            assert [m.value.low, m.value.high] == pytest.approx([c.before.low, c.before.high], abs=5e-4), m.measure
    assert [q.shares for q in slow.quadrants] == [q.shares for q in fast.quadrants if q.arm == "base"]
    assert [d.detectors[0].auc for d in slow.detection] == [
        d.detectors[0].auc for d in fast.detection if d.arm == "base"
    ]
    assert (slow.comparisons, slow.verdicts, list(slow.arms)) == ([], {}, ["planted"])


@pytest.fixture(scope="module")
def measured(folders, world):
    return benchmark([folders["llava"]], DataSpec(world.questions), CPU, EvaluationSettings(new_tokens=3))


def test_a_single_model_is_shown_on_the_terminal_and_in_a_report(measured, tmp_path):
    overview = evaluation_overview(measured)
    flips = measured.value_of("llava", "question_flip_rate")
    assert f"{100 * flips.value:.1f}%" in overview.conclusion[0]
    shown = {row[0].text for row in overview.tables[0].rows}
    assert "question flip rate [%]" in shown
    assert len(overview.tables) == 3
    captions = {table.caption for table in evaluation_overview(measured, full=True).tables}
    assert {"Which questions will flip?", "If doubtful answers are withheld", "FlipBank"} <= captions
    (tmp_path / "evaluation.json").write_text(measured.to_json())
    page = render(collect(tmp_path))
    for said in (overview.conclusion[0][:40], "opposite swap sensitivity", "By PSF-Med", "Which answers to doubt"):
        assert said in page
    assert not re.search(r"patient\d|\d\.png", measured.to_json())


def test_several_models_are_compared_with_the_first(folders, world):
    found = benchmark(list(folders.values()), DataSpec(world.questions), CPU, EvaluationSettings(new_tokens=0))
    assert list(found.arms) == list(folders)
    assert list(found.verdicts) == ["llava_next"]
    change = found.find("llava_next", "margin_difference")
    assert change.before.value == found.value_of("llava", "margin_difference").value
    assert change.difference.value != 0
    assert found.measured == []


def test_the_style_of_the_prompt_is_that_of_the_options(folders, shapes):
    asked = ModelSpec(device="cpu", dtype="float32", system="You are careful.", answer_instruction="Answer yes or no.")
    engine = load_plain_engine(folders["llava"], asked, 2)
    assert engine.style == PromptStyle(system="You are careful.", answer_instruction="Answer yes or no.")
    prompts = prompt_table([question for question in shapes if question.closed])
    found = engine.first_tokens(prompts, "prompts").margin
    for row, prompt in enumerate(prompts.itertuples()):
        inputs = inputs_alone(engine, prompt.text, open_image(prompt.image), closed=True)
        with torch.no_grad():
            logits = engine.model(**inputs).logits[0, -1]
        assert found[row] == pytest.approx(margin_of(logits, engine.tokenizer), abs=1e-4)


def test_models_that_cannot_be_measured_are_named(folders, world, tmp_path):
    data = DataSpec(world.questions)
    with pytest.raises(InputError, match="at least one model"):
        benchmark([], data, CPU)
    with pytest.raises(InputError, match="given twice"):
        benchmark([folders["llava"], folders["llava"]], data, CPU)
    with pytest.raises(InputError, match="could not be loaded"):
        benchmark([tmp_path], data, CPU)
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folders["llava"].iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="weights of the model are not in the files"):
        benchmark([broken], data, CPU)
    (broken / "config.json").write_bytes((folders["llava"] / "config.json").read_bytes())
    template = broken / "chat_template.jinja"
    template.write_text("{% for message in messages %}user:<image>{% endfor %}")
    with pytest.raises(InputError, match="leaves out 'Is this in the prompt"):
        benchmark([broken], data, CPU)


def test_the_command_writes_what_the_function_returns(called, folders, world, tmp_path, measured):
    out = tmp_path / "benchmark.json"
    options = ["--questions", world.questions, "--device", "cpu", "--dtype", "float32", "--new-tokens", 3]
    code, said, _ = called("finetune", "benchmark", folders["llava"], *options, "--out", out)
    assert code == 0
    written, expected = json.loads(out.read_text()), json.loads(measured.to_json())
    for name in ("measured", "quadrants", "detection", "by_count", "flip_banks", "reliability"):
        assert written[name] == expected[name]
    assert "llava flips on" in said
    code, _, said = called("finetune", "benchmark", folders["llava"], *options, "--out", out)
    assert code == 2
    assert "benchmark.json" in said
