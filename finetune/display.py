"""The evaluation as a table for the eye."""

from rich.markup import escape
from rich.table import Table

from finetune.compare import Comparison
from finetune.evaluate import Evaluation
from interp.statistics import Estimate

PLACES = {"final": "the final token", "all": "all text tokens"}
"""Where a clamp holds, in words."""


def evaluation_table(evaluation: Evaluation) -> Table:
    """Every comparison as a rich table: shares in percent, margins in logits, 95% intervals over patients."""
    title = f"{evaluation.model}: {evaluation.questions} questions of {evaluation.patients} patients"
    if evaluation.clamps:
        held = ", ".join(f"{clamp.layer}:{clamp.feature}={clamp.value:g}" for clamp in evaluation.clamps)
        title += f"; clamp {held} at {PLACES[evaluation.clamps[0].where]}"
    table = Table(
        title=title, caption="95% intervals: bootstrap over patients; p: paired, two-sided", title_justify="left"
    )
    for heading in ("questions", "measure"):
        table.add_column(heading, overflow="fold")
    for heading in ("n", "base", evaluation.arm, "difference", "p"):
        table.add_column(heading, justify="right", overflow="fold")
    last: tuple[str, str] | None = None
    for comparison in evaluation.comparisons:
        group = (comparison.kind, comparison.subset)
        if group != last and last is not None:
            table.add_section()
        table.add_row(_name(comparison) if group != last else "", *map(escape, comparison_cells(comparison)))
        last = group
    return table


def controls_line(evaluation: Evaluation) -> str | None:
    """What clamps of other features did, in one sentence; None where nothing was clamped."""
    if not evaluation.controls:
        return None
    flips, right = (
        sorted(100 * getattr(c, name) for c in evaluation.controls) for name in ("question_flip_rate", "accuracy")
    )
    return (
        f"Control: {len(evaluation.controls)} clamps of other features as active gave question flips of "
        f"{flips[0]:.1f} to {flips[-1]:.1f}% and accuracy of {right[0]:.1f} to {right[-1]:.1f}%."
    )


def _name(comparison: Comparison) -> str:
    shown = {"phrasings": f"{comparison.subset} phrasings", "type": f"type: {comparison.subset}"}
    return shown.get(comparison.kind, comparison.subset)


def comparison_cells(comparison: Comparison) -> list[str]:
    """Measure with its unit, n, base, second arm, difference and p, as plain text."""
    scale = 1.0 if comparison.measure == "margin_difference" else 100.0
    unit = "logits" if scale == 1.0 else "%"
    return [
        f"{comparison.measure.replace('_', ' ')} [{unit}]",
        str(comparison.n),
        _interval(comparison.base, scale),
        _interval(comparison.adapter, scale),
        _interval(comparison.difference, scale, sign="+"),
        f"{comparison.p:.3f}" if comparison.p >= 0.001 else "<0.001",
    ]


def _interval(estimate: Estimate, scale: float, sign: str = "") -> str:
    digits = 2 if scale == 1.0 else 1
    value, low, high = (f"{scale * number:{sign}.{digits}f}" for number in estimate)
    return f"{value} [{low}, {high}]"
