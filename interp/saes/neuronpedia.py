"""A run's features on Neuronpedia: the addresses of their pages and a list for its API. Nothing is sent.

An entry of a Neuronpedia list has a model id, a source id (called layer), an index and a description
(`POST /api/list/add-features`, https://www.neuronpedia.org/api-doc). A quick list needs only an address. sae-lens's
table of releases gives the source id of every SAE.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from interp.runtime.errors import InputError
from interp.saes.suites import pages_of
from interp.schemas.layers import Layers
from interp.schemas.neuronpedia import SITE
from interp.schemas.tested_features import FeatureEntry

MAX_FEATURES = 100
"""Most features that the API takes at once."""


def sources_of(release: str) -> dict[str, str]:
    """SAE folder name -> Neuronpedia's model and source id, e.g. gemma-3-4b-it/17-gemmascope-2-res-16k.

    `release` is sae-lens's name of a release; any other text gives an empty dictionary.
    """
    return {Path(path).name: page for path, page in pages_of(release).items()}


def neuronpedia_address(source: str, sae_id: str, feature: int) -> str | None:
    """Address of a feature's page; None unless `source` is a release that has one for the SAE folder `sae_id`."""
    page = sources_of(source).get(sae_id)
    return f"{SITE}/{page}/{feature}" if page else None


def feature_list(found: Layers, release: str | None = None, most: int = MAX_FEATURES) -> dict[str, Any]:
    """A JSON object with the first `most` features of a search whose SAEs Neuronpedia has.

    `featuresToAdd` holds the entries of a list, `pages` the address of each feature, `quick_list` one address that
    shows all, and `left_out` the features, as LAYER:FEATURE, whose SAE has no page. `release` is sae-lens's name of the
    release that the SAEs are of, by default as the search recorded it for each. Raises InputError if no feature has a
    page.
    """
    recorded = {entry.layer: entry.release or "" for entry in found.sae_sources}
    source_of = {
        layer: source
        for layer, folder in found.saes.items()
        if (source := sources_of(release or recorded.get(layer, "")).get(folder)) is not None
    }
    listed = [entry for entry in found.features if entry.layer in source_of][:most]
    if not listed:
        whose = release or ", ".join(sorted({name for name in recorded.values() if name})) or "the SAEs of this search"
        raise InputError(
            f"{whose}: according to sae-lens, Neuronpedia has none of the SAEs of these features ({_names(found)}). "
            "A search with --saes gemma-scope-2 uses SAEs with pages where there are any; `interp test-feature` names "
            "the nearest feature that has one. Your own SAEs have no page."
        )
    pages = [f"{source_of[entry.layer]}/{entry.feature}" for entry in listed]
    named = [page.split("/") for page in pages]
    places = [{"modelId": model, "layer": source, "index": index} for model, source, index in named]
    name = f"GateScope, {found.model.id}"
    quick = urlencode({"name": name, "features": json.dumps(places, separators=(",", ":"))})
    return {
        "name": name,
        "featuresToAdd": [
            place | {"description": _description(entry, found.model.id)}
            for place, entry in zip(places, listed, strict=True)
        ],
        "pages": [f"{SITE}/{page}" for page in pages],
        "quick_list": f"{SITE}/quick-list/?{quick}",
        "left_out": [f"{f.layer}:{f.feature}" for f in found.features if f.layer not in source_of],
    }


def _names(found: Layers) -> str:
    names: Sequence[str] = list(dict.fromkeys(found.saes[entry.layer] for entry in found.features))
    return ", ".join(names) or "there are no features"


def _description(entry: FeatureEntry, model: str) -> str:
    """What the search found about a feature, in words; the numbers are those of the searched model."""
    parts = []
    if entry.causal is not None and entry.causal.recovery.value is not None:
        recovery, chance = entry.causal.recovery, entry.causal.random
        interval = "" if recovery.low is None else f" [{recovery.low:.2f}, {recovery.high:.2f}]"
        beside = "" if chance is None else f" (random direction {chance:.2f})"
        parts.append(f"recovers {recovery.value:.2f}{interval} of the margin shift{beside}")
    if entry.held_out_auc is not None:
        parts.append(f"flip AUC {entry.held_out_auc:.2f} on held-out patients")
    return f"GateScope on {model}: {'; '.join(parts) or 'not tested'}"
