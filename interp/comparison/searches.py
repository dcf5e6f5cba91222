"""What changed between two searches."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from interp.comparison.paired_items import (
    answers_of_search,
    moves,
    paired_change,
    paired_changes,
    recovery_units,
)
from interp.schemas.comparison import Change, Comparison, Fact, FeatureChange, LayerChange, Moves
from interp.schemas.layer_list import layers_text
from interp.schemas.layers import Layers, SaeEntry
from interp.schemas.record import Interval
from interp.schemas.tested_features import FeatureEntry
from interp.storage.json_files import significant
from interp.storage.provenance import software
from interp.views.tables.gate import gate_name

RATES = ("question_flip_rate", "pairwise_flip_rate", "accuracy")
"""Rates of the questions in layers.json, which need no items."""


def compare_searches(
    names: tuple[str, str],
    found: tuple[Layers, Layers],
    items: tuple[pd.DataFrame | None, pd.DataFrame | None],
    seed: int,
) -> Comparison:
    """Compare two searches by their layers.json, and pair by pair if both kept their `items`."""
    a, b = found
    same = a.data.fingerprint == b.data.fingerprint
    changes, moved, notes = _rates(a, b), list[Moves](), []
    if same and items[0] is not None and items[1] is not None:
        first, second = (answers_of_search(table) for table in (items[0], items[1]))
        changes, moved = paired_changes("search", first, second, seed), [moves("search", first, second)]
        changes += _recoveries(a, b, items[0], items[1], seed)
    elif not same:
        notes.append("The two were measured on different questions, so their rates are not paired.")
    else:
        notes.append("Without the items of both, differences have no intervals. Search again with --keep-items.")
    features, notes_on_saes = _features(a, b)
    return Comparison(
        kind="search",
        a=names[0],
        b=names[1],
        same_questions=same,
        paired=bool(moved),
        facts=_facts(a, b),
        changes=changes,
        moves=moved,
        features=features,
        profile=_profile(a, b),
        notes=notes + notes_on_saes,
        seed=seed,
        software=software(),
    )


def _facts(a: Layers, b: Layers) -> list[Fact]:
    """Verdict, layers, gate, model, questions and SAEs of both, and the settings that differ."""
    sides = [_said(each) for each in (a, b)]
    known = [
        Fact(what=what, a=sides[0][what], b=sides[1][what], same=sides[0][what] == sides[1][what]) for what in sides[0]
    ]
    settings = [
        Fact(what=f"setting {name}", a=str(a.settings.get(name)), b=str(b.settings.get(name)), same=False)
        for name in sorted({*a.settings, *b.settings})
        if a.settings.get(name) != b.settings.get(name) and name != "layers"
    ]
    return known + settings


def _said(found: Layers) -> Mapping[str, str]:
    gate, model, data, register = found.gate, found.model, found.data, found.formality
    top = found.features[0] if found.features else None
    digests = {entry.digest for entry in found.sae_sources}
    return {
        "verdict": found.verdict,
        "layers": layers_text(found.layers) if found.layers else "none",
        "register makes the flips": "unknown" if register is None else "yes" if register.holds else "not shown",
        "gate reads": gate_name(gate) if gate else "none",
        "first feature": f"{top.layer}:{top.feature}, {top.place or 'untested'}" if top else "none",
        "model": f"{model.id}{f'@{model.revision[:8]}' if model.revision else ''}, {model.dtype}",
        "prompt": ", ".join(
            f"{name}: {value}" for name, value in found.prompt.model_dump().items() if value is not None
        ),
        "questions": f"{data.questions:,} of {data.patients:,} patients, {data.split} ({data.fingerprint[:8]})",
        "SAEs": f"{len(found.saes)} ({', '.join(sorted({_suite(e) for e in found.sae_sources})) or 'unknown'})",
        "digest of the SAEs": ", ".join(sorted(digests))[:12] if digests else "unknown",
    }


def _suite(entry: SaeEntry) -> str:
    return entry.release or (entry.repository or "local")


def _rates(a: Layers, b: Layers) -> list[Change]:
    """The rates of both with their own intervals, and differences without one."""
    return [
        Change(
            of="search",
            measure=name,
            unit="%",
            n=b.data.pairs if name == "pairwise_flip_rate" else b.data.questions,
            patients=b.data.patients,
            a=first,
            b=second,
            difference=difference(first, second),
            p=None,
        )
        for name in RATES
        for first, second in [(getattr(a.data, name), getattr(b.data, name))]
    ]


def difference(a: Interval, b: Interval) -> Interval:
    """B - A without an interval."""
    known = a.value is not None and b.value is not None
    value: Any = significant(b.value - a.value) if known else None  # type: ignore[operator]
    return Interval(value=value, low=None, high=None)


def _recoveries(a: Layers, b: Layers, first: pd.DataFrame, second: pd.DataFrame, seed: int) -> list[Change]:
    """The recovery by the first feature of each search, on the flips that each patched."""
    units = recovery_units(first), recovery_units(second)
    if not a.features or not b.features or not all(len(each.columns) for each in units):
        return []
    named = [f"{found.features[0].layer}:{found.features[0].feature}" for found in (a, b)]
    of = named[0] if named[0] == named[1] else f"{named[0]} in A, {named[1]} in B"
    return [paired_change(of, "recovery", "share", *units, seed)]


def _features(a: Layers, b: Layers) -> tuple[list[FeatureChange], list[str]]:
    """Every feature that either search tested, those of both first, and a note if layers have other SAEs."""
    sides: list[dict[tuple[int, int], FeatureEntry]] = [
        {(entry.layer, entry.feature): entry for entry in found.features} for found in (a, b)
    ]
    digest = [{entry.layer: entry.digest for entry in found.sae_sources} for found in (a, b)]
    shared = [name for name in sides[0] if name in sides[1]]
    names = [*shared, *(name for side in sides for name in side if name not in shared)]
    listed = []
    for layer, feature in names:
        first, second = (side.get((layer, feature)) for side in sides)
        known = layer in digest[0] and layer in digest[1]
        listed.append(
            FeatureChange(
                feature=f"{layer}:{feature}",
                sae_a=a.saes.get(layer) if first else None,
                sae_b=b.saes.get(layer) if second else None,
                same_sae=digest[0][layer] == digest[1][layer] if known else None,
                place_a=first.place if first else None,
                place_b=second.place if second else None,
                recovery_a=first.causal.recovery if first and first.causal else None,
                recovery_b=second.causal.recovery if second and second.causal else None,
            )
        )
    others = sorted(layer for layer in digest[0].keys() & digest[1].keys() if digest[0][layer] != digest[1][layer])
    if not others:
        return listed, []
    said = (
        f"The SAEs of layers {', '.join(map(str, others))} are different dictionaries: one number names two features."
    )
    return listed, [said]


def _profile(a: Layers, b: Layers) -> list[LayerChange]:
    of_a, of_b = ({entry.layer: entry for entry in found.profile} for found in (a, b))
    return [
        LayerChange(
            layer=layer,
            flip_auc_a=of_a[layer].flip_auc if layer in of_a else None,
            flip_auc_b=of_b[layer].flip_auc if layer in of_b else None,
            recovery_a=of_a[layer].recovery if layer in of_a else None,
            recovery_b=of_b[layer].recovery if layer in of_b else None,
        )
        for layer in sorted({*of_a, *of_b})
    ]
