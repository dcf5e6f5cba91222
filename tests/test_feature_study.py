"""The study of one feature, against scipy, numpy, plain transformers and numerical derivatives."""

import io
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from scipy.stats import mannwhitneyu, pearsonr, spearmanr

from interp.cli import app as cli
from interp.feature.register_grid import controlled_pairs, grid_prompts, read_grid, study_grid
from interp.feature.save import save_study
from interp.feature.study import study_feature
from interp.feature.tracking import largest_among_flips
from interp.feature.weights import direct_effect, margin_slope, nearest_neighbours
from interp.images.decode import open_image
from interp.measurement.margins import measure
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.load import load_vlm
from interp.model.prompts import DEFAULT_STYLE
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.saes.feature_id import parse_feature
from interp.saes.locate import locate_saes
from interp.saes.sae import Sae, load_sae
from interp.schemas.record import Interval
from interp.schemas.study import EdgeEntry
from interp.views.figures.redraw import drawings
from interp.views.figures.style import SCREEN, save_figure
from interp.views.tables.feature import study_overview
from interp.views.terminal.show import show_overview

QUESTIONS = WORLD / "questions.jsonl"
ASKED = 240


@pytest.fixture(scope="module")
def planted():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def asked():
    return load_questions(QUESTIONS, split="train")[:ASKED]


@pytest.fixture(scope="module")
def sae_of():
    return {layer: load_sae(locate_saes(WORLD / "saes")[layer], layer, 128) for layer in (4, 5, 9)}


@pytest.fixture(scope="module")
def study(planted, sae_of, asked):
    return study_feature(planted, sae_of[4], asked, 110)


@pytest.fixture(scope="module")
def saved(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "feature"
    save_study(study, out)
    return out


@pytest.fixture
def tiny(tiny_model, own_data):
    """A random model, a random SAE of its layer 1, and tagged and untagged wordings of six patients."""
    vlm = load_vlm(tiny_model, "cpu", "float32")
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(40, vlm.d_model, generator=generator)
    zero = torch.zeros(40)
    return (
        vlm,
        Sae(1, "tiny", w.T.contiguous(), zero, w, torch.zeros(vlm.d_model), zero),
        load_questions(own_data / "questions.jsonl"),
    )


def by_hand(sae, residuals, feature):
    z = residuals @ sae.w_enc[:, feature] + sae.b_enc[feature]
    return torch.where(z > sae.threshold[feature], z, 0.0).double().numpy()


def few_frames():
    """A grid with one frame per level, which is faster."""
    return read_grid().groupby("level").head(1)


def shown(study):
    console = Console(width=120, file=io.StringIO())
    show_overview(study_overview(study), console)
    return console.file.getvalue()


def test_delta_against_margin_by_scipy(study, planted, sae_of, asked):
    prompts = prompt_table([q for q in asked if q.closed and q.same_meaning])
    residuals = measure(planted, prompts, [4]).residuals[:, 0]
    f = by_hand(sae_of[4], residuals, 110)
    pairs, flipped = study.flips.pairs, study.flips.flipped
    delta = f[pairs["paraphrase"]] - f[pairs["original"]]
    np.testing.assert_allclose(study.delta, delta, atol=1e-4)
    shift = study.flips.margin_after - study.flips.margin_before
    t = study.tracking
    assert t.r.value == pytest.approx(pearsonr(delta, shift).statistic, abs=1e-5)
    moved, stayed = np.abs(delta[flipped]), np.abs(delta[~flipped])
    assert t.flip_auc.value == pytest.approx(mannwhitneyu(moved, stayed).statistic / len(moved) / len(stayed), abs=1e-4)
    assert (t.pairs, t.flips) == (len(delta), int(flipped.sum()))
    assert study.density == pytest.approx((f > 0).mean(), abs=1e-6)
    for estimate in (t.r, t.flip_auc):
        assert estimate.low < estimate.value < estimate.high
    # The interval of r, from patients drawn one by one.
    rows_of = [np.flatnonzero(pairs["patient"] == p) for p in pairs["patient"].unique()]
    rng = np.random.default_rng(5)
    samples = []
    for _ in range(400):
        rows = np.concatenate([rows_of[k] for k in rng.integers(len(rows_of), size=len(rows_of))])
        samples.append(pearsonr(delta[rows], shift[rows]).statistic)
    np.testing.assert_allclose([t.r.low, t.r.high], np.percentile(samples, [2.5, 97.5]), atol=0.01)
    sae = sae_of[4]
    z = residuals @ sae.w_enc + sae.b_enc
    every = torch.where(z > sae.threshold, z, 0.0).numpy()
    winners = np.abs(every[pairs["paraphrase"]] - every[pairs["original"]])[flipped].argmax(1)
    counts = np.bincount(winners, minlength=sae.d_sae)
    assert t.largest == counts[110]
    best = int(counts.argmax())
    assert largest_among_flips(sae, residuals, best, study.flips) == counts[best] > 1


def test_recovery_by_group_adds_up_to_the_whole(study):
    test = study.test
    assert test.n == int(study.flips.banked.sum())
    for grouping in ("finding", "phenomenon", "registers"):
        mine = [g for g in study.groups if g.grouping == grouping]
        assert sum(g.pairs for g in mine) == test.n
        weight = np.array([g.shift for g in mine])
        whole = weight @ [g.recovery.value for g in mine] / weight.sum()
        assert whole == pytest.approx(test.recovery.value, abs=1e-4)
    assert {g.group for g in study.groups if g.grouping == "registers"} <= {
        f"{a}-{b}" for a in ("formal", "casual") for b in ("formal", "casual")
    }
    for group in study.groups:
        assert (group.recovery.low is None) == (group.patients < 5)


def test_the_grid_by_plain_transformers(planted, sae_of, asked):
    prompts = prompt_table(asked[:1])
    grid = read_grid()
    rows = grid_prompts(grid, ["lung opacity"], prompts, seed=0)
    rows = rows[rows["level"].isin([0, 4])].groupby("level").head(1)
    _, cells = study_grid(planted, sae_of[5], 466, rows, seed=0)
    assert list(cells["prompts"]) == [1, 1]
    for (_, row), cell in zip(rows.iterrows(), cells["mean_activation"], strict=True):
        image = {"type": "image", "image": open_image(row["image"])}
        inputs = planted.processor.apply_chat_template(
            [{"role": "user", "content": [image, {"type": "text", "text": row["text"]}]}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            states = planted.model(**inputs, output_hidden_states=True).hidden_states
        # hidden_states[0] is the embedding, so [6] is the output of layer 5.
        assert cell == pytest.approx(by_hand(sae_of[5], states[6][0, -1:], 466)[0], abs=1e-3)
    assert rows["text"].iloc[0] == "Please determine whether a lung opacity is identified."
    assert cells["mean_activation"].iloc[0] > 1


def test_the_grid_statistics_by_scipy(planted, sae_of, asked):
    prompts = prompt_table(asked)
    rows = grid_prompts(read_grid(), ["pleural effusion"], prompts, seed=3).reset_index(drop=True)
    assert rows["image"].nunique() == rows["patient"].nunique() == 20
    found, _ = study_grid(planted, sae_of[5], 466, rows, seed=0)
    f = by_hand(sae_of[5], measure(planted, rows, [5]).residuals[:, 0], 466)
    level = rows["level"].to_numpy()
    for entry in found.levels:
        assert entry.mean.value == pytest.approx(f[level == entry.level].mean(), abs=1e-4)
        assert entry.mean.low <= entry.mean.value <= entry.mean.high
    u = mannwhitneyu(f[level == 0], f[level == 4]).statistic / (level == 0).sum() / (level == 4).sum()
    assert found.auc.value == pytest.approx(u, abs=1e-3)
    assert found.spearman.value == pytest.approx(spearmanr(level, f).statistic, abs=1e-3)
    assert found.spearman.high < 0 < 0.5 < found.auc.low
    # Token-controlled pairs by the tokenizer alone.
    ids = [planted.processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in rows["text"]]
    expected = {
        (i, j)
        for _, same in rows.groupby(["image", "finding"])
        for i in same.index
        for j in same.index
        if level[i] < level[j] and ids[i][-3:] == ids[j][-3:]
    }
    pairs = controlled_pairs(planted, rows)
    assert {tuple(pair) for pair in pairs.tolist()} == expected
    assert found.controlled_pairs == len(expected) > 100
    assert found.controlled.value == pytest.approx(np.mean([f[i] - f[j] for i, j in expected]), abs=1e-3)


def test_wordings_that_normalization_makes_equal_are_no_pair(planted, asked):
    rows = grid_prompts(read_grid(), ["pleural effusion"], prompt_table(asked[:1]), seed=0)
    planted.style = DEFAULT_STYLE._replace(normalize=True)
    try:
        same = len(controlled_pairs(planted, rows))
        planted.style = DEFAULT_STYLE._replace(answer_instruction="Answer yes or no.", image_first=False)
        instructed = len(controlled_pairs(planted, rows))
    finally:
        planted.style = DEFAULT_STYLE
    plain = len(controlled_pairs(planted, rows))
    assert same < plain
    assert instructed == plain


def test_neighbours_by_numpy(study, sae_of):
    w = sae_of[4].w_dec.double().numpy()
    cosine = w @ w[110] / np.linalg.norm(w, axis=1) / np.linalg.norm(w[110])
    order = [k for k in np.argsort(-cosine) if k != 110][:8]
    assert [n.feature for n in study.neighbours] == order
    np.testing.assert_allclose([n.cosine for n in study.neighbours], cosine[order], atol=1e-5)
    assert len(nearest_neighbours(sae_of[4]._replace(w_dec=sae_of[4].w_dec[:3], w_enc=sae_of[4].w_enc[:, :3]), 1)) == 2


def test_direct_effect_and_slope_by_numerical_derivatives(study, planted, sae_of, asked):
    prompts = prompt_table([q for q in asked if q.closed and q.same_meaning])
    last = measure(planted, prompts, [9]).residuals[:, 0]
    direction, norm = sae_of[4].w_dec[110].double(), planted.model.model.language_model.norm.double()
    unembedding = planted.model.lm_head.weight.double()

    def frozen(step):
        """Mean yes logit minus mean no logit, by the model's own norm, but divided by the same RMS for all prompts."""
        x = last.double() + step * direction
        rms = x.pow(2).mean(-1, keepdim=True).add(norm.eps).sqrt()
        logits = (norm(x) * rms / last.double().pow(2).mean(-1).add(norm.eps).sqrt().mean()) @ unembedding.T
        return (logits[:, planted.answers.yes].mean(-1) - logits[:, planted.answers.no].mean(-1)).mean()

    try:
        numerical = float((frozen(0.5) - frozen(-0.5)).detach())
    finally:
        norm.float()
    assert study.direct_effect == pytest.approx(numerical, rel=1e-5)

    # The margin of the whole model with the last layer's residual moved.
    few = prompts.iloc[:20]
    step = 0.5
    ways = torch.stack([step * direction.float(), -step * direction.float()]).expand(20, -1, -1)
    moved = SuffixRerun(planted, few).margins([9, 9], ways)
    slope = float((moved[:, 0] - moved[:, 1]).double().mean()) / (2 * step)
    assert margin_slope(planted, sae_of[4], 110, last[:20]) == pytest.approx(slope, rel=0.02, abs=1e-4)
    # The two agree on the whole, but not for every feature (see the docstring of margin_slope).
    features = range(0, 512, 8)
    both = [[of(planted, sae_of[4], k, last[:200]) for k in features] for of in (direct_effect, margin_slope)]
    assert np.corrcoef(both)[0, 1] > 0.7


def test_discriminating_flips_is_not_causing_them(study, planted, sae_of, asked):
    """5:466 has the highest flip AUC and follows the register, but its patch recovers nothing; that of 4:110 does."""
    teller = study_feature(planted, sae_of[5], asked, 466, few_frames())
    assert teller.tracking.flip_auc.value > 0.8
    assert study.test.net.low > 0.05
    assert teller.test.net.high < 0
    assert teller.test.recovery.value < 0 < study.test.recovery.value
    assert teller.grid.auc.low > 0.85
    assert study.test.reversals > teller.test.reversals == 0


def test_the_place_of_a_feature_of_the_shipped_world(study):
    """Its gate was planted in layers 4 and 5; 4:110 carries the finding that is asked for, so its effect is direct."""
    assert study.writing_layers == [4, 5]
    assert study.place == "echo"
    assert study.test.direct.value > 0.8 * study.test.recovery.value
    writes = {each.layer: each.net_write.value for each in study.writes}
    assert list(writes) == list(range(10))
    assert min(writes[4], writes[5]) > 4 * max(value for layer, value in writes.items() if layer not in (4, 5))
    assert study.mediating_layers == []
    # What the SAE leaves out of this layer's change does nothing.
    assert study.parts.whole.recovery.value > 0.9
    assert study.parts.features.recovery.value > 0.9
    assert study.parts.error.recovery.high < 0.05
    # The feature carries the answer, so the model needs it.
    assert study.clamp.flip_rate_change.low > 0.1
    assert study.clamp.accuracy_change.high < 0


def test_a_study_on_disk(saved, study):
    content = json.loads((saved / "study.json").read_text())
    assert content["tracking"]["r"]["value"] == pytest.approx(study.tracking.r.value, rel=1e-5)
    assert content["test"]["recovery"]["value"] == pytest.approx(study.test.recovery.value, rel=1e-5)
    assert [level["level"] for level in content["grid"]["levels"]] == [0, 1, 2, 3, 4]
    groups, grid = pd.read_csv(saved / "by_group.csv"), pd.read_csv(saved / "grid.csv")
    assert list(groups["pairs"]) == [g.pairs for g in study.groups] == [g["pairs"] for g in content["groups"]]
    np.testing.assert_allclose(groups["low"], np.array([g.recovery.low for g in study.groups], float), rtol=1e-4)
    assert grid.groupby("level")["prompts"].sum().tolist() == [level.prompts for level in study.grid.levels]
    figures = {"delta_margin", "dose", "by_group", "register_grid"}
    files = {f"{figure}{end}" for figure in figures for end in (".png", ".svg", ".csv")}
    assert {p.name for p in saved.iterdir()} == files | {"study.json", "grid.csv"}
    for drawing in drawings(saved):
        again = save_figure(drawing.draw(SCREEN), saved.parent / drawing.name, drawing.frame)
        assert [p.read_bytes() for p in again] == [(saved / p.name).read_bytes() for p in again]
    with pytest.raises(InputError, match="nothing is overwritten"):
        save_study(study, saved)


def test_nothing_of_the_questions_is_written(saved, asked):
    written = "".join(path.read_text() for path in saved.iterdir() if path.suffix != ".png")
    secrets = {q.question for q in asked} | {p.text for q in asked for p in q.paraphrases}
    secrets |= {q.patient for q in asked} | {q.id for q in asked} | {q.image for q in asked} | {str(WORLD)}
    assert not [secret for secret in secrets if secret in written]


def test_edges_as_circuit_tracer_reads_them(study, saved, tmp_path):
    """The features come back from circuit-tracer's numbers, and every link is an edge of the study or its recovery."""
    assert not (saved / "circuit").exists()
    undone = Interval(value=0.25, low=0.1, high=0.4)
    ends = [(2, 188, 4, 110), (4, 110, 6, 349), (4, 110, 9, 337)]
    edges = [
        EdgeEntry(source_layer=a, source_feature=b, target_layer=c, target_feature=d, predicted=None, undone=undone)
        for a, b, c, d in ends
    ]
    save_study(study.model_copy(update={"edges": edges}), tmp_path / "study")
    (listed,) = json.loads((tmp_path / "study/circuit/graph-metadata.json").read_text())["graphs"]
    graph = json.loads((tmp_path / f"study/circuit/{listed['slug']}.json").read_text())
    assert graph["metadata"] == listed
    # The page drops features that are at more than two thirds of the tokens.
    assert len(listed["prompt_tokens"]) > 1

    def unpaired(number):
        diagonal = (int((8 * number + 1) ** 0.5) - 1) // 2
        feature = number - diagonal * (diagonal + 1) // 2
        return diagonal - feature, feature

    nodes = {node["node_id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"]) == 5
    *features, margin = graph["nodes"]
    assert [unpaired(node["feature"]) for node in features] == [(2, 188), (4, 110), (6, 349), (9, 337)]
    assert all(node["layer"] == node["clerp"].split(":")[0] for node in features)
    links = [
        (*unpaired(nodes[link["source"]]["feature"]), *unpaired(nodes[link["target"]]["feature"]), link["weight"])
        for link in graph["links"][:-1]
    ]
    assert links == [(*each, 0.25) for each in ends]
    last = graph["links"][-1]
    assert (last["target"], nodes[last["source"]]["clerp"]) == (margin["node_id"], "4:110")
    assert last["weight"] == study.test.recovery.value
    # The page reads the probability between these signs.
    shown = float(margin["clerp"].split("(p=")[1].split(")")[0])
    assert shown == pytest.approx(study.test.reversals / study.test.n, abs=5e-4)


def test_the_terminal_view(study):
    text = shown(study)
    for said in (
        "4:110",
        "net of random directions",
        "formal-casual",
        "Level 0 is the most formal",
        "Nearest neighbours of feature 4:110",
        "Same last tokens, more formal minus more casual: ",
        f"Flip AUC of |delta|: {study.tracking.flip_auc.value:.2f} [",
    ):
        assert said in text
    assert "nan" not in text


def test_no_flips_give_null_and_a_sentence(tiny, tmp_path):
    vlm, sae, questions = tiny
    same = [
        q.model_copy(update={"paraphrases": [p.model_copy(update={"text": q.question}) for p in q.paraphrases]})
        for q in questions
    ]
    active = sae.encode(measure(vlm, prompt_table(same), [1]).residuals[:, 0]).mean(0).argmax()
    study = study_feature(vlm, sae, same, int(active), sae_of={0: tmp_path, 1: tmp_path})
    assert (study.tracking.flips, study.test, study.groups) == (0, None, [])
    assert (study.edges, study.token_edges) == ([], [])
    assert "No flip is banked, so there is no change to trace to other features or to tokens." in study.notes
    assert any("No pair flips" in note for note in study.notes)
    assert any("never varies" in note for note in study.notes)
    save_study(study, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "study.json").read_text())
    assert (content["test"], content["tracking"]["flip_auc"]["value"], content["tracking"]["r"]["low"]) == (None,) * 3
    assert "Flip AUC of |delta|: –\n" in shown(study)
    assert "nan" not in shown(study)


def test_untagged_flips_of_few_patients(tiny, tmp_path):
    """Two patients, no tags, no finding of the lexicon, and margins on both sides of zero."""
    vlm, sae, questions = tiny
    odd = [
        q.model_copy(
            update={
                "question": "Is it there?",
                "paraphrases": [p.model_copy(update={"register_": None, "phenomenon": None}) for p in q.paraphrases],
            }
        )
        for q in questions[:4]
    ]
    with torch.no_grad():
        # The answer depends on a direction in which these wordings differ.
        prompts = prompt_table(odd)
        last = measure(vlm, prompts, [vlm.n_layers - 1]).residuals[:, 0]
        away = last[::3].mean(0) - last[1::3].mean(0)
        head = torch.zeros_like(vlm.model.lm_head.weight)
        hidden = vlm.model.model.language_model.norm(last)
        middle = (hidden @ away).quantile(0.5)
        head[vlm.answers.yes[0]] = 5 * (away - middle * hidden.mean(0) / hidden.mean(0).norm() ** 2)
        vlm.model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    study = study_feature(vlm, sae, odd, int(sae.encode(last).mean(0).argmax()))
    assert study.tracking.flips > 0
    assert {g.group for g in study.groups} == {"other", "untagged"}
    assert all(e.low is None for e in (study.test.recovery, study.test.net, *(g.recovery for g in study.groups)))
    for said in ("has registers tagged", "has phenomenon tagged", "fewer than 5", "common ones"):
        assert any(said in note for note in study.notes)
    assert study.grid.findings[0] == "pleural effusion"
    save_study(study, tmp_path / "out")
    assert "nan" not in shown(study)


def test_a_dead_feature_is_said_to_be_dead(tiny):
    vlm, sae, questions = tiny
    study = study_feature(vlm, sae._replace(threshold=torch.full((40,), 1e9)), questions, 0)
    assert study.density == 0
    assert any("active on none" in note for note in study.notes)
    assert study.tracking.r.value is None
    assert study.grid.spearman.value is None
    assert study.tracking.largest == 0


def test_a_dead_sae_on_flips(planted, sae_of, asked, tmp_path):
    silent = sae_of[4]._replace(threshold=torch.full((512,), 1e9))
    study = study_feature(planted, silent, asked[:60], 110, few_frames())
    assert study.test.n > 0
    assert study.test.recovery.value == pytest.approx(0, abs=1e-5)
    assert study.test.matched is None
    save_study(study, tmp_path / "out")
    assert "nan" not in shown(study)


def test_the_shipped_grid():
    grid = read_grid()
    assert sorted(grid["level"].unique()) == [0, 1, 2, 3, 4]
    assert (grid["level"].value_counts() >= 3).all()
    assert grid["frame"].is_unique


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("level,frame\n0,Is {x} {y}?\n4,Got {x}?\n", "row 2: found frame 'Is {x} {y}\\?', expected no braces"),
        ("level,frame\n0,Is it there?\n4,Got {x}?\n", "row 2: found frame 'Is it there\\?', expected one with {x}"),
        ("register,text\n0,Is {x}?\n", "found the columns register, text, expected level, frame"),
        ("level,frame\n7,Is {x}?\n", "found level '7', expected 0 .* to 4"),
        ("level,frame\n0,Is {x}?\n0,Got {x}?\n", "found 1 levels, expected at least two"),
        ("level,frame\n0,So, is {x}, there?\n", "found|not a CSV"),
        ("", "not a CSV"),
    ],
)
def test_bad_grids_are_refused(tmp_path, text, match):
    path = tmp_path / "grid.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=match):
        read_grid(path)


def test_a_grid_that_is_not_text(tmp_path):
    (tmp_path / "grid.csv").write_bytes(b"level,frame\n0,\xff\xfe{x}\n")
    with pytest.raises(InputError, match="not a CSV file in UTF-8"):
        read_grid(tmp_path / "grid.csv")


@pytest.mark.parametrize("written", ["4", "4-110", "a:b", "4:-1", ":", "4:110:2", "", "4:1.5"])
def test_bad_feature_names_are_refused(written):
    with pytest.raises(InputError, match="expected LAYER:FEATURE"):
        parse_feature(written)
    assert parse_feature("17:3818") == (17, 3818)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["4:512"], "has the features 0 to 511"),
        (["4-110"], "expected LAYER:FEATURE"),
        (["33:1"], "found SAEs of the layers 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, expected one of layer 33"),
        (["4:110", "--grid", "nowhere.csv"], "nowhere.csv: no such file"),
        (["4:110", "--questions", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
    ],
)
def test_bad_input_is_one_paragraph_and_writes_nothing(monkeypatch, capsys, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["interp", "test-feature", *arguments, "--out", "fresh", "--limit", "5"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2
    assert error.startswith("error: ")
    assert said in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("beside", [[], [12]], ids=["its own layer alone", "and one that the model lacks"])
def test_edges_without_saes_of_other_layers_are_refused(tiny, beside, tmp_path):
    vlm, sae, questions = tiny
    with pytest.raises(InputError, match="--edges: found SAEs of no layer of model but 1, expected those of others"):
        study_feature(vlm, sae, questions, 0, sae_of=dict.fromkeys([1, *beside], tmp_path))


def test_the_command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.csv").write_text('level,frame\n0,Is there radiographic evidence of {x}?\n4,"So, got {x}?"\n')
    arguments = ["5:466", "--limit", "20", "--grid", "grid.csv", "--out", "fresh", "--split", "all"]
    monkeypatch.setattr(sys, "argv", ["interp", "test-feature", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert "5:466" in capsys.readouterr().out
    assert [
        level["level"] for level in json.loads((tmp_path / "fresh" / "study.json").read_text())["grid"]["levels"]
    ] == [0, 4]
