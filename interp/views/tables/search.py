"""The tables and numbers of a search (layers.json)."""

from collections.abc import Callable

from interp.schemas.layers import Layers
from interp.schemas.tested_features import CausalEntry, FeatureEntry
from interp.views.numbers import NONE, PERCENT, interval
from interp.views.overview import Facts, Overview
from interp.views.table import Cell, Column, Table, blank, count, estimate, p_cell, tabulate, value
from interp.views.tables.gate import families_table, gate_line
from interp.views.tables.ranges import formality_line, range_line, ranges_table

NARROW_FEATURES = 10
"""Features in the table of the terminal and of notebooks, the first ones; the report shows all."""


def search_overview(found: Layers) -> Overview:
    """The search as the terminal and notebooks show it."""
    verdict = f"{found.verdict}: {found.reason}"
    return Overview(
        found.model.id,
        [line for line in (verdict, formality_line(found), range_line(found), gate_line(found)) if line],
        search_facts(found),
        [
            ranges_table(found),
            profile_table(found),
            features_table(found, NARROW_FEATURES),
            *([families_table(found)] if found.families else []),
        ],
        found.warnings,
    )


def search_facts(found: Layers) -> Facts:
    """What was studied, how often it flips, and the range."""
    data, model = found.data, found.model
    known = [
        ("Model", f"{model.id}, {model.n_layers} layers of width {model.d_model:,}"),
        ("Data", f"{data.questions:,} yes/no questions of {data.patients:,} patients, {data.split} split"),
        ("Questions with a flip", interval(data.question_flip_rate, PERCENT, unit="%")),
        (
            "Pairs that flip",
            f"{data.flips:,} of {data.pairs:,} ({interval(data.pairwise_flip_rate, PERCENT, unit='%')}); flip bank: "
            f"{data.flip_bank:,}",
        ),
        ("Accuracy", interval(data.accuracy, PERCENT, unit="%")),
    ]
    if found.layers:
        known.insert(0, ("Layers to train", range_line(found)))
    if found.gate is not None:
        known.insert(1, ("Gate", gate_line(found).removeprefix("gate ")))
    if found.commit_layer is not None:
        layer = found.commit_layer
        first = layer == 0 or layer - 1 in {entry.layer for entry in found.profile}
        # Without the layer below in the profile, the answers may be restored earlier.
        where = f"from layer {layer} on" if first else f"at or before layer {layer}"
        known.append(("Half of the flips restored", f"by residual patches {where}"))
    return known


def profile_table(found: Layers) -> Table:
    """The layer profile, one row for each layer."""
    # Searches before schema version 3 had no answer patch.
    answers = any(entry.answer is not None for entry in found.profile)
    table = tabulate(
        "Layer profile on held-out patients",
        [
            Column("layer", lambda entry: count(entry.layer)),
            Column("flip AUC", lambda entry: estimate(entry.flip_auc), narrow=not answers),
            Column(
                "answer patch",
                lambda entry: estimate(entry.answer),
                meaning="of the difference between the wordings, only the part that says another answer is exchanged",
            ),
            Column(
                "random",
                lambda entry: value(entry.random_answer and entry.random_answer.value),
                meaning="the patch with random directions, of the same norm or gain",
            ),
            Column(
                "growth",
                lambda entry: estimate(entry.answer_growth),
                meaning="answer patch net of random, minus the same one layer below: what turned the wording into "
                "another answer",
            ),
            Column(
                "register patch",
                lambda entry: estimate(entry.register_patch),
                meaning="only the part that formal and casual wordings differ in on average is exchanged",
            ),
            Column("random", lambda entry: value(entry.random_register and entry.random_register.value)),
            Column(
                "residual patch",
                lambda entry: estimate(entry.recovery),
                meaning="the whole residual of the original wording replaces that of the paraphrase",
            ),
            Column("random", lambda entry: value(entry.random_patch.value), narrow=not answers),
            Column(
                "direct-effect patch",
                lambda entry: estimate(entry.write),
                narrow=not answers,
                meaning="only what this layer adds is exchanged, and its effect is read at the output",
            ),
            Column("random", lambda entry: value(entry.random_write.value), narrow=not answers),
            Column(
                "joint feature patch, net",
                lambda entry: estimate(entry.net_feature_patch, sign=True),
                narrow=False,
                meaning="the ten features of highest attribution are patched together, net of random directions",
            ),
            Column(
                "flips restored",
                lambda entry: count(entry.reversals),
                narrow=not answers,
                meaning="flips whose original answer the residual patch restores",
            ),
            Column("SAE R²", lambda entry: estimate(entry.r2), narrow=False),
            Column(
                "SAE FVU",
                lambda entry: value(entry.fvu),
                narrow=False,
                meaning="fraction of the variance that the SAE leaves unexplained",
            ),
            Column("SAE fits", lambda entry: Cell(entry.transfer or NONE), numeric=False, narrow=False),
            Column("active features", lambda entry: value(entry.l0), narrow=False),
        ],
        found.profile,
        "Patches are measured by the share of the margin shift that they recover. Brackets: 95% intervals over "
        "patients.",
        [place for place, entry in enumerate(found.profile) if entry.layer in found.layers],
        "chosen",
    )
    return table.known()


def features_table(found: Layers, most: int | None = None) -> Table:
    """The features that were patched, causes first; with `most`, only the first so many."""
    shown = found.features[:most]
    which = f"All {len(shown)} features" if len(shown) == len(found.features) else f"The first {len(shown)} features"
    return tabulate(
        f"{which} that were patched, causes first",
        [
            Column(
                "feature",
                lambda entry: Cell(f"{entry.layer}:{entry.feature}", entry.layer + entry.feature / 1e9),
                meaning="layer, and index in the SAE",
            ),
            Column(
                "place",
                lambda entry: Cell(entry.place or NONE),
                numeric=False,
                meaning="cause: read by the layers that write; mediator: among them; contributor: works "
                "through them, but little alone; echo: carries the answer; bystander: does nothing",
            ),
            Column("flip AUC, held out", lambda entry: value(entry.held_out_auc)),
            Column("r with margin", lambda entry: value(entry.margin_r, sign=True), narrow=False),
            Column(
                "register AUC",
                lambda entry: value(entry.register_auc),
                narrow=False,
                meaning="above .50 more active on formal wordings, below on casual ones",
            ),
            Column(
                "predicted",
                lambda entry: value(
                    entry.attribution if entry.path_attribution is None else entry.path_attribution, sign=True
                ),
                narrow=False,
                meaning="recovery by the gradients on the path, on the other half of the patients",
            ),
            Column(
                "recovery",
                _causal(lambda causal: estimate(causal.recovery)),
                meaning="share of the margin shift that comes back when the feature's change is undone",
            ),
            Column(
                "mediated",
                _causal(lambda causal: estimate(causal.mediated)),
                meaning="the part of it that layers above the feature make; the rest is read directly by the output",
            ),
            Column(
                "random",
                _causal(lambda causal: value(causal.random)),
                meaning="recovery by random directions of the same norm",
            ),
            Column(
                "matched",
                _causal(lambda causal: value(causal.matched)),
                meaning="recovery by features that move as much but do not discriminate flips",
            ),
            Column(
                "swapped",
                _causal(lambda causal: value(causal.swapped)),
                meaning="recovery with the feature's change on another pair",
            ),
            Column(
                "p",
                _causal(lambda causal: p_cell(causal.p)),
                meaning="of recovery minus random, adjusted over the features",
            ),
            Column(
                "flips restored",
                _causal(lambda causal: Cell(f"{causal.reversals} of {causal.n}", causal.reversals)),
            ),
            Column(
                "side effect [%]",
                _causal(lambda causal: value(causal.unflipped_changed, PERCENT)),
                meaning="unflipped pairs whose answer the patch changes",
            ),
        ],
        shown,
        "The features were chosen on half of the patients and patched on flips of the others. Brackets: 95% intervals "
        "over patients.",
    )


def _causal(cell: Callable[[CausalEntry], Cell]) -> Callable[[FeatureEntry], Cell]:
    """The cell of a feature that was patched; blank for one that was not."""
    return lambda entry: blank() if entry.causal is None else cell(entry.causal)
