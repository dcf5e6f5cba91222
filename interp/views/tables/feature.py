"""The tables and numbers of a feature study (study.json)."""

from interp.schemas.published import published_on
from interp.schemas.study import Study
from interp.schemas.tested_features import CausalEntry
from interp.views.numbers import PERCENT, Scale, interval, number, p_phrase, spoken
from interp.views.overview import Facts, Overview
from interp.views.table import Cell, Column, Table, count, estimate, tabulate, value, words
from interp.views.tables.feature_content import content_facts, content_line, firing_table, tokens_table
from interp.views.tables.feature_parts import edges_table, family_table, parts_table, token_edges_table
from interp.views.tables.feature_place import mediation_table, place_lines
from interp.views.tables.published import published_table

LOGITS = Scale(1.0, 4)
"""How effects of one activation unit are printed; they are small."""


def study_overview(study: Study) -> Overview:
    """The study as the terminal and notebooks show it: what the feature is, then its causal test."""
    return Overview(
        f"Feature {study.name} of {study.sae}, {study.model}",
        conclusion(study),
        study_facts(study),
        study_tables(study),
        study.notes,
    )


def conclusion(study: Study) -> list[str]:
    """What the study came to, one sentence each."""
    content = [content_line(study.content, study.name)] if study.content else []
    return [*place_lines(study), causal_line(study), *content]


def study_tables(study: Study) -> list[Table]:
    """Every table that the study has data for; published figures come first."""
    published = published_on(study.name, study.sae)
    return [
        *([published_table(study, published)] if published else []),
        *([mediation_table(study)] if study.mediation else []),
        *([parts_table(study)] if study.parts else []),
        *([family_table(study)] if study.family else []),
        *([edges_table(study)] if study.edges else []),
        *([token_edges_table(study)] if study.token_edges else []),
        *([groups_table(study)] if study.groups else []),
        *([tokens_table(study.content, study.name)] if study.content else []),
        *([firing_table(study.content, study.name)] if study.content else []),
        grid_table(study),
        *([neighbours_table(study)] if study.neighbours else []),
    ]


def causal_line(study: Study) -> str:
    """What the causal test came to, in one sentence."""
    test = study.test
    if test is None:
        return "Causal test: none, as no flip is in the flip bank."
    parts = (
        ""
        if test.mediated is None or test.direct is None
        else f", of which later layers mediate {interval(test.mediated)} and {interval(test.direct)} is direct"
    )
    return (
        f"Causal test on {test.n:,} banked flips: recovery {interval(test.recovery)}{parts}; net of random directions "
        f"{interval(test.net)}, {p_phrase(test.p)}."
    )


def causal_facts(test: CausalEntry) -> Facts:
    """The numbers of a feature patch beside its controls."""
    controls = ", ".join(number(each) for each in (test.random, test.matched, test.swapped))
    parts = [
        (name, interval(part))
        for name, part in (("Mediated by later layers", test.mediated), ("Direct", test.direct))
        if part is not None
    ]
    return [
        ("Recovery", f"{interval(test.recovery)}, {test.n:,} flips"),
        *parts,
        ("Random, matched, swapped", controls),
        ("Flips restored", f"{test.reversals:,} of {test.n:,} (random {number(test.random_reversals)})"),
        ("Side effect on unflipped pairs", f"{number(test.unflipped_changed, PERCENT)}% change"),
    ]


def study_facts(study: Study) -> Facts:
    """The numbers of the feature as a whole."""
    tracking, grid, test = study.tracking, study.grid, study.test
    known = [
        ("Measured on", f"{study.questions:,} questions of {study.patients:,} patients, {tracking.flips:,} flips"),
        ("Feature density", f"active on {number(study.density, PERCENT)}% of the wordings"),
        ("Correlation of delta with the margin shift", interval(tracking.r, sign=True)),
        ("Flip AUC of |delta|", interval(tracking.flip_auc)),
        ("Largest |delta| of its layer", f"in {tracking.largest:,} of {tracking.flips:,} flips"),
    ]
    if study.clamp is not None:
        clamp = study.clamp
        known.append(
            (
                "Held at zero at the final token",
                f"questions with a flip {interval(clamp.flip_rate_before, PERCENT, unit='%')} before, "
                f"{interval(clamp.flip_rate_after, PERCENT, unit='%')} after; accuracy "
                f"{interval(clamp.accuracy_change, PERCENT, sign=True)} points",
            )
        )
    if test is not None:
        doses = ", ".join(f"{dose:g}× {number(share)}" for dose, share in zip(study.doses, test.dose, strict=True))
        known += [*causal_facts(test), ("Recovery by dose", doses)]
        if study.pair_effects is not None:
            pairs = study.pair_effects
            known.append(
                (
                    "Pair by pair, as published",
                    f"recovery {interval(pairs.recovery)}, Cohen's d {number(pairs.cohens_d)}, above half in "
                    f"{pairs.above_half:,} of {test.n:,}; without a flip the margin changes by "
                    f"{interval(pairs.unflipped_change)}",
                )
            )
    known += [
        ("Register grid, rank correlation", f"{interval(grid.spearman, sign=True)} (below 0: more active when formal)"),
        ("Register grid, most formal against most casual", f"AUC {interval(grid.auc)}"),
        (
            "Same last tokens, more formal minus more casual",
            f"{interval(grid.controlled, sign=True)}, {grid.controlled_pairs:,} pairs",
        ),
        ("Effect of one unit by the output layer", f"{number(study.direct_effect, LOGITS, sign=True)} logits"),
        ("Slope of the margin at the last layer", f"{number(study.margin_slope, LOGITS, sign=True)} logits per unit"),
    ]
    return known + content_facts(study)


def groups_table(study: Study) -> Table:
    """The recovery in each group of flips."""
    return tabulate(
        f"Recovery by group of flips, feature {study.name}",
        [
            words("group", lambda group: spoken(group.group)),
            words("by", lambda group: group.grouping),
            Column("flips", lambda group: count(group.pairs)),
            Column("patients", lambda group: count(group.patients)),
            Column("margin shift [logits]", lambda group: value(group.shift)),
            Column("recovery", lambda group: estimate(group.recovery)),
        ],
        study.groups,
        "Brackets: 95% intervals over patients; fewer than five patients have none.",
    )


def grid_table(study: Study) -> Table:
    """The mean activation at each level of the register grid."""
    last = study.grid.levels[-1].level
    ends = {0: "most formal", last: "most casual"}
    return tabulate(
        f"Register grid of feature {study.name}",
        [
            Column("level", lambda level: Cell(str(level.level), level.level, ends.get(level.level, ""))),
            Column("prompts", lambda level: count(level.prompts)),
            Column("mean activation", lambda level: estimate(level.mean)),
        ],
        study.grid.levels,
        f"Level 0 is the most formal, level {last} the most casual. {study.grid.images:,} images; the questions ask "
        f"for {', '.join(study.grid.findings)}. Brackets: 95% intervals over patients.",
    )


def neighbours_table(study: Study) -> Table:
    """The features whose decoder rows point in nearly the same direction."""
    return tabulate(
        f"Nearest neighbours of feature {study.name}",
        [
            Column("feature", lambda near: Cell(str(near.feature), near.feature)),
            Column("cosine", lambda near: value(near.cosine)),
        ],
        study.neighbours,
        "Cosine of the decoder rows. Features that point in nearly the same direction may stand for the same concept.",
    )
