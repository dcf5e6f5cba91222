"""Figures: their data beside them, the same bytes when drawn again, and nothing cut off, overlapping or too small."""

import json
from functools import partial

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from figure_data import (
    FOLDERS,
    MODEL,
    adapter_folder,
    evaluation_of,
    flips_of,
    history_of,
    layers_of,
    pairs_of,
    study_of,
)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from finetune.ablation.metrics import METRICS
from interp.runtime.errors import InputError
from interp.views.figures import activation_by_register, delta_against_margin, layer_profile
from interp.views.figures.density import SHADES
from interp.views.figures.direct_labels import apart
from interp.views.figures.evaluation import (
    changes_against_base,
    changes_frame,
    evaluation_drawings,
    refuse_drawn,
    reliability,
    reliability_frame,
    save_evaluation_figures,
)
from interp.views.figures.feature_study import dose_frame, level_frame, recovery_by_dose
from interp.views.figures.margin import DENSE, ZEROS, delta_frame
from interp.views.figures.profile import profile_frame
from interp.views.figures.quadrants import quadrants, quadrants_frame
from interp.views.figures.redraw import drawings
from interp.views.figures.register import register_frame, shares_above
from interp.views.figures.style import (
    SIZES,
    figure_paths,
    read_frame,
    rounded,
    save_figure,
    save_figures,
    svg_of,
)
from interp.views.figures.training import training_curves
from interp.views.labels import LESS_IS_BETTER


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp("figures") / name) for name, make in FOLDERS.items()}


@pytest.fixture
def run(called):
    """Run `interp` and return its exit code, stdout and stderr."""
    return partial(called, "interp")


def drawn_texts(figure: Figure) -> list[Text]:
    """The texts of a figure that are drawn; ticks outside the axes are not."""
    texts = []
    own = Text.draw

    def draw(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text():
            texts.append(self)
        return own(self, renderer, *args, **kwargs)

    FigureCanvasAgg(figure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        figure.draw_without_rendering()
    return texts


def box_of(text: Text) -> np.ndarray:
    return text.get_window_extent(text.get_figure(root=True).canvas.get_renderer()).extents


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """The smaller side of the overlap of two boxes [pixels]; not above 0 if they do not overlap."""
    return float((np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).min())


def check_series(figure: Figure) -> None:
    """Axes have labels, and the series in a legend differ in marker or line."""
    assert any(ax.get_xlabel() for ax in figure.axes)
    assert any(ax.get_ylabel() or ax.yaxis.get_ticklabels() for ax in figure.axes)
    handles = {
        label: handle[0] if isinstance(handle, ErrorbarContainer) else handle
        for ax in figure.axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        if isinstance(handle, Line2D | ErrorbarContainer)
    }
    looks = [(line.get_marker(), line.get_linestyle()) for line in handles.values()]
    assert len(set(looks)) == len(looks), list(handles)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FOLDERS)
def test_all_text_is_on_the_canvas_apart_and_legible(folders, name, size):
    for drawing in drawings(folders[name]):
        figure = drawing.draw(SIZES[size])
        texts = drawn_texts(figure)
        assert len(texts) > 5
        width, height = figure.canvas.get_width_height()
        assert figure.get_figwidth() == {"column": 3.3, "page": 6.9, "screen": 8}[size]
        assert figure.get_figheight() <= 10, "fits a page"
        boxes = np.array([box_of(text) for text in texts])
        named = f"{drawing.name}: {{!r}}".format
        for text, box in zip(texts, boxes, strict=True):
            inside = (box[:2] >= -0.5).all() and (box[2:] <= np.array([width, height]) + 0.5).all()
            assert inside, named(text.get_text())
            assert text.get_fontsize() >= 7, named(text.get_text())
            assert "a-medical-model" not in text.get_text(), "no title is the name of a folder"
        # A point of overlap is the empty edge of a box.
        point = figure.dpi / 72
        for i, box in enumerate(boxes):
            for j in range(i):
                assert overlap(box, boxes[j]) <= point, named((texts[i].get_text(), texts[j].get_text()))
        check_series(figure)


def test_print_is_of_300_dots_an_inch(tmp_path):
    frame = pairs_of(20)
    for name, size in SIZES.items():
        _, png, _ = save_figure(delta_against_margin(frame, size=size), tmp_path / name, frame)
        assert Image.open(png).size[0] >= (1 if name == "screen" else 300) * size.width - 1


def test_drawn_again_it_has_the_same_bytes(folders, run, tmp_path):
    before = {path.name: path.read_bytes() for path in folders["search"].iterdir()}
    # Whatever else was drawn or set up in the process makes no difference.
    with mpl.rc_context({"font.size": 30, "font.family": "monospace", "svg.fonttype": "none", "lines.marker": "x"}):
        code, out, err = run("figures", folders["search"], "--out", tmp_path / "again")
    assert (code, err) == (0, "")
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert set(again) == set(before) - {"layers.json"}
    assert len(again) == 3 * 3 == len(out.splitlines())
    for file, content in again.items():
        assert content == before[file], file
    assert {path.name: path.read_bytes() for path in folders["search"].iterdir()} == before


def test_an_svg_has_outlines_no_date_and_nothing_random():
    artifact = layers_of(6)
    first, second = (svg_of(layer_profile(artifact)) for _ in range(2))
    assert first == second != svg_of(layer_profile(layers_of(6, seed=1)))
    assert "<text" not in first
    assert "dc:date" not in first


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    class Broken(pd.DataFrame):
        def to_csv(self, path, **options):
            path.write_text("half")
            raise OSError("the disk went away")

    frame = pairs_of(20)
    with pytest.raises(OSError, match="went away"):
        save_figure(delta_against_margin(frame), tmp_path / "a.b", Broken(frame))
    assert list(tmp_path.iterdir()) == []
    paths = save_figure(delta_against_margin(frame), tmp_path / "a.b", frame)
    assert paths == figure_paths(tmp_path / "a.b") == [tmp_path / f"a.b{end}" for end in (".svg", ".png", ".csv")]
    assert sorted(paths) == sorted(tmp_path.iterdir())


def test_the_profile_table_holds_what_layers_json_holds(folders):
    artifact, table = layers_of(34), read_frame(folders["search"] / "layer_profile.csv")
    pd.testing.assert_frame_equal(table, profile_frame(artifact), check_dtype=False, check_exact=True)
    rows = {(row.layer, row.score): row for row in table.itertuples()}
    for entry in artifact.profile:
        assert rows[entry.layer, "recovery"].value == entry.recovery.value
        assert rows[entry.layer, "flip_auc"].low == entry.flip_auc.low
        assert rows[entry.layer, "recovery"].chosen == (entry.layer in (2, 3))
        assert rows[entry.layer, "net_answer"].value == entry.answer.value - entry.random_answer.value
        if entry.layer < 33:
            assert rows[entry.layer, "answer_growth"].high == entry.answer_growth.high
            assert rows[entry.layer, "register_patch"].value == entry.register_patch.value
    assert (33, "answer_growth") not in rows, "what was not measured is not there"
    assert np.isnan(rows[33, "register_patch"].value)


def named(ax) -> dict[str, str]:
    """The names beside the curves of axes -> their colours."""
    return {text.get_text().replace("\n", " "): text.get_color() for text in ax.texts}


@pytest.mark.parametrize("layers", [10, 34])
def test_the_profile_draws_the_answer_patch_its_growth_and_two_lines_for_contrast(layers):
    artifact = layers_of(layers)
    _, below = layer_profile(artifact).axes
    colours = named(below)
    answers, residual, register = (
        next(line for line in below.lines if line.get_color() == colours[name] and len(line.get_xdata()) == layers)
        for name in ("answer patch, net of random", "residual patch", "register patch")
    )
    net = [entry.answer.value - entry.random_answer.value for entry in artifact.profile]
    assert answers.get_ydata() == pytest.approx(net)
    assert residual.get_ydata() == pytest.approx([e.recovery.value for e in artifact.profile])
    assert register.get_ydata()[:-1] == pytest.approx([e.register_patch.value for e in artifact.profile[:-1]])
    assert (register.get_marker(), register.get_linestyle()) == ("None", "--")
    assert register.get_linewidth() < answers.get_linewidth() > residual.get_linewidth()
    bars = [p for p in below.patches if mpl.colors.to_hex(p.get_edgecolor()) == colours["growth of the answer patch"]]
    assert [bar.get_height() for bar in bars] == pytest.approx([e.answer_growth.value for e in artifact.profile[:-1]])


def test_every_curve_of_the_profile_has_a_colour_and_a_name_of_its_own_at_its_end():
    artifact = layers_of(10)
    figure = layer_profile(artifact)
    above, below = figure.axes
    assert set(named(above)) == {"chosen features, held out", "best layer, flips shuffled (95%)", "chance"}
    names = {**named(above), **named(below)}
    assert len(set(names.values()) - {"#8a8a8a"}) == len(names) - 2, "the residual patch and a reference line are grey"
    assert not figure.legends
    drawn_texts(figure)
    for ax in figure.axes:
        # The names stand in the order of the last values.
        heights = {text.get_text(): text.xy[1] for text in ax.texts}
        assert min(heights.values()) >= 0
    residual, register = (below.texts[i].xy[1] for i in (1, 2))
    last = artifact.profile[-2]
    assert (residual > register) == (artifact.profile[-1].recovery.value > last.register_patch.value)


def test_labels_are_moved_apart_in_their_order_and_stay_inside():
    at, heights = np.array([50.0, 51, 10, 99, 98]), np.full(5, 10.0)
    found = apart(at, heights, 100)
    assert found[2] == 10, "who stands alone stays"
    assert found.tolist() == pytest.approx([50, 60, 10, 95, 85])
    assert apart(np.array([-3.0]), np.array([8.0]), 100).tolist() == [4]


def test_the_title_says_the_verdict_and_the_counts_but_no_folder():
    artifact = layers_of(10)
    title = layer_profile(artifact).get_suptitle()
    assert title == "Gate found in layers 2-3: 3 flips of 9 pairs, 9 patients"
    assert not any(MODEL in text.get_text() for text in drawn_texts(layer_profile(artifact)))


def test_the_profile_of_an_earlier_search_has_its_own_patches():
    artifact = layers_of(10, answers=False)
    _, below = layer_profile(artifact).axes
    colours = named(below)
    assert set(colours) == {
        "residual patch",
        "random directions",
        "joint feature patch, net of random",
        "direct-effect patch, net of random",
    }
    bars = [
        p
        for p in below.patches
        if mpl.colors.to_hex(p.get_edgecolor()) == colours["direct-effect patch, net of random"]
    ]
    heights = [bar.get_height() for bar in bars]
    assert heights == pytest.approx([e.net_write.value for e in artifact.profile[:-1]] + [0])
    assert {"random_patch", "net_feature_patch", "net_write"} <= set(profile_frame(artifact)["score"])


def test_layers_that_are_apart_are_shaded_apart():
    artifact = layers_of(10).model_copy(update={"layers": [2, 3, 7], "verdict": "spread over layers"})
    figure = layer_profile(artifact)
    for ax in figure.axes:
        bands = sorted(tuple(p.get_bbox().intervalx) for p in ax.patches if p.get_alpha() == 0.12)
        assert bands == [(1.5, 3.5), (6.5, 7.5)]
    assert figure.get_suptitle().startswith("Spread over layers in layers 2-3, 7")


def test_the_tables_of_pairs_and_wordings_name_none_of_them(folders):
    delta, flips = flips_of(300)
    table = read_frame(folders["search"] / "delta_margin.csv")
    assert list(table) == ["layer", "feature", "delta", "shift", "flipped"]
    order = np.lexsort([flips.margin_after - flips.margin_before, delta])
    assert table["delta"].to_numpy() == pytest.approx(delta[order], rel=1e-5)
    assert table["shift"].to_numpy() == pytest.approx((flips.margin_after - flips.margin_before)[order], rel=1e-5)
    assert table["flipped"].tolist() == flips.flipped[order].tolist()
    wordings = read_frame(folders["search"] / "register.csv")
    assert list(wordings) == ["layer", "feature", "register", "activation"]
    for _, group in wordings.groupby("register"):
        assert group["activation"].is_monotonic_increasing, "not in the order of the wordings"


def test_the_scatter_says_how_delta_and_shift_go_together():
    from scipy.stats import pearsonr

    delta, flips = flips_of(300)
    shift = flips.margin_after - flips.margin_before
    figure = delta_against_margin(delta_frame(4, 110, delta, shift, flips.flipped))
    r = pearsonr(delta, shift).statistic
    assert figure.get_suptitle() == f"Layer 4, feature 110: r = {r:.2f}, 300 pairs"
    silent = delta_against_margin(delta_frame(4, 110, np.zeros(300), shift, flips.flipped))
    assert "r undefined" in silent.get_suptitle()


def test_many_points_become_a_density_that_loses_no_pair_and_keeps_the_file_small():
    few, many, more = (svg_of(delta_against_margin(pairs_of(n))) for n in (DENSE, 4 * DENSE, 20_000))
    assert "<image" not in few + many + more
    assert len(more) < 1.5 * len(many) < 500_000
    stays, flips = (len(part) for _, part in sorted(pairs_of(20_000).groupby("flipped")))
    axes = delta_against_margin(pairs_of(20_000)).axes[0]
    labels = [handle.get_label() for handle in axes.collections]
    assert f"answer stays (n = {stays:,})" in labels
    assert f"answer flips (n = {flips:,})" in labels
    assert not sum(len(c.get_offsets()) for c in axes.collections if c.get_label().startswith("answer")), "no point"
    shades = {tuple(colour) for c in axes.collections for colour in c.get_facecolor()}
    assert len(shades) <= 2 * SHADES + 2


def test_pairs_in_which_the_feature_does_not_change_are_a_density_of_their_shifts():
    rng = np.random.default_rng(0)
    shift = np.concatenate([rng.normal(0, 0.2, 3000), [5.0, -5.0]])
    frame = delta_frame(
        4, 110, np.concatenate([np.zeros(3000), [10, -10]]), shift, np.array([False] * 3000 + [True] * 2)
    )
    axes = delta_against_margin(frame).axes[0]
    stays, flips = (c for c in axes.collections if c.get_label().startswith("answer"))
    assert stays.get_label() == "answer stays (n = 3,000, at 0: 3,000)"
    assert len(stays.get_offsets()) == 0
    assert flips.get_offsets().tolist() == [[-10, -5], [10, 5]]
    (column,) = [c for c in axes.collections if not c.get_label().startswith("answer")]
    outline = column.get_paths()[0].vertices
    assert np.ptp(outline[:, 0]) < 0.1 * 20, "narrow beside the range of the others"
    widest = outline[np.abs(outline[:, 0]).argmax(), 1]
    counts, edges = np.histogram(shift[:3000], 40)
    assert edges[counts.argmax()] <= widest <= edges[counts.argmax() + 1]
    alone = delta_against_margin(frame.assign(delta=0.0)[: ZEROS - 5]).axes[0]
    assert sum(len(c.get_offsets()) for c in alone.collections) == ZEROS - 5, "few are points"


def test_the_register_curve_is_the_share_of_wordings_above_and_begins_at_those_that_are_active():
    register = np.array(["formal"] * 30 + ["casual"] * 10 + [None] * 5, object)
    activation = np.concatenate([np.zeros(6), np.full(24, 4.0), np.zeros(10), np.full(5, 9.0)])
    frame = register_frame(4, 110, activation, register)
    assert len(frame) == 40
    formal, casual = activation_by_register(frame).axes[0].lines
    assert formal.get_xydata().tolist() == [[0, 0.8], [4, 0]]
    assert casual.get_xydata().tolist() == [[0, 0]]
    at, share = shares_above(np.array([0, 1, 1, 2.5]))
    assert (at.tolist(), share.tolist()) == ([0, 1, 2.5], [0.75, 0.25, 0])


def test_the_tables_of_a_study_hold_what_study_json_holds(folders):
    content = json.loads((folders["study"] / "study.json").read_text())
    doses = read_frame(folders["study"] / "dose.csv")
    feature = doses[doses["patch"] == "feature"]
    assert feature["value"].tolist() == content["test"]["dose"]
    assert feature["dose"].tolist() == content["doses"]
    assert feature.loc[feature["dose"] == 1, "low"].tolist() == [content["test"]["recovery"]["low"]]
    assert feature.loc[feature["dose"] != 1, ["low", "high"]].isna().all(None)
    controls = doses[doses["patch"] != "feature"].set_index("patch")["value"]
    assert controls["random"] == content["test"]["random"]
    assert np.isnan(controls["matched"])
    groups = read_frame(folders["study"] / "by_group.csv")
    assert groups["recovery"].tolist() == [g["recovery"]["value"] for g in content["groups"]]
    assert np.isnan(groups["low"].iloc[-1])
    levels = read_frame(folders["study"] / "register_grid.csv")
    means = levels[levels["frame"].isna()]
    assert means["high"].tolist() == [level["mean"]["high"] for level in content["grid"]["levels"]]
    cells = study_of().cells
    one = cells[(cells["level"] == 2) & (cells["frame"] == "frame 1 {x}")]["mean_activation"].mean()
    assert levels.loc[(levels["level"] == 2) & (levels["frame"] == "frame 1 {x}"), "value"].tolist() == pytest.approx(
        [one], rel=1e-5
    )
    assert dose_frame(content)["value"].tolist()[:4] == content["test"]["dose"]
    assert len(level_frame(content, cells)) == 5 + 20


def test_the_tables_of_an_evaluation_hold_what_evaluation_json_holds():
    evaluation = evaluation_of()
    content = json.loads(evaluation.to_json())
    changes = changes_frame(content)
    assert list(dict.fromkeys(changes["arm"])) == evaluation.shown
    for row in changes.itertuples():
        assert row.value == pytest.approx(evaluation.find(row.arm, row.measure).difference.value, rel=1e-5)
    first = evaluation.shown[0]
    drawn = changes_against_base(changes).axes[0].containers[0].lines[0].get_xdata()
    assert drawn == pytest.approx(
        [100 * c.difference.value for c in evaluation.comparisons if c.arm == first], rel=1e-5
    )

    curves = reliability_frame(content)
    (axes,) = reliability(curves).axes
    drawn = {container.get_label(): container for container in axes.containers}
    enough = [point for point in evaluation.reliability if point.arm == "seed-0" and point.n >= 10]
    line, _, (bars,) = drawn["seed-0"].lines
    assert line.get_ydata() == pytest.approx([point.accuracy for point in enough], rel=1e-5)
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [pytest.approx([point.interval.low, point.interval.high]) for point in enough]
    assert "seed-1" not in drawn, "the first arm of a pool stands for all"
    (counts,) = axes.child_axes
    assert [n for line in counts.lines for n in line.get_ydata()] == curves["n"].tolist()
    hollow = sum(len(line.get_xdata()) for line in axes.lines if line.get_markerfacecolor() == "none")
    assert hollow == (curves["n"] < 10).sum(), "bins of few wordings are hollow"
    older = {**content, "reliability": [point | {"interval": None} for point in content["reliability"]]}
    assert reliability_frame(older)["low"].isna().all()
    assert reliability(reliability_frame(older)).axes

    frame = quadrants_frame(content, {"base": ["base"], "seeds pooled": ["seed-0", "seed-1"]})
    of = {(q.arm, q.reliance): q.shares for q in evaluation.quadrants}
    rows = {(row.arm, row.reliance, row.quadrant): row for row in frame.itertuples()}
    assert rows["base", "any", "worst"].high == pytest.approx(of["base", "any"]["worst"].high, rel=1e-5)
    pooled = np.mean([of[arm, "grey"]["ideal"].value for arm in ("seed-0", "seed-1")])
    assert rows["seeds pooled", "grey", "ideal"].value == pytest.approx(pooled, rel=1e-5)
    assert np.isnan(rows["seeds pooled", "grey", "ideal"].low)
    assert len(quadrants(frame).axes) == 2


def test_the_figures_of_an_evaluation_have_its_name(tmp_path):
    content = json.loads(evaluation_of(2).to_json())
    refuse_drawn(tmp_path / "mine.png")
    save_evaluation_figures(content, tmp_path / "mine.png")
    names = {f"mine{part}{end}" for part in ("", "_reliability", "_quadrants") for end in (".png", ".svg", ".csv")}
    assert {path.name for path in tmp_path.iterdir()} == names
    (tmp_path / "mine.png").unlink()
    with pytest.raises(InputError, match=r"mine\.svg: already exists"):
        refuse_drawn(tmp_path / "mine.png")
    with pytest.raises(InputError, match=r"expected a name that ends with \.png"):
        refuse_drawn(tmp_path / "mine.pdf")
    alone = content | {"comparisons": [], "quadrants": []}
    assert [d.name for d in evaluation_drawings(alone)] == ["evaluation_reliability"]


def test_which_direction_is_good_is_said_in_arrow_and_shade():
    axes = changes_against_base(changes_frame(evaluation_of().model_dump())).axes[0]
    rows = [text.get_text().replace("\n", " ") for text in axes.get_yticklabels()]
    assert [row[-1] for row in rows] == ["↓", "↓", "↑", "↑", "↓", "↓", "↑"]
    shades = [c for c in axes.collections if c.get_alpha() == 0.1]
    for row, shade, place in zip(rows, shades, axes.get_yticks(), strict=True):
        x, y = shade.get_paths()[0].vertices.T
        assert y.min() < place < y.max()
        assert (x.max() <= 0) == row.endswith("↓")
    assert {m for m, better in METRICS.items() if better == -1} - {"fragile", "dangerous", "worst"} <= LESS_IS_BETTER
    assert not {m for m, better in METRICS.items() if better == 1} & LESS_IS_BETTER


def test_doses_stand_at_their_distance():
    axes = recovery_by_dose(dose_frame(study_of().model_dump())).axes[0]
    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[0] == 0
    assert [0, *study_of().doses] == axes.get_xticks().tolist()


def test_training_curves_are_running_means():
    history = history_of(90)
    parts, norm, rate = training_curves(history).axes
    colours = named(parts)
    lines = {name: next(line for line in parts.lines if line.get_color() == colours[name]) for name in colours}
    assert lines["cross-entropy"].get_ydata()[50] == pytest.approx(history["ce"][48:51].mean())
    assert (history["kl"][48:51] == 0).any(), "steps without a pair count as well"
    assert lines["divergence"].get_ydata()[50] == pytest.approx(history["kl"][48:51].mean())
    assert "grounding" not in lines
    assert norm.lines[0].get_ydata().tolist() == history["grad_norm"].tolist()
    assert rate.lines[0].get_ydata().tolist() == history["lr"].tolist()
    ends = [line.get_xdata()[0] for line in rate.lines[1:]]
    assert ends == [30.5, 60.5]
    assert "grounding" in named(training_curves(history_of(90, 0.5)).axes[0])


def test_a_training_of_one_step_is_drawn():
    assert len(drawn_texts(training_curves(history_of(1)))) > 5


def test_axes_of_ones_own_are_drawn_into():
    figure = Figure(figsize=(9, 9))
    above, below, scatter, histogram = figure.subplots(4, 1)
    artifact, frame = layers_of(8), pairs_of(50)
    assert layer_profile(artifact, [above, below]) is figure
    assert delta_against_margin(frame, scatter) is figure
    wordings = register_frame(4, 110, np.arange(4.0), np.array(["formal", "casual"] * 2))
    assert activation_by_register(wordings, histogram) is figure
    assert above.get_title(loc="left").startswith("Gate found in layers 2-3")
    assert all(ax.texts for ax in (above, below))
    assert all(ax.get_legend() for ax in (scatter, histogram))
    assert not figure.legends


def test_a_frame_is_as_its_file_holds_it(tmp_path):
    frame = rounded(pd.DataFrame({"a": np.array([1 / 3, 1e-9 / 7, np.nan, -0.0], np.float32), "b": [1, 2, 3, 4]}))
    frame.to_csv(tmp_path / "a.csv", index=False)
    pd.testing.assert_frame_equal(read_frame(tmp_path / "a.csv"), frame, check_exact=True)
    assert frame["a"][0] == 0.333333


def test_the_folder_beside_a_run(run, tmp_path):
    folder = FOLDERS["ablation"](tmp_path / "ablation")
    code, out, _ = run("figures", folder, "--size", "column")
    assert code == 0
    expected = {folder / "figures" / f"ablation{end}" for end in (".svg", ".png", ".csv")}
    assert set(out.split()) == set(map(str, expected))
    assert set((folder / "figures").iterdir()) == expected
    code, _, err = run("figures", folder)
    assert code == 2
    assert "already exists, and nothing is overwritten" in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "evaluation.json").write_text("{"), "evaluation.json: not JSON"),
        (lambda folder: (folder / "evaluation.json").write_text("[]"), "json: found a list, expected an object"),
        (
            lambda folder: (folder / "evaluation.json").write_text('{"schema_version": 2}'),
            "field verdicts: Field required",
        ),
        (lambda folder: (folder / "evaluation.json").write_text('{"schema_version": 9}'), "schema version 9"),
        (lambda folder: (folder / "history.csv").write_text("step,lr\n1,2\n"), "no column epoch, grad_norm, loss"),
        (lambda folder: (folder / "history.csv").write_bytes(b"\xff\xfe\x00"), "history.csv: not a CSV table"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "nothing to draw"),
        (lambda folder: folder.rename(folder.with_name("moved")), "no such folder"),
    ],
)
def test_what_cannot_be_drawn_is_named(run, tmp_path, change, said):
    folder = adapter_folder(tmp_path / "adapter")
    change(folder)
    code, out, err = run("figures", folder, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert len(list(tmp_path.iterdir())) == 1, "nothing is left"


def test_a_study_without_flips_has_fewer_figures(tmp_path):
    from interp.feature.save import save_study

    save_study(study_of(test=False), tmp_path / "study")
    assert [d.name for d in drawings(tmp_path / "study")] == ["delta_margin", "register_grid"]
    assert len(pd.read_csv(tmp_path / "study" / "by_group.csv")) == 0
    # Runs from before these tables were written have fewer still.
    (tmp_path / "study" / "delta_margin.csv").unlink()
    assert [path.name for path in save_figures(drawings(tmp_path / "study"), tmp_path / "out")] == [
        "register_grid.svg",
        "register_grid.png",
        "register_grid.csv",
    ]
