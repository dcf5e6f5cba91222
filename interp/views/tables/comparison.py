"""The tables of a comparison (comparison.json)."""

from interp.schemas.comparison import Change, Comparison, FeatureChange
from interp.views.numbers import NONE, PERCENT, UNSCALED, Scale, interval, p_phrase, sentence, spoken
from interp.views.overview import Overview
from interp.views.table import Cell, Column, Table, count, estimate, p_cell, tabulate, words

MEASURES = {
    "question_flip_rate": "questions with a flip",
    "pairwise_flip_rate": "pairs that flip",
    "margin_difference": "change of the margin between wordings",
    "accuracy": "correct answers, all wordings",
    "grey_agreement": "answers that stay with a grey image",
    "text_only_agreement": "answers that stay with blank images",
    "recovery": "recovery by the first feature",
}
"""Measure -> what it is called in the tables."""
NARROW_FEATURES = 10
"""Features in the table of the terminal and of notebooks; the page shows all."""


def comparison_overview(found: Comparison) -> Overview:
    """The comparison as the terminal and notebooks show it."""
    tables = [changes_table(found), facts_table(found), moves_table(found), features_table(found, NARROW_FEATURES)]
    which = "searches" if found.kind == "search" else "evaluations"
    return Overview(
        f"Two {which}, A: {found.a} and B: {found.b}",
        conclusions(found),
        tables=[table for table in tables if table.rows],
        notes=found.notes,
    )


def conclusions(found: Comparison) -> list[str]:
    """What changed, in a sentence on the facts that differ and one on each flip rate."""
    verdicts = [fact for fact in found.facts if fact.what.startswith("verdict")]
    said = [
        f"{sentence(fact.what)[:-1]}: {fact.a} in both."
        if fact.same
        else f"{sentence(fact.what)[:-1]}: {fact.a} in A, {fact.b} in B."
        for fact in verdicts
    ]
    others = [fact.what for fact in found.facts if not fact.same and fact not in verdicts]
    said.append(f"Other {', '.join(others)}." if others else "Everything else that was set or given is the same.")
    flips = [change for change in found.changes if change.measure == "question_flip_rate"]
    return said + [_flips(change, found) for change in flips]


def _flips(change: Change, found: Comparison) -> str:
    whose = "" if found.kind == "search" else f" ({change.of})"
    shown = f"Questions with a flip{whose}: {interval(change.a, PERCENT, unit='%')} in A, "
    shown += f"{interval(change.b, PERCENT, unit='%')} in B"
    if change.p is None:
        return f"{shown}."
    return f"{shown}, {interval(change.difference, PERCENT, sign=True)} points, {p_phrase(change.p)}."


def changes_table(found: Comparison) -> Table:
    """Every measure of A and B with its difference."""
    several = len({change.of for change in found.changes}) > 1
    columns = [
        words("measure", _measure),
        Column("n", lambda change: count(change.n)),
        Column("A", lambda change: estimate(change.a, _scale(change))),
        Column("B", lambda change: estimate(change.b, _scale(change))),
        Column("B − A", lambda change: estimate(change.difference, _scale(change), sign=True)),
        Column("p", lambda change: p_cell(change.p), meaning="paired over patients, two-sided"),
    ]
    if several:
        columns.insert(0, words("of", lambda change: change.of))
    return tabulate(
        "What was measured",
        columns,
        found.changes,
        "Brackets: 95% intervals over patients. n: questions, pairs or wordings.",
        [place for place, change in enumerate(found.changes) if change.p is not None and change.p < 0.05],
        "differs (p < .05)",
    )


def _measure(change: Change) -> str:
    name = MEASURES.get(change.measure, spoken(change.measure))
    return name if change.unit == "share" else f"{name} [{change.unit}]"


def _scale(change: Change) -> Scale:
    return PERCENT if change.unit == "%" else UNSCALED


def facts_table(found: Comparison) -> Table:
    """What is said of both in words; the facts that differ first."""
    facts = sorted(found.facts, key=lambda fact: fact.same)
    return tabulate(
        "What was set and found",
        [
            words("", lambda fact: fact.what),
            words("A", lambda fact: fact.a),
            words("B", lambda fact: "the same" if fact.same else fact.b),
        ],
        facts,
        marked=[place for place, fact in enumerate(facts) if not fact.same],
        marker="differs",
    )


def moves_table(found: Comparison) -> Table:
    """In which of the two each pair of wordings flips."""
    return tabulate(
        "Which pairs of wordings flip",
        [
            words("of", lambda moves: moves.of),
            Column("in neither", lambda moves: count(moves.neither)),
            Column("in A only", lambda moves: count(moves.only_a), meaning="repaired in B"),
            Column("in B only", lambda moves: count(moves.only_b), meaning="broken in B"),
            Column("in both", lambda moves: count(moves.both)),
        ],
        found.moves,
    )


def features_table(found: Comparison, most: int | None = None) -> Table:
    """The features that either search tested, those of both first; with `most`, only the first so many."""

    def place(feature: FeatureChange) -> Cell:
        said = [each or NONE for each in (feature.place_a, feature.place_b)]
        return Cell(said[0] if said[0] == said[1] else f"{said[0]}, {said[1]}")

    return tabulate(
        f"The {'first ' if found.features[:most] != found.features else ''}features that were tested",
        [
            words("feature", lambda feature: feature.feature),
            Column("place in A, in B", place, numeric=False),
            Column("recovery in A", lambda feature: estimate(feature.recovery_a)),
            Column("recovery in B", lambda feature: estimate(feature.recovery_b)),
            Column("SAE in A", lambda feature: Cell(feature.sae_a or NONE), numeric=False, narrow=False),
            Column("SAE in B", lambda feature: Cell(feature.sae_b or NONE), numeric=False, narrow=False),
            words("same SAE", lambda feature: {True: "yes", False: "no", None: NONE}[feature.same_sae]),
        ],
        found.features[:most],
        "The recoveries of the two are not paired: each search tests on its own flips.",
    )


def profile_table(found: Comparison) -> Table:
    """The layer profiles of two searches side by side."""
    return tabulate(
        "Layer profiles",
        [
            Column("layer", lambda layer: count(layer.layer)),
            Column("flip AUC in A", lambda layer: estimate(layer.flip_auc_a)),
            Column("flip AUC in B", lambda layer: estimate(layer.flip_auc_b)),
            Column("residual patch in A", lambda layer: estimate(layer.recovery_a)),
            Column("residual patch in B", lambda layer: estimate(layer.recovery_b)),
        ],
        found.profile,
    )
