"""The evaluation as tables for the eye."""

from rich.markup import escape
from rich.table import Table

from finetune.evaluation.compare import Comparison
from finetune.evaluation.evaluate import Evaluation
from finetune.evaluation.measures import MEASURES
from finetune.evaluation.quadrants import QUADRANTS, RELIANCE, Quadrants
from interp.runtime.console import results_console
from interp.statistics import Estimate

PLACES = {"final": "the final token", "all": "all text tokens"}
"""Where a clamp holds, in words."""
GROUPED = ("question_flip_rate", "accuracy", "text_only_agreement")
"""The measures that the table of groups shows."""
GROUPS = {"phrasings": "phrasings", "type": "type", "finding": "finding", "register": "register", "registers": "pairs"}
"""Kind of subset -> what stands before its name; others stand alone."""
CAPTION = "95% intervals: bootstrap over patients; p: paired, two-sided, against the base"


def show_evaluation(evaluation: Evaluation) -> None:
    """Print every table and sentence of an evaluation."""
    console = results_console(140 + 30 * max(0, len(evaluation.shown) - 2))
    for table in (evaluation_table(evaluation), groups_table(evaluation), quadrants_table(evaluation)):
        console.print(table)
        console.print()
    for sentence in (*controls_lines(evaluation), *evaluation.sentences):
        console.print(sentence, markup=False)


def evaluation_table(evaluation: Evaluation) -> Table:
    """Every measure over all questions, an arm a column: value with its interval, and the p value against the base."""
    table = Table(title=_title(evaluation), caption=CAPTION, title_justify="left")
    table.add_column("all questions")
    for heading in ("n", evaluation.base):
        table.add_column(heading, justify="right")
    for arm in evaluation.shown:
        table.add_column(escape(arm), justify="right", overflow="fold")
        table.add_column("p", justify="right")
    at = evaluation.against_base()
    for measure in MEASURES:
        found = [c for arm in evaluation.shown if (c := at.get((arm, measure, "all", "all")))]
        if found:
            cells = [escape(label(measure)), str(found[0].n), interval(found[0].before, measure)]
            for comparison in found:
                cells += [interval(comparison.after, measure), p_value(comparison.p)]
            table.add_row(*cells)
    return table


def groups_table(evaluation: Evaluation) -> Table:
    """Flips, accuracy and text-only agreement of each group of questions, base and arms."""
    names = [evaluation.base, *evaluation.shown]
    table = Table(title="By group [%]", title_justify="left", caption="→ base to " + ", ".join(map(escape, names[1:])))
    table.add_column("group")
    table.add_column("questions", justify="right")
    for measure in GROUPED:
        table.add_column(label(measure).removesuffix(" [%]"), justify="right")
    groups = dict.fromkeys((c.kind, c.subset) for c in evaluation.comparisons if c.kind != "all")
    at = evaluation.against_base()
    last = None
    for kind, subset in groups:
        found = {
            measure: [c for arm in evaluation.shown if (c := at.get((arm, measure, kind, subset)))]
            for measure in GROUPED
        }
        if not any(found.values()):
            continue
        if last not in (None, kind):
            table.add_section()
        counts = found["question_flip_rate"] or found["accuracy"]
        cells = [escape(f"{GROUPS[kind]}: {subset}" if kind in GROUPS else subset)]
        cells.append(str(counts[0].n) if counts else "")
        cells += [_arrow(found[measure]) for measure in GROUPED]
        table.add_row(*cells)
        last = kind
    return table


def quadrants_table(evaluation: Evaluation) -> Table:
    """Where the questions of each arm stand, by both kinds of reliance; of a pool, the means over its arms."""
    table = Table(title="Quadrants [% of the closed questions]", title_justify="left")
    table.caption = (
        "ideal: consistent, rests on the image; fragile: rests on it; dangerous: consistent only; worst: neither\n"
        "grey: it rests on the image if the answer changes with the grey blank; any: with any blank or swapped image\n"
        "moved: changed quadrant since the base; p: Stuart-Maxwell, shares against the base"
    )
    for heading in ("arm", "by"):
        table.add_column(heading)
    for heading in (*QUADRANTS, "moved", "p"):
        table.add_column(heading, justify="right")
    for name in (evaluation.base, *evaluation.shown):
        members = evaluation.pools.get(name, [name])
        for reliance in RELIANCE:
            found = [q for q in evaluation.quadrants if q.arm in members and q.reliance == reliance]
            if found:
                table.add_row(escape(name), reliance, *_quadrant_cells(found, name == evaluation.base))
    return table


def _quadrant_cells(found: list[Quadrants], base: bool) -> list[str]:
    if len(found) == 1:
        shares = [interval(found[0].shares[quadrant], "ideal") for quadrant in QUADRANTS]
    else:
        means = [sum(q.shares[quadrant].value for q in found) / len(found) for quadrant in QUADRANTS]
        shares = [f"{100 * mean:.1f}" for mean in means]
    if base:
        return [*shares, "", ""]
    moved = 100 * sum(map(moved_share, found)) / len(found)
    return [*shares, f"{moved:.1f}", p_value(found[0].p) if len(found) == 1 else ""]


def moved_share(found: Quadrants) -> float:
    """Share of the questions that are not where they were in the base."""
    return 1 - sum(found.moves[i][i] for i in range(len(QUADRANTS))) / found.questions


def controls_lines(evaluation: Evaluation) -> list[str]:
    """What clamps of other features did, a sentence an arm with clamps."""
    lines = []
    for arm, controls in evaluation.controls.items():
        if controls:
            flips, right = (
                sorted(100 * getattr(c, name) for c in controls) for name in ("question_flip_rate", "accuracy")
            )
            lines.append(
                f"Control of {arm}: {len(controls)} clamps of other features as active gave question flips of "
                f"{flips[0]:.1f} to {flips[-1]:.1f}% and accuracy of {right[0]:.1f} to {right[-1]:.1f}%."
            )
    return lines


def overall(evaluation: Evaluation, arm: str) -> list[Comparison]:
    """The comparisons of an arm with the base over all questions."""
    return [c for c in evaluation.comparisons if (c.kind, c.reference, c.arm) == ("all", evaluation.base, arm)]


def comparison_cells(comparison: Comparison) -> list[str]:
    """Measure with its unit, n, reference, arm, difference and p, as plain text."""
    measure = comparison.measure
    return [
        label(measure),
        str(comparison.n),
        interval(comparison.before, measure),
        interval(comparison.after, measure),
        interval(comparison.difference, measure, sign="+"),
        p_value(comparison.p),
    ]


def label(measure: str) -> str:
    """A measure in words, with its unit."""
    words = measure.replace("_", " ").replace("auc", "AUC").replace("text only agreement", "text-only agreement")
    unit = MEASURES[measure].unit
    return f"{words} [{unit}]" if unit else words


def interval(estimate: Estimate, measure: str, sign: str = "") -> str:
    """An estimate in the unit of its measure: shares in percent."""
    scale, digits = (100.0, 1) if MEASURES[measure].unit == "%" else (1.0, 2)
    value, low, high = (f"{scale * number:{sign}.{digits}f}" for number in estimate)
    return f"{value} [{low}, {high}]" if estimate.low == estimate.low else value


def p_value(p: float) -> str:
    """Three decimals; nothing where there is no test."""
    return "" if p != p else "<0.001" if p < 0.001 else f"{p:.3f}"


def _title(evaluation: Evaluation) -> str:
    title = f"{evaluation.model}: {evaluation.questions} questions of {evaluation.patients} patients"
    for clamps in evaluation.arms.values():
        if clamps:
            held = ", ".join(f"{clamp.layer}:{clamp.feature}={clamp.value:g}" for clamp in clamps)
            title += f"; {held} at {PLACES[clamps[0].where]}"
    return escape(title)


def _arrow(found: list[Comparison]) -> str:
    """Base to arms, in percent; nothing where the group has no such value."""
    if not found:
        return ""
    return f"{100 * found[0].before.value:.1f} → " + ", ".join(f"{100 * c.after.value:.1f}" for c in found)
