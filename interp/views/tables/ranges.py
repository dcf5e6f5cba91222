"""The range of each rule with its test, and what the test says of the register."""

from interp.schemas.layer_list import layers_text
from interp.schemas.layers import Layers, RangeEntry
from interp.views.numbers import interval, number
from interp.views.table import Cell, Column, Table, count, estimate, tabulate, value, words


def chosen_range(found: Layers) -> RangeEntry | None:
    """The range of the rule that was chosen; None in files that list only other rules."""
    return next((entry for entry in found.ranges if entry.rule == found.rule), None)


def is_tested(found: Layers) -> bool:
    """Whether the range of the chosen rule was tested on held-out flips, as it is since schema version 3."""
    taken = chosen_range(found)
    return taken is not None and taken.share is not None


def range_line(found: Layers) -> str:
    """The layers to train with their rule and peak, or "no layers"."""
    if not found.layers:
        return "no layers"
    layers = f"layers {layers_text(found.layers)}"
    if found.verdict == "spread over layers":
        return f"{layers}, all in which the answer changes"
    return f"{layers}, by rule {found.rule}, peak {found.peak}"


def formality_line(found: Layers) -> str:
    """Whether the register makes the flips, in one sentence; empty if that was not measured."""
    formality = found.formality
    if formality is None:
        return ""
    measured = (
        f"exchanging it alone, after layer {formality.layer}, recovers {interval(formality.recovery)} "
        f"(random directions: {number(formality.random.value)})"
    )
    if formality.holds:
        return f"the register makes the flips: {measured}"
    return f"the register is not shown to make the flips: {measured}, and the whole interval must be above one half"


def ranges_table(found: Layers) -> Table:
    """The range that each rule takes, and what its layers do on held-out flips."""
    rules = [entry.rule for entry in found.ranges]
    table = tabulate(
        "The range by each rule, and its test on held-out flips",
        [
            words("rule", lambda entry: entry.rule),
            Column("layers", lambda entry: Cell(layers_text(range(entry.first, entry.last + 1)), entry.first)),
            Column("peak", lambda entry: count(entry.peak), narrow=False),
            Column(
                "flipped answers made here",
                lambda entry: estimate(entry.share),
                meaning="share of the flipped answers that these layers make, by the answer patch net of random",
            ),
            Column(
                "answers by image made here",
                lambda entry: estimate(entry.formed),
                meaning="the same share of answers that differ because the image does; at a gate it is at most half as "
                "large, or else every answer is made here and the wording disturbs the reading of the image",
            ),
            Column(
                "there before",
                lambda entry: estimate(entry.arrived),
                meaning="recovery by the residual patch below these layers: whether the final token holds the "
                "difference of wording before they turn it into an answer",
            ),
            Column(
                "restored",
                lambda entry: estimate(entry.restored),
                meaning="recovery when only what these layers add is exchanged (window patch): whether it is enough",
            ),
            Column("random", lambda entry: value(entry.random_restored and entry.random_restored.value)),
            Column(
                "broken",
                lambda entry: estimate(entry.broken),
                meaning="share of the shift that the original wording loses when what these layers add is taken away: "
                "whether it is needed",
            ),
            Column("random", lambda entry: value(entry.random_broken and entry.random_broken.value)),
        ],
        found.ranges,
        "Random: the same with random directions of the same norm. Where the rules disagree, the range depends on the "
        "rule. Brackets: 95% intervals over patients.",
        [rules.index(found.rule)] if found.rule in rules else [],
        "the rule of this search",
    )
    return table.known()
