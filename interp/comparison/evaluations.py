"""What changed between two evaluations: arm by arm, in verdicts and measures."""

import pandas as pd

from interp.comparison.paired_items import answers_of_arm, moves, paired_changes
from interp.comparison.searches import difference
from interp.runtime.errors import InputError
from interp.schemas.comparison import Change, Comparison, Fact, Moves, Unit
from interp.schemas.evaluation import Comparison as ArmMeasure
from interp.schemas.evaluation import Evaluation
from interp.schemas.record import Interval
from interp.storage.provenance import software

UNITS: dict[str, Unit] = {
    "question_flip_rate": "%",
    "pairwise_flip_rate": "%",
    "margin_difference": "logits",
    "accuracy": "%",
    "text_only_agreement": "%",
}
"""Measures of evaluation.json that are compared where the items were not kept -> their unit."""


def compare_evaluations(
    names: tuple[str, str],
    found: tuple[Evaluation, Evaluation],
    items: tuple[pd.DataFrame | None, pd.DataFrame | None],
    seed: int,
) -> Comparison:
    """Compare two evaluations by their evaluation.json, and wording by wording if both kept their `items`.

    The bases are compared, and the arms that have one name in both; if none has, the only arm of each. Raises
    InputError if no arm can be matched.
    """
    a, b = found
    same, couples = a.data == b.data, _couples(names, a, b)
    changes, moved, notes = list[Change](), list[Moves](), []
    for first, second in [(a.base, b.base), *couples]:
        of = first if first == second else f"{first} in A, {second} in B"
        if same and items[0] is not None and items[1] is not None:
            sides = _answers(items[0], a, first), _answers(items[1], b, second)
            changes += paired_changes(of, *sides, seed)
            moved.append(moves(of, *sides))
        else:
            changes += _unpaired(of, a, b, first, second)
    if not same:
        notes.append("The two were measured on different questions, so their measures are not paired.")
    elif not moved:
        notes.append("Without the items of both, differences have no intervals. Evaluate again with --keep-items.")
    return Comparison(
        kind="evaluation",
        a=names[0],
        b=names[1],
        same_questions=same,
        paired=bool(moved),
        facts=_facts(a, b, couples),
        changes=changes,
        moves=moved,
        features=[],
        profile=[],
        notes=notes,
        seed=seed,
        software=software(),
    )


def _answers(items: pd.DataFrame, found: Evaluation, arm: str) -> pd.DataFrame:
    """The answers of an arm or of the base, whose columns are the same beside every arm."""
    if arm != found.base:
        return answers_of_arm(items, arm, "after")
    return answers_of_arm(items, next(each for each in found.arms if each != found.base), "before")


def _couples(names: tuple[str, str], a: Evaluation, b: Evaluation) -> list[tuple[str, str]]:
    """The arms (A, B) that are compared."""
    arms = [[arm for arm in each.arms if arm != each.base] for each in (a, b)]
    shared = [arm for arm in arms[0] if arm in arms[1]]
    if shared:
        return [(arm, arm) for arm in shared]
    if len(arms[0]) == len(arms[1]) == 1:
        return [(arms[0][0], arms[1][0])]
    raise InputError(
        f"{names[0]} has the arms {', '.join(arms[0])} and {names[1]} has {', '.join(arms[1])}: none has one name in "
        "both. Compare evaluations of one arm each, or evaluate all arms together with `finetune evaluate`."
    )


def _facts(a: Evaluation, b: Evaluation, couples: list[tuple[str, str]]) -> list[Fact]:
    def fact(what: str, first: str, second: str) -> Fact:
        return Fact(what=what, a=first, b=second, same=first == second)

    known = [
        fact("base model", a.model, b.model),
        fact("questions", *(f"{each.questions:,} of {each.patients:,} patients ({each.data[:8]})" for each in (a, b))),
        fact("tolerance", f"{100 * a.tolerance:g}%", f"{100 * b.tolerance:g}%"),
    ]
    for first, second in couples:
        what = "verdict" if first != second else f"verdict on {first}"
        known.append(fact(what, a.verdicts[first].label, b.verdicts[second].label))
        if first != second:
            known.append(fact("arm", first, second))
    return known


def _unpaired(of: str, a: Evaluation, b: Evaluation, first: str, second: str) -> list[Change]:
    """The measures of two arms with their own intervals, and differences without one."""
    found = []
    for measure, unit in UNITS.items():
        sides = [side for each, arm in ((a, first), (b, second)) if (side := _measured(each, arm, measure)) is not None]
        if len(sides) == 2:
            (_, before), (row, after) = sides
            found.append(
                Change(
                    of=of,
                    measure=measure,
                    unit=unit,
                    n=row.n,
                    patients=row.patients,
                    a=before,
                    b=after,
                    difference=difference(before, after),
                    p=None,
                )
            )
    return found


def _measured(found: Evaluation, arm: str, measure: str) -> tuple[ArmMeasure, Interval] | None:
    """The comparison over all questions that holds a measure of an arm or of the base, and the measure itself."""
    for row in found.comparisons:
        if row.measure == measure and row.kind == "all" and row.reference == found.base:
            if arm == found.base:
                return row, row.before
            if row.arm == arm:
                return row, row.after
    return None
