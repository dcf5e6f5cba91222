"""The tables of an ablation (ablation.json): its arms, the place of the chosen range, and what else could choose."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from interp.schemas.ablation import METRICS, Ablation, AblationArm, Rank, Regret, Worth
from interp.schemas.layer_list import layers_text
from interp.schemas.record import Interval
from interp.views.labels import label, scale_of
from interp.views.numbers import number
from interp.views.overview import Overview
from interp.views.table import Cell, Column, Table, blank, estimate, tabulate, value, words

RANKED = "combined"
"""The metric that places the windows in the table of arms."""


def ablation_overview(found: Ablation) -> Overview:
    """The ablation as the terminal and notebooks show it."""
    data = found.data
    return Overview(
        f"{found.model.id}: {data.questions:,} questions of {data.patients:,} patients",
        found.conclusion,
        tables=ablation_tables(found),
    )


def ablation_tables(found: Ablation) -> list[Table]:
    """Every table that there is something for."""
    tables = [arms_table(found), regret_table(found), rules_table(found), validity_table(found)]
    return [table for table in tables if table.rows]


def seeds_text(seeds: Sequence[int]) -> str:
    """The seeds of an ablation: "one seed an arm (0)", or "seeds 0, 1, 2"."""
    if not seeds:
        return "seeds unknown"
    return f"one seed an arm ({seeds[0]})" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def over_seeds(seeds: Sequence[int]) -> str:
    """What intervals are over besides patients: with one seed nothing."""
    return " alone, as every arm has one seed" if len(seeds) == 1 else " and seeds"


class _Row(NamedTuple):
    """The base, which has no arm, or one arm."""

    arm: AblationArm | None
    metrics: dict[str, Interval]


def arms_table(found: Ablation) -> Table:
    """Every metric of the base and of every arm."""
    chosen = found.arms[0]
    places = {rank.arm: rank for cost in found.regret if cost.metric == RANKED for rank in cost.ranks}

    def of_arm(cell: Callable[[AblationArm], Cell]) -> Callable[[_Row], Cell]:
        return lambda row: Cell("") if row.arm is None else cell(row.arm)

    def metric(name: str) -> Callable[[_Row], Cell]:
        return lambda row: estimate(row.metrics.get(name), scale_of(name))

    data, seeds = found.data, found.settings.get("seeds", [])
    return tabulate(
        f"{len(found.arms)} arms on {data.questions:,} questions of {data.patients:,} patients, {seeds_text(seeds)}",
        [
            words("arm", lambda row: row.arm.name if row.arm else "base"),
            Column(
                "layers",
                of_arm(lambda arm: Cell(layers_text(arm.layers), arm.layers[0] if arm.layers else None)),
                narrow=False,
            ),
            Column("rank", of_arm(_ranks)),
            Column(
                "parameters",
                of_arm(lambda arm: _times(arm, chosen)),
                meaning=f"relative to the {chosen.parameters:,} of the chosen range",
            ),
            *(Column(label(name), metric(name)) for name in METRICS),
            Column(
                "place",
                of_arm(lambda arm: _place(places.get(arm.name))),
                meaning="among the windows by the combined score, 1 is best; a range where windows are tied",
            ),
        ],
        [_Row(None, found.base), *(_Row(arm, arm.metrics) for arm in found.arms)],
        f"Combined score: {found.combined}. Brackets: 95% intervals over patients{over_seeds(seeds)}.",
        [1],
        "chosen range",
    )


def regret_table(found: Ablation) -> Table:
    """The best window in every metric, with the regret and the place of the chosen range."""

    def own_place(cost: Regret) -> Cell:
        return _place(next((rank for rank in cost.ranks if rank.arm == found.arms[0].name), None))

    windows = len(found.regret[0].ranks) if found.regret else 0
    return tabulate(
        f"Layers {layers_text(found.chosen)} among {windows} windows",
        [
            words("metric", lambda cost: label(cost.metric)),
            words("best window", lambda cost: cost.best),
            Column(
                "optimistic",
                lambda cost: value(cost.optimistic, scale_of(cost.metric), sign=True),
                meaning="how much better the best window looks on the data that picked it; above zero by luck alone",
            ),
            Column(
                "regret",
                lambda cost: estimate(cost.regret, scale_of(cost.metric), sign=True),
                meaning="how much better than the chosen range are the windows that were best on other patients and "
                "seeds; above zero a better window was there to be found, below zero picking the best led to a worse "
                "one, which does not show that the chosen range is the best",
            ),
            Column(
                "place",
                own_place,
                meaning="of the chosen range, 1 is best; a range where the interval of a paired difference includes 0, "
                "not adjusted",
            ),
        ],
        found.regret,
    )


class _Choice(NamedTuple):
    """The window that a score would have chosen, and its regret in every metric."""

    score: str
    window: str
    regret: dict[str, Interval]


def rules_table(found: Ablation) -> Table:
    """The window that each score of the layers would have chosen, with its regret; the chosen range comes first."""
    if not found.rules:
        return Table("What else could have chosen", [], [])
    own = {cost.metric: cost.regret for cost in found.regret}
    choices = [_Choice("chosen range", found.arms[0].name, own)]
    choices += [_Choice(rule.score, rule.arm or "any", rule.regret) for rule in found.rules]

    def regret(name: str) -> Callable[[_Choice], Cell]:
        return lambda choice: estimate(choice.regret.get(name), scale_of(name), sign=True)

    return tabulate(
        "What else could have chosen",
        [
            words("score", lambda choice: choice.score),
            words("window", lambda choice: choice.window),
            *(Column(f"regret, {label(name)}", regret(name)) for name in METRICS),
        ],
        choices,
        "For each score, the window with the highest mean score, and its regret as above. Depth: the earliest window. "
        "Chance: the mean of all windows.",
        [0],
    )


def validity_table(found: Ablation) -> Table:
    """The rank correlation of every score of the profile with every metric of the windows."""
    at = {(entry.metric, entry.score): entry for entry in found.worth}

    def rho(score: str) -> Callable[[str], Cell]:
        return lambda metric: _rho(at.get((metric, score)))

    return tabulate(
        "Does the profile predict which window pays?",
        [
            words("metric", label),
            *(Column(score, rho(score)) for score in dict.fromkeys(entry.score for entry in found.worth)),
        ],
        dict.fromkeys(entry.metric for entry in found.worth if entry.rho.value is not None),
        "Spearman's rank correlation of a window's mean score with its result in the metric; positive if a higher "
        "score goes with a better result. *: p < .05, layers permuted, not adjusted. Depth is the number of the layer: "
        "a score that does not beat it is no reason to search.",
    )


def _rho(entry: Worth | None) -> Cell:
    if entry is None:
        return blank()
    star = "*" if entry.p is not None and entry.p < 0.05 else ""
    return Cell(number(entry.rho.value, sign=True) + star, entry.rho.value)


def _ranks(arm: AblationArm) -> Cell:
    ranks = arm.ranks.values() if arm.ranks else [arm.rank]
    return Cell(_span(min(ranks), max(ranks)), arm.rank)


def _times(arm: AblationArm, chosen: AblationArm) -> Cell:
    times = arm.parameters / chosen.parameters if chosen.parameters else None
    return Cell(f"× {number(times)}", times)


def _place(rank: Rank | None) -> Cell:
    return Cell("") if rank is None else Cell(_span(rank.first, rank.last), rank.first)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"
