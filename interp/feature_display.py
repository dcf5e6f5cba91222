"""A feature study on the terminal."""

import math
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from interp.causal import DOSES
from interp.feature_study import FeatureStudy
from interp.statistics import Estimate


def show_study(study: FeatureStudy, out: Path | None = None, console: Console | None = None) -> None:
    """Print the study; undefined numbers are "-", and the notes at the end say why."""
    console = console or Console(highlight=False)
    t = study.tracking
    console.print(
        f"\n[bold]{study.layer}:{study.feature}[/bold] of {study.sae} ({study.d_sae} features), {study.model}: "
        f"{study.questions} closed questions of {study.patients} patients, {t.pairs} pairs, {t.flips} flips"
    )
    if study.neuronpedia:
        console.print(study.neuronpedia, soft_wrap=True)
    console.print(f"active on {study.firing_rate:.1%} of the wordings")
    console.print(
        f"delta and margin shift: r = {_interval(t.r)}; flip AUC of |delta| {_interval(t.flip_auc)}; "
        f"largest |delta| of the layer in {t.largest} of {t.flips} flips"
    )
    _show_test(study, console)
    _show_groups(study, console)
    _show_grid(study, console)
    neighbours = ", ".join(f"{n.feature} ({n.cosine:.2f})" for n in study.neighbours)
    console.print(f"nearest decoder neighbours (cosine): {neighbours or '-'}")
    console.print(
        f"direct effect on yes against no: {study.direct_effect:+.4f} logits an activation unit by the weights, "
        f"{study.margin_slope:+.4f} by the margin's slope at the last layer"
    )
    for note in study.notes:
        console.print(f"[yellow]note[/yellow]: {note}")
    if out is not None:
        console.print(f"\nwritten to [bold]{out}[/bold]", soft_wrap=True)


def _show_test(study: FeatureStudy, console: Console) -> None:
    test = study.test
    if test is None:
        console.print("causal test: -")
        return
    doses = ", ".join(f"{dose:g}x {_number(share)}" for dose, share in zip(DOSES, test.dose, strict=True))
    changed = "-" if math.isnan(test.unflipped_changed) else f"{test.unflipped_changed:.1%}"
    for line in (
        f"causal test on {test.n} banked flips: recovery {_interval(test.recovery)}, net of random "
        f"{_interval(test.net)}, p {_p(test.p)}",
        f"  controls: random {_number(test.random)}, matched features {_number(test.matched)}, delta of another pair "
        f"{_number(test.swapped)}",
        f"  answers turned back: {test.reversals} of {test.n} (random {test.random_reversals:.1f}); changed among "
        f"pairs that do not flip: {changed}",
        f"  recovery by dose: {doses}",
    ):
        console.print(line)


def _show_groups(study: FeatureStudy, console: Console) -> None:
    if not study.groups:
        return
    console.print("\nrecovery by group of banked flips, 95% intervals over patients:")
    table = _table()
    for name in ("by", "group"):
        table.add_column(name, overflow="fold")
    for name in ("n", "patients", "recovery"):
        table.add_column(name, justify="right", no_wrap=True)
    for g in study.groups:
        table.add_row(g.grouping, g.group, str(g.pairs), str(g.patients), _interval(g.recovery))
    console.print(table)


def _show_grid(study: FeatureStudy, console: Console) -> None:
    grid = study.grid
    console.print(f"register grid: {', '.join(grid.findings)} on {grid.images} images:")
    table = _table()
    for name in ("level", "prompts", "mean activation"):
        table.add_column(name, justify="right", no_wrap=True)
    for k, level in enumerate(grid.levels):
        name = " (formal)" if k == 0 else " (casual)" if k == len(grid.levels) - 1 else ""
        table.add_row(f"{level.level}{name}", str(level.prompts), _interval(level.mean))
    console.print(table)
    console.print(
        f"most formal against most casual: AUC {_interval(grid.auc)}; level and activation: rank correlation "
        f"{_interval(grid.spearman)}\n"
        f"same last tokens, more formal minus more casual: {_interval(grid.controlled)} ({grid.controlled_pairs} pairs)"
    )


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=0, collapse_padding=True)


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.value) or math.isnan(estimate.low):
        return _number(estimate.value)
    return f"{_number(estimate.value)} [{_number(estimate.low)}, {_number(estimate.high)}]"


def _number(value: float) -> str:
    # the sum takes the sign off a rounded zero
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"= {value:.3f}"
