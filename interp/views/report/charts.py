"""The charts of the report: which there are, and what each shows, in words."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from interp.schemas.layer_list import layers_text
from interp.schemas.layers import Layers
from interp.schemas.tested_features import DOSES, FeatureEntry
from interp.views.figures.style import SIZES, Size
from interp.views.numbers import number
from interp.views.report.collect import Collected, Studied
from interp.views.report.feature_cards import cards
from interp.views.report.svg import Styles, inline_svg
from interp.views.tables.ablation import over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, CARD = SIZES["screen"], Size(4.4, 8, 7.5, 150)
"""Sizes of a chart across the page, and of one in a card."""


POINTS = (
    "Each point is a question and one of its paraphrases. Where there are many, hexagons are darker with more pairs, "
    "and those in which the feature does not change are a density at 0."
)
"""How the scatter of pairs is read."""


class Chart(NamedTuple):
    """One chart on the page."""

    svg: Markup
    """The drawing."""
    caption: str
    """What the chart shows and how to read it."""


class _Planned(NamedTuple):
    """A chart that is not drawn yet."""

    name: str
    draw: Callable[[Size], "Figure"]
    alternative: str
    caption: str
    size: Size = WIDE


def draw_all(found: Collected, styles: Styles) -> dict[str, Chart]:
    """Draw every chart that there is data for; returns name -> chart."""
    return {planned.name: _drawn(planned, styles) for planned in _planned(found)}


def _drawn(planned: _Planned, styles: Styles) -> Chart:
    figure = planned.draw(planned.size)
    # The page has its own headings.
    figure.suptitle("")
    return Chart(inline_svg(figure, planned.name, planned.alternative, styles), planned.caption)


def _planned(found: Collected) -> Iterator[_Planned]:
    if found.layers:
        yield from _search_charts(found, found.layers)
    for place, studied in enumerate(found.studied):
        yield from _study_charts(place, studied)
    for place, each in enumerate(found.trained):
        if each.history is not None:
            yield _training_chart(place, each.history)
    for place, (_, evaluation) in enumerate(found.evaluations):
        yield from _evaluation_charts(place, evaluation.model_dump())
    for place, grounded in enumerate(found.grounded):
        yield from _grounding_charts(place, grounded.study.model_dump())
    for place, ablation in enumerate(found.ablated.values()):
        yield _ablation_chart(place, ablation.model_dump())


def _search_charts(found: Collected, search: Layers) -> Iterator[_Planned]:
    from interp.views.figures.feature_study import recovery_by_dose
    from interp.views.figures.margin import delta_against_margin
    from interp.views.figures.profile import layer_profile
    from interp.views.figures.register import activation_by_register

    if search.profile:
        yield _Planned("profile", lambda size: layer_profile(search, size=size), *_profile_words(search))
    for card in cards(search):
        yield _Planned(
            card.chart,
            partial(recovery_by_dose, _doses(card.entry), "", None),
            f"Recovery by dose of the patch of feature {card.name}: "
            + ", ".join(f"{number(value)} at {dose:g} times" for dose, value in _by_dose(card.entry)),
            "",
            size=CARD,
        )
    if found.delta is not None:
        frame = found.delta
        yield _Planned(
            "delta",
            lambda size: delta_against_margin(frame, size=size),
            f"Scatter of {len(frame):,} pairs, of which {int(frame['flipped'].sum()):,} flip: change of the answer "
            "margin against change of the activation.",
            POINTS,
            size=CARD,
        )
    if found.register is not None:
        tagged = found.register
        yield _Planned(
            "register",
            lambda size: activation_by_register(tagged, size=size),
            "Share of the formal and of the casual wordings above every activation; the mean is "
            + ", ".join(
                f"{number(m)} on {name} ones" for name, m in tagged.groupby("register")["activation"].mean().items()
            ),
            "Each curve begins at the share of wordings on which the feature is active. If the two differ, it "
            "discriminates the register of a wording.",
            size=CARD,
        )


def _profile_words(search: Layers) -> tuple[str, str]:
    """What the chart of the layer profile shows, for those who do not see it, and its caption."""
    from interp.views.figures.profile import has_answers

    above = (
        "Above: how well a layer's features discriminate flips, on patients that they were not chosen on. Below: how "
        "much of the margin shift the layer's patches recover. "
    )
    if has_answers(search):
        bars = {e.layer: e.answer_growth.value for e in search.profile if e.answer_growth is not None}
        made = "makes the largest share of the answer"
        below = "The answer patch is net of random directions; bars show its growth from layer to layer. "
    else:
        bars = {e.layer: e.net_write.value for e in search.profile}
        made = "adds the most"
        below = "Bars: direct-effect patch of what the layer itself adds. "
    known = {layer: value for layer, value in bars.items() if value is not None}
    most = max(known, key=lambda layer: known[layer], default=None)
    said = f" Layer {most} {made}, {number(known[most])} net of random." if most is not None else ""
    alternative = (
        "Two charts over the layers: flip AUC, and recovered share of the margin shift. Chosen layers: "
        f"{layers_text(search.layers) or 'none'}.{said} The tables below have all numbers."
    )
    return alternative, f"{above}{below}Band: the chosen layers. Error bars: 95% intervals over patients."


def _doses(entry: FeatureEntry) -> Any:
    from interp.views.figures.feature_study import dose_frame

    assert entry.causal is not None
    return dose_frame({"doses": DOSES, "test": entry.causal.model_dump()})


def _by_dose(entry: FeatureEntry) -> list[tuple[float, float]]:
    return list(zip(DOSES, entry.causal.dose, strict=True)) if entry.causal else []


def _study_charts(place: int, studied: Studied) -> Iterator[_Planned]:
    from interp.views.figures.feature_study import study_drawings

    said = {
        "delta_margin": (
            "Scatter of the pairs: change of the answer margin against change of the activation.",
            POINTS,
        ),
        "dose": ("Recovery by dose of the feature's patch, beside its controls.", ""),
        "by_group": (
            "Recovery by group of flips; the table below has all numbers.",
            "Where the recovery of groups differs, the feature contributes to their flips to a different degree.",
        ),
        "register_grid": (
            "Activation by level of the register grid, formal to casual: "
            + ", ".join(number(each.mean.value) for each in studied.study.grid.levels),
            "Every image is asked about the same findings, in frames from formal to casual.",
        ),
    }
    for drawing in study_drawings(studied.study.model_dump(), studied.cells, studied.delta):
        yield _Planned(f"study-{drawing.name}-{place}", drawing.draw, *said[drawing.name], size=CARD)


def _training_chart(place: int, history: Any) -> _Planned:
    from interp.views.figures.training import training_curves

    return _Planned(
        f"training-{place}",
        lambda size: training_curves(history, size=size),
        f"Loss, norm of the gradient and learning rate over {len(history):,} steps; the loss begins at "
        f"{number(history['loss'].iloc[0])} and ends at {number(history['loss'].iloc[-1])}.",
        "Running means. Cross-entropy rewards correct answers; divergence penalizes different answers to two wordings. "
        "Dotted lines separate epochs.",
    )


def _evaluation_charts(place: int, content: Mapping[str, Any]) -> Iterator[_Planned]:
    from interp.views.figures.evaluation import evaluation_drawings

    said = {
        "evaluation": (
            "Change of each measure against the base, in points with 95% intervals; the table below has all numbers.",
            "Change against the base, 95% intervals over patients. Shaded: the side on which the measure is better.",
        ),
        "evaluation_reliability": (
            "Share of correct answers by confidence, one line for each arm, and the diagonal.",
            "On the diagonal, a model is as often correct as it is confident. Bars: 95% intervals over patients. "
            "Below: how many wordings a point stands for.",
        ),
        "evaluation_quadrants": (
            "Share of the questions in each quadrant, by arm; the table below has all numbers.",
            "Ideal is the goal. Dangerous answers are as consistent, but do not rely on the image. Error bars: 95% "
            "intervals over patients.",
        ),
    }
    for drawing in evaluation_drawings(content):
        yield _Planned(f"{drawing.name}-{place}", drawing.draw, *said[drawing.name])


def _grounding_charts(place: int, content: Mapping[str, Any]) -> Iterator[_Planned]:
    from interp.views.figures.grounding import grounding_drawings

    said = {
        "grounding_nets": (
            "Scores of the maps net of their controls, one panel for each score; the table below has all numbers.",
            "Each score minus its control; chance gives zero. 95% intervals over patients.",
        ),
        "grounding_curves": (
            "Probability of the answer while cells of the image are deleted or inserted in the order of each map.",
            "With a faithful map, the deletion curve falls faster, and the insertion curve rises faster, than in "
            "random order.",
        ),
    }
    for drawing in grounding_drawings(content):
        yield _Planned(f"{drawing.name}-{place}", drawing.draw, *said[drawing.name])


def _ablation_chart(place: int, content: Mapping[str, Any]) -> _Planned:
    from interp.views.figures.ablation import ablation_drawing

    over = over_seeds(content["settings"].get("seeds", []))
    return _Planned(
        f"ablation-{place}",
        ablation_drawing(content).draw,
        "The metrics of every arm, one panel for each metric; the table below has all numbers.",
        "Star: the chosen range. Line and band: the base. Arrow: the better direction. 95% intervals over patients"
        f"{over}.",
    )
