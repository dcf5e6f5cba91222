"""An ablation as tables for the eye."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.ablate.outcomes import COMBINED, METRICS
from finetune.ablate.result import Ablation, ArmEntry, RegretEntry
from finetune.ablate.worth import SCORES
from finetune.display import label
from finetune.measures import MEASURES
from interp.artifact import Interval
from interp.layers import layers_text

WIDTH = 230
"""Of the table where there is no terminal."""


def show_ablation(found: Ablation, console: Console | None = None) -> None:
    """Print the arms, the chosen range among the windows, and the conclusion."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=WIDTH, file=console.file)
    console.print(arms_table(found))
    if found.regret:
        console.print(windows_table(found))
    for sentence in found.conclusion:
        console.print(sentence, highlight=False, markup=False)


def arms_table(found: Ablation) -> Table:
    """Every metric of every arm, the interval below the value; the base first."""
    data, chosen = found.data, found.arms[0]
    seeds = len(found.settings["seeds"])
    table = Table(
        title=escape(f"{found.model.id}: {data.questions} questions of {data.patients} patients, {seeds} seeds an arm"),
        caption=f"95% intervals over patients{' and seeds' if seeds > 1 else ''}; parameters: against the chosen "
        f"range's {chosen.parameters:,}\n{COMBINED} = {found.combined}",
        title_justify="left",
        show_lines=True,
    )
    table.add_column("arm", overflow="fold")
    for heading in ("rank", "parameters", *map(heading_of, METRICS)):
        table.add_column(heading, justify="right")
    table.add_row("base", "", "", *(_stacked(found.base[metric], metric) for metric in METRICS))
    for arm in found.arms:
        cells = [_stacked(arm.metrics[metric], metric) for metric in METRICS]
        table.add_row(
            escape(arm.name), str(arm.rank), _times(arm, chosen), *cells, style="bold" if arm is chosen else ""
        )
    return table


def windows_table(found: Ablation) -> Table:
    """In every metric the best window, the regret of the chosen range, its rank, and what the profile told."""
    table = Table(
        title=f"Layers {layers_text(found.chosen)} among {len(found.regret[0].ranks)} windows",
        title_justify="left",
        caption="best: on all the data; optimistic: how much better it is there; regret: how much better those windows "
        "are that were best on the other half of the patients, with the other seeds\nrank: of the chosen range, 1 is "
        "best; a range of ranks where the interval of a paired difference includes 0 (not adjusted)\nscores of the "
        "profile: rank correlation of the windows' means with the metric, + if the higher the better; * p < .05, "
        "layers permuted",
    )
    for heading in ("metric", "best", "optimistic", "regret", "rank", *SCORES):
        table.add_column(heading, justify="left" if heading in ("metric", "best") else "right", overflow="fold")
    told = {(w.score, w.metric): w for w in found.worth}
    for cost in found.regret:
        cells = [heading_of(cost.metric), escape(cost.best.removeprefix("window "))]
        cells += [number(cost.optimistic, cost.metric, "+"), interval(cost.regret, cost.metric, "+"), rank_of(cost)]
        for score in SCORES:
            worth = told.get((score, cost.metric))
            shown = worth is not None and worth.rho.value is not None
            cells.append(f"{worth.rho.value:+.2f}{'*' if (worth.p or 1) < 0.05 else ''}" if worth and shown else "-")
        table.add_row(*cells)
    return table


def heading_of(metric: str) -> str:
    """A metric in words, with its unit."""
    return f"{COMBINED} [points]" if metric == COMBINED else label(metric)


def interval(found: Interval, metric: str, sign: str = "") -> str:
    """A number with its interval, in the unit of its metric: shares in percent."""
    value = number(found.value, metric, sign)
    if found.low is None:
        return value
    return f"{value} [{number(found.low, metric, sign)}, {number(found.high, metric, sign)}]"


def number(value: float | None, metric: str, sign: str = "") -> str:
    """A number in the unit of its metric."""
    if value is None:
        return "-"
    scale, digits = scale_of(metric)
    # The sum takes the sign off a rounded zero.
    return f"{round(scale * value, digits) + 0.0:{sign}.{digits}f}"


def scale_of(metric: str) -> tuple[float, int]:
    """What a metric is multiplied by to be shown, and to how many digits."""
    return (100.0, 1) if metric == COMBINED or MEASURES[metric].unit == "%" else (1.0, 2)


def rank_of(cost: RegretEntry) -> str:
    """The rank of the chosen range, which is the first window: 1, or 1-4 where it is tied."""
    place = cost.ranks[0]
    return str(place.first) if place.first == place.last else f"{place.first}-{place.last}"


def _stacked(found: Interval, metric: str) -> str:
    # No break inside of the interval.
    return interval(found, metric).replace(" [", "\n[", 1).replace(", ", ",\xa0")


def _times(arm: ArmEntry, chosen: ArmEntry) -> str:
    return f"x {arm.parameters / chosen.parameters:.2f}"
