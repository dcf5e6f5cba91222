"""The grounding study: its parts against plain transformers, the whole against the truth of the embedded world."""

import csv
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import read_rows, write_rows
from finetune_world import awaken, make_world, plain_logits, plain_margin
from PIL import Image, ImageDraw

from finetune.grounding.map_scores import box_scores, region_of
from finetune.grounding.one_image import curves, encode_with_occlusions, map_wordings
from finetune.grounding.questions import select_questions, wording_table
from finetune.grounding.save import save_grounding
from finetune.grounding.score_table import GROUNDING_SCORES
from finetune.grounding.settings import GroundingSettings, MapSettings, map_settings
from finetune.grounding.study import study
from finetune.grounding.summary import differences, summaries
from finetune.lora.modules import add_lora
from interp.images.decode import open_image
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.runtime.errors import InputError
from interp.saes.sae import load_sae
from interp.sharing.file_contents import contents_of
from interp.statistics import ratio_sign_flips, spearman
from interp.views.tables.grounding import grounding_overview
from interp.views.terminal.show import show_overview

SETTINGS = GroundingSettings(limit=4, curve_steps=4)


@pytest.fixture(scope="module")
def shipped():
    return load_vlm(WORLD / "base", "cpu", "float32"), load_questions(WORLD / "questions.jsonl", split="test")


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    """The tiny untrained world with a box for every presence and abnormality question."""
    world = make_world(tmp_path_factory.mktemp("grounding") / "world", patients=16)
    rows = read_rows(world.questions)
    for i, row in enumerate(rows):
        if row["type"] in ("presence", "abnormality"):
            row["boxes"] = [[4 + i % 7, 6, 15 + i % 7, 20]]
    write_rows(world.questions, rows)
    return world


@pytest.fixture(scope="module")
def two_arms(boxed):
    """A study of base and adapter in the tiny world, one of the base alone, and the questions."""
    questions = load_questions(boxed.questions, split="test")
    alone = study(load_vlm(boxed.model, "cpu", "float32"), None, questions, SETTINGS)
    vlm = load_vlm(boxed.model, "cpu", "float32")
    adapted = add_lora(vlm, [0, 1, 2])
    awaken(adapted, scale=1.0)
    adapted.eval()
    return study(vlm, adapted, questions, SETTINGS), alone, questions


@pytest.fixture(scope="module")
def base_study(shipped):
    """A study of occlusion maps of the embedded base, whose answers rely on the lesions."""
    vlm, questions = shipped
    settings = GroundingSettings(MapSettings(maps=("occlusion",)), limit=16, paraphrases=0, curve_steps=4)
    return study(vlm, None, questions, settings)


def entry(found, *key, arm="base"):
    (match,) = [e for e in found.summary if (e.arm, e.map, e.score, e.against) == (arm, *key)]
    return match


def test_the_embedded_base_relies_on_the_lesions(base_study):
    assert base_study.right["base"] > 0.9
    for score in ("roi_margin", "roi_flip"):
        effect = entry(base_study, "model", score, "random region")
        assert effect.n == effect.patients == 16
        assert effect.net.low > 0
        assert effect.p < 0.01
    for score in ("mass", "precision"):
        for against in ("shifted", "random"):
            assert entry(base_study, "occlusion", score, against).net.low > 0, (score, against)
    for score in ("deletion_probability", "insertion_probability", "deletion_margin", "insertion_margin"):
        assert entry(base_study, "occlusion", score, "random order").net.low > 0, score
    assert entry(base_study, "occlusion", "rank_agreement", "other image").net.low > 0


def test_the_share_of_strongest_cells_is_a_setting(boxed, two_arms):
    _, alone, questions = two_arms
    vlm = load_vlm(boxed.model, "cpu", "float32")
    tenth = study(vlm, None, questions, replace(SETTINGS, top=0.1))
    for found, top in ((alone, 0.2), (tenth, 0.1)):
        for question, asked in enumerate(found.asked):
            region = region_of(np.array(asked.boxes) / 32, 4)
            for name in ("attention", "gradient"):
                expected = box_scores(found.maps["base"][name][question], region, top)
                rows = found.scores[(found.scores["question"] == question) & (found.scores["map"] == name)]
                for score, value in expected.items():
                    mine = rows[rows["score"] == score]["value"].unique()
                    np.testing.assert_allclose(mine, [value], atol=1e-6)
    same = [table[~table["score"].isin(["coverage", "precision"])] for table in (alone.scores, tenth.scores)]
    pd.testing.assert_frame_equal(*same)


def margin_on(vlm, question, picture, tmp_path):
    picture.save(tmp_path / "edited.png")
    with torch.no_grad():
        logits = plain_logits(vlm.model, vlm.processor, str(tmp_path / "edited.png"), question.question)
    return plain_margin(logits, vlm.processor.tokenizer)


def test_occlusion_and_filled_boxes_equal_margins_on_edited_images(base_study, shipped, tmp_path):
    vlm, _ = shipped
    question = base_study.asked[3]
    picture = open_image(question.image)
    whole = margin_on(vlm, question, picture, tmp_path)
    sign = 1 if whole > 0 else -1
    for cell in (0, 6, 11):
        edited = picture.copy()
        x, y = 16 * (cell % 4), 16 * (cell // 4)
        ImageDraw.Draw(edited).rectangle((x, y, x + 15, y + 15), fill=(128,) * 3)
        expected = sign * (whole - margin_on(vlm, question, edited, tmp_path))
        assert base_study.maps["base"]["occlusion"][3, cell] == pytest.approx(expected, abs=2e-4)
    pixels = np.array(picture)
    ((x0, y0, x1, y1),) = question.boxes
    for y in range(64):
        for x in range(64):
            if x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1:
                pixels[y, x] = 128
    filled = margin_on(vlm, question, Image.fromarray(pixels), tmp_path)
    rows = base_study.scores[(base_study.scores["question"] == 3) & (base_study.scores["map"] == "model")]
    values = rows.set_index("score")["value"]
    assert values["roi_margin"] == pytest.approx(sign * (whole - filled), abs=2e-4)
    assert values["roi_flip"] == float((filled > 0) != (whole > 0))


def test_curves_equal_margins_on_edited_images(shipped, tmp_path):
    vlm, questions = shipped
    question = select_questions(questions, False, 1)[0]
    picture = open_image(question.image)
    rng = np.random.default_rng(0)
    orders, random = [rng.permutation(16) for _ in range(2)], rng.permutation(16)
    found = curves(
        vlm, encode_with_occlusions(vlm, question.image, []), "grey", question.question, True, orders, [random], 4
    )
    assert found.shape == (3, 2, 5)

    def without(cells):
        edited = picture.copy()
        for cell in cells:
            x, y = 16 * (cell % 4), 16 * (cell // 4)
            ImageDraw.Draw(edited).rectangle((x, y, x + 15, y + 15), fill=(128,) * 3)
        return margin_on(vlm, question, edited, tmp_path)

    for k, order in enumerate(orders):
        for step in range(5):
            assert found[k, 0, step] == pytest.approx(without(order[: 4 * step]), abs=2e-4)
            assert found[k, 1, step] == pytest.approx(without(order[4 * step :]), abs=2e-4)
    np.testing.assert_allclose(found[2, 1], found[2, 0, ::-1])
    assert found[2, 0, 1] == pytest.approx(without(random[:4]), abs=2e-4)


def curve_table(found):
    """The mean curves of a study, one row per point."""
    return pd.DataFrame([point.model_dump() for point in found.curves])


def ends(interval):
    """Value, low and high."""
    return interval.value, interval.low, interval.high


def test_curve_scores_by_hand(base_study):
    curve, scores = curve_table(base_study), base_study.scores
    mean = scores.groupby("score")[["value", "control"]].mean()
    for name, column in (("occlusion", "value"), ("random", "control")):
        rows = curve[(curve["map"] == name) & (curve["arm"] == "base")]
        for unit in ("margin", "probability"):
            d, i = (rows[rows["kind"] == kind][unit].to_numpy() for kind in ("deletion", "insertion"))
            lost = d[0] - (d[0] / 2 + d[1] + d[2] + d[3] + d[4] / 2) / 4
            gained = (i[0] / 2 + i[1] + i[2] + i[3] + i[4] / 2) / 4 - i[0]
            assert mean.loc[f"deletion_{unit}", column] == pytest.approx(lost, rel=1e-4)
            assert mean.loc[f"insertion_{unit}", column] == pytest.approx(gained, rel=1e-4)
            assert (d[0], d[4]) == pytest.approx((i[4], i[0]), rel=1e-5)


def test_the_wordings_that_are_asked(boxed):
    questions = load_questions(boxed.questions, split="test")
    asked = select_questions(questions, True, None)
    wordings = wording_table(asked, questions, 2, seed=0)
    assert len(asked) == 16
    for i, q in enumerate(asked):
        mine = wordings[wordings["question"] == i].set_index("role")
        assert mine.loc["original"].tolist() == [i, q.image, q.question, True]
        assert mine.loc[["paraphrase"], "text"].tolist() == [p.text for p in q.paraphrases[:2]]
        other = mine.loc["other image"]
        assert other["text"] == q.question
        assert other["image"] in {o.image for o in asked if o.group != q.group}
        other = mine.loc["other question"]
        assert other["image"] == q.image
        assert other["text"] in {o.question for o in questions if o.image == q.image and o.id != q.id and o.closed}
    assert wording_table(asked[:2], questions, 0, 0)["role"].tolist() == ["original", "other question"] * 2
    assert {q.true_answer for q in select_questions(questions, False, None)} == {"yes"}
    with pytest.raises(InputError, match="whose true answer is yes"):
        select_questions([q for q in questions if q.true_answer != "yes"], False, None)


def test_the_adapter_changes_its_own_scores_alone(two_arms):
    both, alone, _ = two_arms
    assert (both.arms, alone.arms, alone.differences) == (["base", "adapter"], ["base"], [])
    base = both.scores[both.scores["arm"] == "base"].reset_index(drop=True)
    np.testing.assert_allclose(base["value"], alone.scores["value"], atol=1e-4)
    np.testing.assert_allclose(base["control"], alone.scores["control"], atol=1e-4)
    adapter = both.scores[both.scores["arm"] == "adapter"]
    assert not np.allclose(adapter["value"], base["value"], atol=1e-2)
    key = ["question", "map", "score", "against"]
    joined = base.merge(adapter, on=key, suffixes=("", "_after"))
    joined["change"] = joined["value_after"] - joined["control_after"] - joined["value"] + joined["control"]
    for d in both.differences:
        rows = joined[(joined["map"] == d.map) & (joined["score"] == d.score) & (joined["against"] == d.against)]
        # A study has six significant digits.
        assert d.difference.value == pytest.approx(rows["change"].mean(), rel=5e-6, abs=1e-9)
    assert {(d.map, d.score) for d in both.differences} >= {("attention", "mass"), ("model", "roi_margin")}


@pytest.mark.parametrize("part", ["tower", "language"])
def test_adapters_of_either_part_leave_the_base_unchanged(boxed, two_arms, part):
    from peft import LoraConfig, get_peft_model

    _, alone, questions = two_arms
    vlm = load_vlm(boxed.model, "cpu", "float32")
    names = {"tower": r".*vision_tower.*q_proj", "language": r".*language_model.*v_proj"}
    adapted = get_peft_model(vlm.model, LoraConfig(r=4, target_modules=names[part]))
    awaken(adapted, scale=3.0)
    adapted.eval()
    settings = GroundingSettings(MapSettings(maps=("occlusion",)), limit=4, curve_steps=4)
    found = study(vlm, adapted, questions, settings)
    expected = alone.maps["base"]["occlusion"]
    np.testing.assert_allclose(found.maps["base"]["occlusion"], expected, atol=1e-4)
    assert np.abs(found.maps["adapter"]["occlusion"] - expected).max() > 1e-3


def test_rank_and_paraphrase_agreement(two_arms, boxed):
    _, alone, _ = two_arms
    rows = alone.scores[alone.scores["question"] == 2].set_index(["map", "score", "against"])
    maps = {name: values[2] for name, values in alone.maps["base"].items()}
    for name in ("attention", "rollout", "gradient", "integrated"):
        value = rows.loc[(name, "rank_agreement", "other image"), "value"]
        assert value == pytest.approx(spearman(maps[name], maps["occlusion"]))
    # The same question alone, together with its first paraphrase as a question of its own.
    q = alone.asked[2]
    first = q.model_copy(update={"question": q.paraphrases[0].text, "paraphrases": [], "id": "other"})
    vlm = load_vlm(boxed.model, "cpu", "float32")
    settings = GroundingSettings(paraphrases=1, curve_steps=1)
    pair = study(vlm, None, [q, first], settings)
    for name in maps:
        scores = pair.scores.set_index(["question", "map", "score", "against"])
        of_pair = spearman(*pair.maps["base"][name])
        # The only other question on this image is that paraphrase, and there is no other image.
        found = scores.loc[(0, name, "paraphrase_agreement", "other question")]
        assert (found["value"], found["control"]) == pytest.approx((of_pair, of_pair), abs=1e-6)
        assert (0, name, "paraphrase_agreement", "other image") not in scores.index


def test_rank_agreement_with_other_fills_and_on_another_image(boxed):
    vlm = load_vlm(boxed.model, "cpu", "float32")
    questions = load_questions(boxed.questions, split="test")
    by_fill = {}
    for fill in ("grey", "blur", "mean"):
        maps = MapSettings(maps=("attention", "occlusion"), fill=fill)
        by_fill[fill] = study(vlm, None, questions, GroundingSettings(maps, limit=3, paraphrases=0, curve_steps=1))
    scores = by_fill["grey"].scores.set_index(["question", "map", "score"])
    wordings = wording_table(by_fill["grey"].asked, questions, 0, 0)
    for i in range(3):
        (other,) = wordings[(wordings["question"] == i) & (wordings["role"] == "other image")].itertuples()
        elsewhere = map_wordings(
            vlm, encode_with_occlusions(vlm, other.image, ["grey"]), [other.text], [True], [], MapSettings()
        ).reference[0]
        grey, blur, mean = (by_fill[fill].maps["base"]["occlusion"][i] for fill in by_fill)
        found = scores.loc[[(i, "occlusion", "rank_agreement")]].iloc[0]
        assert found["value"] == pytest.approx((spearman(grey, blur) + spearman(grey, mean)) / 2)
        expected = (spearman(elsewhere, blur) + spearman(elsewhere, mean)) / 2
        assert found["control"] == pytest.approx(expected)
        found = scores.loc[[(i, "attention", "rank_agreement")]].iloc[0]
        shown = by_fill["grey"].maps["base"]["attention"][i]
        assert found["value"] == pytest.approx(spearman(grey, shown))
        assert found["control"] == pytest.approx(spearman(elsewhere, shown))


def test_an_untrained_adapter_changes_nothing(boxed):
    vlm = load_vlm(boxed.model, "cpu", "float32")
    adapted = add_lora(vlm, [0, 1, 2])
    adapted.eval()
    questions = load_questions(boxed.questions, split="test")
    settings = GroundingSettings(
        MapSettings(maps=("gradient",)), limit=6, paraphrases=1, curve_steps=2, any_answer=True
    )
    found = study(vlm, adapted, questions, settings)
    assert len(found.differences) == len([e for e in found.summary if e.arm == "base"])
    for change in found.differences:
        assert change.difference.value == pytest.approx(0, abs=1e-6)
        assert change.n == 6


def test_every_map_has_every_score(two_arms):
    both, _, _ = two_arms
    of_maps = set(GROUNDING_SCORES) - {"roi_margin", "roi_flip"}
    for arm in both.arms:
        for name in ("attention", "rollout", "gradient", "integrated", "occlusion"):
            assert {e.score for e in both.summary if (e.arm, e.map) == (arm, name)} == of_maps
        assert {e.score for e in both.summary if (e.arm, e.map) == (arm, "model")} == {"roi_margin", "roi_flip"}
    box = both.scores[both.scores["score"].isin(["mass", "coverage", "precision", "pointing"])]
    assert box[["value", "control"]].stack().between(-1e-9, 1 + 1e-9).all()


def test_summaries_and_differences_by_hand():
    rng = np.random.default_rng(0)
    rows = []
    for question in range(12):
        for arm, effect in (("base", 0.0), ("adapter", 1.0)):
            value = rng.normal(effect) if question != 5 else np.nan
            rows.append((question, arm, "attention", "mass", "random", value, 0.25))
    table = pd.DataFrame(rows, columns=["question", "arm", "map", "score", "against", "value", "control"])
    patients = [f"p{q // 2}" for q in range(12)]
    base, adapter = summaries(table, patients, seed=1)
    (change,) = differences(table, patients, seed=1)
    kept = [q for q in range(12) if q != 5]
    values = {arm: table[table["arm"] == arm].set_index("question")["value"][kept] for arm in ("base", "adapter")}
    whose = [patients[q] for q in kept]
    for found, arm in ((base, "base"), (adapter, "adapter")):
        assert (found.arm, found.n, found.patients) == (arm, 11, 6)
        assert ends(found.control) == pytest.approx((0.25, 0.25, 0.25))
        net = values[arm].to_numpy() - 0.25
        expected, p = ratio_sign_flips(net, np.ones(len(net)), whose, 1)
        # The draws are others.
        assert ends(found.net) == pytest.approx(expected, rel=0.2, abs=0.01)
        assert found.value.value == pytest.approx(values[arm].mean(), rel=1e-5)
        assert found.p == pytest.approx(p, abs=0.02)
    shift = (values["adapter"] - values["base"]).to_numpy()
    expected, p = ratio_sign_flips(shift, np.ones(len(shift)), whose, 1)
    assert ends(change.difference) == pytest.approx(expected, rel=0.2, abs=0.01)
    assert change.p == pytest.approx(p, abs=0.02)
    few = summaries(table[table["question"] < 4], patients, seed=1)
    assert few[0].net.low is None


def test_a_difference_of_rounding_is_no_effect():
    rows = [(q, "base", "rollout", "mass", "random", 0.1 + (q % 2 + 1) * 1e-15, 0.1) for q in range(10)]
    table = pd.DataFrame(rows, columns=["question", "arm", "map", "score", "against", "value", "control"])
    (found,) = summaries(table, [str(q) for q in range(10)], 0)
    assert ends(found.net) == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.p == 1


def test_written_files_reveal_nothing_about_the_questions(two_arms, tmp_path, capsys):
    both, _, questions = two_arms
    save_grounding(both, tmp_path / "out")
    drawn = {f"grounding_{what}{end}" for what in ("nets", "curves") for end in (".png", ".svg", ".csv")}
    tables = ["grounding.json", "grounding.csv", "grounding_nets.csv", "grounding_curves.csv"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == drawn | {*tables, "manifest.json"}
    show_overview(grounding_overview(both))
    shown = capsys.readouterr().out
    written = [(tmp_path / "out" / name).read_text() for name in tables] + [shown]
    for q in questions:
        for secret in (q.question, q.image, q.patient, q.id):
            assert not any(secret in text for text in written), secret
    content = json.loads(written[0])
    assert len(content["summary"]) == len(both.summary)
    assert content["settings"]["maps"]["fill"] == "grey"
    first, same = content["summary"][0], both.summary[0]
    assert first["net"]["value"] == pytest.approx(same.net.value, abs=1e-6)
    nets, along = (pd.read_csv(tmp_path / "out" / name) for name in tables[2:])
    first = nets.iloc[0]
    key = (first["arm"], first["map"], first["score"], first["against"])
    same = next(e for e in both.summary if (e.arm, e.map, e.score, e.against) == key)
    expected = [np.nan if number is None else number for number in (same.net.value, same.net.high)]
    assert [first["value"], first["high"]] == pytest.approx(expected, rel=1e-5, nan_ok=True)
    np.testing.assert_allclose(along["probability"], curve_table(both)["probability"], rtol=1e-5)
    with (tmp_path / "out" / "grounding.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(both.scores)
    assert float(rows[7]["value"]) == pytest.approx(both.scores["value"][7], rel=1e-5)
    with pytest.raises(InputError, match="already exists"):
        save_grounding(both, tmp_path / "out")


def test_examples_are_drawn_on_request(two_arms, tmp_path):
    both, _, _ = two_arms
    save_grounding(both, tmp_path / "out", examples=2)
    assert Image.open(tmp_path / "out" / "examples.png").size[0] > 600
    assert contents_of(tmp_path / "out" / "examples.png").images == 1, "not mistaken for a figure without images"


def test_the_map_of_a_feature(shipped):
    vlm, questions = shipped
    sae = load_sae(next((WORLD / "saes").rglob("layer_4_*")), 4, vlm.d_model)
    settings = GroundingSettings(MapSettings(maps=("attention",)), limit=1, paraphrases=0, curve_steps=1)
    found = study(vlm, None, questions, settings, (sae, 110))
    assert found.feature == f"4:110 of {sae.id}"
    assert list(found.maps["base"]) == ["attention", "feature"]
    with pytest.raises(InputError, match="features 0 to"):
        study(vlm, None, questions, settings, (sae, sae.d_sae))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"maps": "attention,heat"}, "--maps: found heat, expected some of attention"),
        ({"layers": "3-1"}, "--layers '3-1'"),
        ({"heads": "x"}, "--heads 'x'"),
    ],
)
def test_unknown_map_settings_are_refused(given, message):
    with pytest.raises(InputError) as stopped:
        map_settings(**({"maps": None, "fill": "grey", "layers": None, "heads": None} | given))
    assert message in str(stopped.value)


def test_layers_and_heads_that_the_model_lacks_are_refused(shipped):
    vlm, questions = shipped
    chosen = map_settings("attention", "mean", "0,9-10", "1")
    assert (chosen.maps, chosen.layers, chosen.heads) == (("attention",), (0, 9, 10), (1,))
    with pytest.raises(InputError, match="--layers: found 10, but base has layers 0 to 9"):
        study(vlm, None, questions, GroundingSettings(chosen))
    with pytest.raises(InputError, match="--heads: found 4, but base has heads 0 to 3"):
        study(vlm, None, questions, GroundingSettings(MapSettings(heads=(4,))))


def test_boxes_outside_the_image_are_refused(shipped):
    vlm, questions = shipped
    q = select_questions(questions, False, 1)[0].model_copy(update={"id": "mine", "boxes": [(70, 0, 90, 9)]})
    with pytest.raises(InputError, match=r"cannot be placed. Box .* 64 x 64 pixels"):
        study(vlm, None, [q])


@pytest.fixture
def run(called, monkeypatch, tmp_path):
    """Run `finetune grounding` in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return partial(called, "finetune", "grounding")


def test_the_command(run, boxed, tmp_path):
    from finetune.lora.adapter_folder import base_of

    vlm = load_vlm(boxed.model, "cpu", "float32")
    adapted = add_lora(vlm, [1])
    awaken(adapted)
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    assert base_of(tmp_path / "adapter") == str(boxed.model)
    shared = ["--questions", boxed.questions, "--device", "cpu", "--limit", 2, "--maps", "attention,gradient"]
    code, out, _ = run("adapter", *shared, "--layers", "0-1", "--out", "found", "--json", "--seed", 3)
    assert code == 0
    content = json.loads(out)
    assert content == json.loads((tmp_path / "found" / "grounding.json").read_text())
    assert content["arms"] == ["base", "adapter"]
    assert content["settings"]["seed"] == 3
    assert {e["map"] for e in content["summary"]} == {"attention", "gradient", "model"}
    code, out, _ = run("--model", boxed.model, *shared, "--fill", "blur")
    assert code == 0
    assert "paraphrase agreement" in out
    assert "filled with: blur" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "found"]


def test_mistakes_on_the_command_line(run, boxed, tmp_path):
    for arguments, message in (
        (["--out", tmp_path], "already exists"),
        (["--include-examples", 2], "Give one with --out"),
        (["--maps", "x"], "--maps: found x"),
        (["--feature", "9"], "expected LAYER:FEATURE"),
    ):
        (tmp_path / "file").write_text("")
        code, out, error = run("--model", boxed.model, "--questions", boxed.questions, *arguments)
        assert code == 2
        assert message in " ".join(error.split())
        assert "Traceback" not in error + out
