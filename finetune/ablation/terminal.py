"""An ablation as tables for the eye."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.ablation.metrics import COMBINED, METRICS
from finetune.ablation.profile_validity import DEPTH
from finetune.ablation.result import CHANCE, Ablation, ArmEntry, RegretEntry
from finetune.evaluation.measures import MEASURES
from finetune.evaluation.terminal import label
from interp.runtime.console import results_console
from interp.schemas.layer_list import layers_text
from interp.schemas.layers import Interval

JUDGED = (COMBINED, "question_flip_rate", "margin_difference", "first_token_accuracy")
"""Metrics by which rules are judged in the table; the file has all."""
WIDTH = 230
"""Of the table where there is no terminal."""


def show_ablation(found: Ablation, console: Console | None = None) -> None:
    """Print the arms, the chosen range among the windows, and the conclusion."""
    console = console or results_console(WIDTH)
    console.print(arms_table(found))
    if found.regret:
        console.print(windows_table(found))
        console.print(rules_table(found))
    for sentence in found.conclusion:
        console.print(sentence, highlight=False, markup=False)


def arms_table(found: Ablation) -> Table:
    """Every metric of every arm, the interval below the value; the base first."""
    data, chosen = found.data, found.arms[0]
    seeds = len(found.settings["seeds"])
    of = f"{found.model.id}: {data.questions} questions of {data.patients} patients"
    table = Table(
        title=escape(f"{of}, {seeds} seeds an arm" if seeds > 1 else f"{of}, one seed an arm"),
        caption=f"95% intervals over patients{' and seeds' if seeds > 1 else ''}; parameters: against the chosen "
        f"range's {chosen.parameters:,}\n{COMBINED} = {found.combined}",
        title_justify="left",
        show_lines=True,
    )
    table.add_column("arm", overflow="fold")
    for heading in ("rank", "parameters", *map(heading_of, METRICS)):
        table.add_column(escape(heading), justify="right")
    table.add_row("base", "", "", *(_stacked(found.base[metric], metric) for metric in METRICS))
    for arm in found.arms:
        cells = [_stacked(arm.metrics[metric], metric) for metric in METRICS]
        table.add_row(escape(arm.name), _ranks(arm), _times(arm, chosen), *cells, style="bold" if arm is chosen else "")
    return table


def windows_table(found: Ablation) -> Table:
    """In every metric the best window, the regret of the chosen range, its rank, and what the profile told."""
    table = Table(
        title=f"Layers {layers_text(found.chosen)} among {len(found.regret[0].ranks)} windows",
        title_justify="left",
        caption="best: on all the data; optimistic: how much better it is there; regret: how much better those windows "
        "are that were best on the other half of the patients, with the other seeds\nrank: of the chosen range, 1 is "
        "best; a range of ranks where the interval of a paired difference includes 0 (not adjusted)",
    )
    for heading in ("metric", "best", "optimistic", "regret", "rank"):
        table.add_column(heading, justify="left" if heading in ("metric", "best") else "right", overflow="fold")
    for cost in found.regret:
        cells = [escape(heading_of(cost.metric)), escape(cost.best.removeprefix("window "))]
        cells += [number(cost.optimistic, cost.metric, "+"), interval(cost.regret, cost.metric, "+"), rank_of(cost)]
        table.add_row(*cells)
    return table


def rules_table(found: Ablation) -> Table:
    """What each score would have chosen, the regret of that, and how it goes with the windows' results."""
    table = Table(
        title="What else could have chosen",
        title_justify="left",
        caption=f"the window of the highest mean score, and its regret as above; {DEPTH}: the earliest window; "
        f"{CHANCE}: a window at random\nrho: rank correlation of the windows' mean scores with the metric, + if the "
        "higher the better; * p < .05, layers permuted",
    )
    table.add_column("score", overflow="fold")
    table.add_column("window", overflow="fold")
    for metric in JUDGED:
        table.add_column(escape(f"regret, {heading_of(metric)}"), justify="right")
        table.add_column("rho", justify="right")
    told = {(w.score, w.metric): w for w in found.worth}
    named = {rule.score: rule for rule in found.rules}
    own = {cost.metric: cost.regret for cost in found.regret}
    rows = [("chosen range", found.arms[0].name, own)]
    rows += [(score, rule.arm or "", rule.regret) for score, rule in named.items()]
    for score, arm, regret in rows:
        cells = [escape(score), escape(arm.removeprefix("window ").removeprefix("chosen "))]
        for metric in JUDGED:
            worth = told.get((score, metric))
            rho = "" if worth is None or worth.rho.value is None else f"{worth.rho.value:+.2f}"
            star = "*" if rho and worth is not None and worth.p is not None and worth.p < 0.05 else ""
            cells += [interval(regret[metric], metric, "+"), rho + star]
        table.add_row(*cells, style="bold" if score == rows[0][0] else "")
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


def _ranks(arm: ArmEntry) -> str:
    if arm.ranks is None or len(set(arm.ranks.values())) == 1:
        return str(arm.rank)
    return f"{min(arm.ranks.values())}-{max(arm.ranks.values())}"


def _times(arm: ArmEntry, chosen: ArmEntry) -> str:
    return f"x {arm.parameters / chosen.parameters:.2f}"
