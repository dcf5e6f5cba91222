"""Stage 5 of a search, second part: a family of every layer is patched as one, as no single feature may suffice."""

from collections.abc import Sequence

import numpy as np

from interp.causal.layer_patching import PatchTarget
from interp.causal.vector_patching import VectorTest, drawn_noise, patch_vectors
from interp.profile.places import ORDER, place_of
from interp.schemas.tested_features import FAMILY_MEDIATED, FamilyEntry
from interp.schemas.vector_patch import VectorPatchEntry
from interp.screening.families import Family
from interp.screening.layers import ScreenedLayers
from interp.statistics import benjamini_hochberg
from interp.storage.json_files import json_ready, significant

SWEEP = 8
"""Families in one sweep, whose edits of a flip are then about as many as those of the layer patches."""


def patch_families(screened: ScreenedLayers, bank: PatchTarget, writing: Sequence[int], seed: int) -> list[FamilyEntry]:
    """Patch the family of every layer below the last of `writing` on the held-out flip bank; causes come first.

    Where no layer writes the answer, no family can cause it, and none is patched. p is adjusted over the families.
    """
    last = max(writing, default=-1)
    tested = [k for k, family in enumerate(screened.families) if family.layer < last and len(family.features)]
    if not tested or not len(bank.flips.pairs):
        return []
    families = [screened.families[k] for k in tested]
    tests: list[VectorTest] = []
    noise = None
    for start in range(0, len(tested), SWEEP):
        part = tested[start : start + SWEEP]
        layers = [screened.families[k].layer for k in part]
        vectors = screened.family_patch[:, part]
        # Only the last part may be smaller.
        if noise is None or len(part) < SWEEP:
            n, k, d_model = vectors.shape
            noise = drawn_noise(n, k, d_model, seed)
        tests += patch_vectors(bank, layers, vectors, seed, noise)
    adjusted, adjusted_mediated = (
        benjamini_hochberg(np.array([getattr(test, name) for test in tests])) for name in ("p", "p_mediated")
    )
    entries = [
        _entry(family, test._replace(p=p, p_mediated=mediated), writing)
        for family, test, p, mediated in zip(families, tests, adjusted, adjusted_mediated, strict=True)
    ]
    return sorted(entries, key=lambda entry: (ORDER.index(entry.place), -(entry.net_mediated.value or 0.0)))


def _entry(family: Family, test: VectorTest, writing: Sequence[int]) -> FamilyEntry:
    patched = VectorPatchEntry.model_validate(json_ready(test))
    return FamilyEntry(
        **dict(patched),
        layer=family.layer,
        features=list(family.features),
        path_attribution=significant(family.path_attribution),
        place=place_of(family.layer, patched, writing, FAMILY_MEDIATED),
    )
