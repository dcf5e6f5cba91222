"""A feature study on the terminal."""

import math
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.causal.feature_patching import DOSES
from interp.feature.study import FeatureStudy
from interp.runtime.console import results_console
from interp.statistics import Estimate
from interp.views.notebook import page_html


def show_study(study: FeatureStudy, out: Path | None = None, console: Console | None = None) -> None:
    """Print the study; undefined numbers are "-", and the notes at the end say why."""
    console = console or results_console()
    console.print(f"\n[bold]{study.layer}:{study.feature}[/bold] {asked_line(study)}")
    if study.neuronpedia:
        console.print(study.neuronpedia, soft_wrap=True)
    for line in (*tracking_lines(study), *causal_lines(study)):
        console.print(line)
    if study.groups:
        console.print()
        console.print(groups_table(study))
    console.print(grid_table(study))
    for line in grid_lines(study):
        console.print(line)
    for note in study.notes:
        console.print(f"[yellow]note[/yellow]: {note}")
    if out is not None:
        console.print(f"\nwritten to [bold]{escape(str(out))}[/bold]", soft_wrap=True)


def study_html(study: FeatureStudy) -> str:
    """The study as HTML, its causal test first."""
    first, *others = causal_lines(study)
    lines = [f"{study.layer}:{study.feature} {asked_line(study)}", *tracking_lines(study), *others, *grid_lines(study)]
    tables = [groups_table(study), grid_table(study)] if study.groups else [grid_table(study)]
    return page_html(first, lines, tables, study.notes)


def asked_line(study: FeatureStudy) -> str:
    """Which SAE and model, and what was asked."""
    return (
        f"of {study.sae} ({study.d_sae} features), {study.model}: {study.questions} closed questions of "
        f"{study.patients} patients, {study.tracking.pairs} pairs, {study.tracking.flips} flips"
    )


def tracking_lines(study: FeatureStudy) -> list[str]:
    """How often it is active, and how its delta goes with the margin."""
    t = study.tracking
    return [
        f"active on {study.density:.1%} of the wordings",
        f"delta and margin shift: r = {_interval(t.r)}; flip AUC of |delta| {_interval(t.flip_auc)}; "
        f"largest |delta| of the layer in {t.largest} of {t.flips} flips",
    ]


def causal_lines(study: FeatureStudy) -> list[str]:
    """The causal test with its controls."""
    test = study.test
    if test is None:
        return ["causal test: -"]
    doses = ", ".join(f"{dose:g}x {_number(share)}" for dose, share in zip(DOSES, test.dose, strict=True))
    changed = "-" if math.isnan(test.unflipped_changed) else f"{test.unflipped_changed:.1%}"
    return [
        f"causal test on {test.n} banked flips: recovery {_interval(test.recovery)}, net of random "
        f"{_interval(test.net)}, p {_p(test.p)}",
        f"  controls: random {_number(test.random)}, matched features {_number(test.matched)}, delta of another pair "
        f"{_number(test.swapped)}",
        f"  answers turned back: {test.reversals} of {test.n} (random {test.random_reversals:.1f}); changed among "
        f"pairs that do not flip: {changed}",
        f"  recovery by dose: {doses}",
    ]


def groups_table(study: FeatureStudy) -> Table:
    """Recovery by group."""
    table = _table("recovery by group of banked flips, 95% intervals over patients")
    for name in ("by", "group"):
        table.add_column(name, overflow="fold")
    for name in ("n", "patients", "recovery"):
        table.add_column(name, justify="right", no_wrap=True)
    for g in study.groups:
        table.add_row(g.grouping, escape(g.group), str(g.pairs), str(g.patients), _interval(g.recovery))
    return table


def grid_table(study: FeatureStudy) -> Table:
    """Mean activation by level of the register grid."""
    grid = study.grid
    table = _table(f"register grid on {grid.images} images")
    for name in ("level", "prompts", "mean activation"):
        table.add_column(name, justify="right", no_wrap=True)
    for k, level in enumerate(grid.levels):
        name = " (formal)" if k == 0 else " (casual)" if k == len(grid.levels) - 1 else ""
        table.add_row(f"{level.level}{name}", str(level.prompts), _interval(level.mean))
    return table


def grid_lines(study: FeatureStudy) -> list[str]:
    """What the grid comes to, the features that point the same way, and the effect that is read off the weights."""
    grid = study.grid
    neighbours = ", ".join(f"{n.feature} ({n.cosine:.2f})" for n in study.neighbours)
    return [
        f"the grid asks for {', '.join(grid.findings)}",
        f"most formal against most casual: AUC {_interval(grid.auc)}; level and activation: rank correlation "
        f"{_interval(grid.spearman)}",
        f"same last tokens, more formal minus more casual: {_interval(grid.controlled)} "
        f"({grid.controlled_pairs} pairs)",
        f"nearest decoder neighbours (cosine): {neighbours or '-'}",
        f"direct effect on yes against no: {study.direct_effect:+.4f} logits an activation unit by the weights, "
        f"{study.margin_slope:+.4f} by the margin's slope at the last layer",
    ]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, collapse_padding=True)


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.value) or math.isnan(estimate.low):
        return _number(estimate.value)
    return f"{_number(estimate.value)} [{_number(estimate.low)}, {_number(estimate.high)}]"


def _number(value: float) -> str:
    # the sum takes the sign off a rounded zero
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"= {value:.3f}"
