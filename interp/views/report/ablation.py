"""An ablation laid out: every arm, the place of the chosen range, its regret, and what the profile was worth."""

from interp.schemas.ablation import Ablation, AblationArm, Regret
from interp.views.figures.ablation import METRICS
from interp.views.numbers import label, layers, number, scale_of
from interp.views.report import tables
from interp.views.report.tables import Cell, Table, columns

RANKED = "combined"
"""The metric whose ranks the table of arms shows."""


def arms_table(found: Ablation) -> Table:
    """The base and every arm."""
    chosen = found.arms[0]
    places = {rank.arm: rank for cost in found.regret if cost.metric == RANKED for rank in cost.ranks}
    rows = [[tables.text("base"), *3 * [tables.text("")], *_cells(found.base), tables.text("")]]
    for arm in found.arms:
        place = places.get(arm.name)
        rank = Cell(_place(place.first, place.last), place.first) if place else tables.text("")
        rows.append(
            [
                tables.text(arm.name),
                tables.Cell(layers(arm.layers), arm.layers[0] if arm.layers else None),
                Cell(_ranks(arm), arm.rank),
                _times(arm, chosen),
                *_cells(arm.metrics),
                rank,
            ]
        )
    data, seeds = found.data, found.settings.get("seeds", [])
    return Table(
        f"{len(found.arms)} arms on {data.questions:,} questions of {data.patients:,} patients, seeds "
        f"{', '.join(map(str, seeds)) or 'unknown'}",
        columns(["arm"], ["layers", "rank", "parameters", *map(label, METRICS), "place"]),
        rows,
        f"Parameters: against the chosen range's {chosen.parameters:,}. Combined score: {found.combined}. Place: among "
        "the windows by that score, 1 being best; several where it is tied. Brackets: 95% intervals over patients and "
        "seeds.",
        marked=frozenset({1}),
        marker="chosen range",
    )


def regret_table(found: Ablation) -> Table:
    """In every metric the best window, the regret of the chosen range and its place."""
    rows = []
    for cost in found.regret:
        scale = scale_of(cost.metric)
        rows.append(
            [
                tables.text(label(cost.metric)),
                tables.text(cost.best),
                tables.value(cost.optimistic, scale, sign=True),
                tables.estimate(cost.regret, scale, sign=True),
                _own_place(cost, found.arms[0].name),
            ]
        )
    windows = len(found.regret[0].ranks) if found.regret else 0
    return Table(
        f"Layers {layers(found.chosen)} among {windows} windows",
        columns(["metric", "best window"], ["optimistic", "regret", "place"]),
        rows,
        "Regret: how much better the windows are that were best on other patients and seeds. Optimistic: how much "
        "better the best window looks on the data that it was picked by; above zero by luck alone.",
    )


def worth_table(found: Ablation) -> Table:
    """Rank correlation of every score of the profile with every metric of the windows."""
    scores = list(dict.fromkeys(entry.score for entry in found.worth))
    at = {(entry.metric, entry.score): entry for entry in found.worth}
    rows = []
    for metric in dict.fromkeys(entry.metric for entry in found.worth):
        cells = [tables.text(label(metric))]
        for score in scores:
            entry = at.get((metric, score))
            rho = entry.rho.value if entry else None
            shown = number(rho, sign=True) + ("*" if entry and entry.p is not None and entry.p < 0.05 else "")
            cells.append(Cell(shown, rho))
        rows.append(cells)
    return Table(
        "Did the profile tell which window pays?",
        columns(["metric"], scores),
        rows,
        "Spearman's rank correlation of a window's mean score with how good it is to train: positive if the higher the "
        "better. *: p < .05, layers permuted, not adjusted. Depth is the layer's number: what does not beat it is no "
        "reason to search.",
    )


def _cells(metrics: dict) -> list[Cell]:
    return [tables.estimate(metrics.get(name), scale_of(name)) for name in METRICS]


def rules_table(found: Ablation) -> Table:
    """What each score of the layers would have chosen, and the regret of that, beside the chosen range's own."""
    own = {cost.metric: cost.regret for cost in found.regret}
    choices = [("chosen range", found.arms[0].name, own), *((r.score, r.arm or "any", r.regret) for r in found.rules)]
    rows = [
        [
            tables.text(score),
            tables.text(arm),
            *(tables.estimate(regret.get(name), scale_of(name), sign=True) for name in METRICS),
        ]
        for score, arm, regret in choices
    ]
    return Table(
        "What else could have chosen",
        columns(["score", "window"], [f"regret, {label(name)}" for name in METRICS]),
        rows,
        "The window of the highest mean score, and its regret as above. Depth: the earliest window; chance: the mean "
        "of all windows.",
        marked=frozenset({0}),
    )


def _ranks(arm: AblationArm) -> str:
    ranks = set(arm.ranks.values()) if arm.ranks else {arm.rank}
    return _place(min(ranks), max(ranks))


def _times(arm: AblationArm, chosen: AblationArm) -> Cell:
    times = arm.parameters / chosen.parameters if chosen.parameters else None
    return Cell(f"× {number(times)}", times)


def _own_place(cost: Regret, name: str) -> Cell:
    own = next((rank for rank in cost.ranks if rank.arm == name), None)
    return Cell(_place(own.first, own.last), own.first) if own else tables.text("")


def _place(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"
