"""What the SAE leaves out of the layer's change, and the family and the edges of the studied feature."""

from interp.schemas.study import EdgeEntry, Study
from interp.schemas.vector_patch import VectorPatchEntry
from interp.views.numbers import PERCENT, number
from interp.views.table import Cell, Column, Table, count, estimate, p_cell, tabulate, value, words


def parts_table(study: Study) -> Table:
    """The patches of the whole change of the residual, of its features, of the SAE error, and of the family."""
    parts, known = study.parts, list[tuple[str, VectorPatchEntry]]()
    if parts is not None:
        known += [("whole residual", parts.whole), ("all features", parts.features), ("SAE error", parts.error)]
    if study.family_patch is not None:
        known.append((f"{study.name} and its {len(study.family)} relatives", study.family_patch))
    share = None if parts is None else parts.error_share
    return tabulate(
        f"Patches of layer {study.layer} at the final token",
        [
            words("what is exchanged", lambda row: row[0]),
            Column("recovery", lambda row: estimate(row[1].recovery)),
            Column("net", lambda row: estimate(row[1].net)),
            Column("p", lambda row: p_cell(row[1].p)),
            Column("net mediated", lambda row: estimate(row[1].net_mediated)),
            Column("flips restored", lambda row: count(row[1].reversals)),
        ],
        known,
        f"The SAE error is what its features leave out: {number(share, PERCENT)}% of the change's squared norm. A gate "
        "that reads it cannot be found among the features.",
    )


def family_table(study: Study) -> Table:
    """The relatives of the feature."""
    return tabulate(
        f"Family of feature {study.name}",
        [
            Column("feature", lambda each: Cell(str(each.feature), each.feature)),
            words("kinship", lambda each: each.kinship),
            Column("cosine", lambda each: value(each.cosine)),
            Column("r of deltas", lambda each: value(each.r, sign=True)),
            Column("overlap", lambda each: value(each.overlap)),
        ],
        study.family,
        "Duplicate: like direction, active on the same wordings. Split: like direction, on other wordings. Companion: "
        "another direction that moves with it. Opposite: one that moves against it. The family is chosen without the "
        "margins.",
    )


def edges_table(study: Study) -> Table:
    """The features before and after the studied one."""

    def other(edge: EdgeEntry) -> tuple[int, int, str]:
        before = edge.target_layer == study.layer
        layer, feature = (
            (edge.source_layer, edge.source_feature) if before else (edge.target_layer, edge.target_feature)
        )
        return layer, feature, "before" if before else "after"

    return tabulate(
        f"Features before and after {study.name} at the final token",
        [
            words("feature", lambda edge: "{}:{}".format(*other(edge)[:2])),
            words("place", lambda edge: other(edge)[2]),
            Column("goes back", lambda edge: estimate(edge.undone)),
            Column("predicted", lambda edge: value(edge.predicted)),
        ],
        study.edges,
        f"Before: share of the change of {study.name} that goes back when the change of this feature is undone. After: "
        f"share of its change that goes back when that of {study.name} is undone. Predicted: the same by the gradient. "
        "Brackets: 95% intervals over patients.",
    )


def token_edges_table(study: Study) -> Table:
    """The earlier tokens from which the feature's change comes."""
    return tabulate(
        f"Tokens from which the change of {study.name} comes",
        [
            words("tokens", lambda edge: edge.tokens),
            Column("layer", lambda edge: count(edge.layer)),
            Column("goes back", lambda edge: estimate(edge.undone)),
        ],
        study.token_edges,
        f"Share of the change of {study.name} that goes back when what attention brings from these tokens to the final "
        "token is exchanged between the wordings, at one layer. Wording: the tokens in which wordings differ. "
        "Brackets: 95% intervals over patients.",
    )
