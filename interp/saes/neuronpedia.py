"""A run's features as Neuronpedia names them: their pages, and a list that its interface takes. Nothing is sent.

Neuronpedia's lists are made of model id, source id (which it calls layer), index and a description
(`POST /api/list/add-features`, https://www.neuronpedia.org/api-doc); an address alone shows features as a quick list.
Which SAE has which source id is said by sae-lens's table of releases.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from interp.runtime.errors import InputError
from interp.schemas.layers import FeatureEntry, Layers

SITE = "https://www.neuronpedia.org"
MAX_FEATURES = 100
"""Features that its interface takes at a time."""


def sources_of(release: str) -> dict[str, str]:
    """SAE folder name -> Neuronpedia's model and source id, as gemma-3-4b-it/17-gemmascope-2-res-16k.

    `release` is sae-lens's name of a release; what is none gives an empty dictionary.
    """
    if not release or "/" in release or Path(release).exists():
        return {}
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory().get(release)
    if known is None:
        return {}
    return {Path(known.saes_map[name]).name: page for name, page in known.neuronpedia_id.items() if page}


def neuronpedia_address(source: str, sae_id: str, feature: int) -> str | None:
    """The feature's page, if `source` is a sae-lens release that names one for the SAE of folder name `sae_id`."""
    page = sources_of(source).get(sae_id)
    return f"{SITE}/{page}/{feature}" if page else None


def feature_list(found: Layers, release: str, most: int = MAX_FEATURES) -> dict[str, Any]:
    """The first `most` features of a search whose SAEs Neuronpedia has, as JSON.

    `featuresToAdd` is what its lists are made of, `pages` the address of each, `quick_list` one that shows all, and
    `left_out` the features, as LAYER:FEATURE, whose SAE has no page. Raises InputError if none has.
    """
    sources = sources_of(release)
    listed = [entry for entry in found.features if found.saes[entry.layer] in sources][:most]
    if not listed:
        raise InputError(
            f"{release}: Neuronpedia has none of the SAEs of these features ({_names(found)}), as far as sae-lens "
            "knows. If the search used a sae-lens release, give its name with --saes, as gemma-scope-2-4b-it-res; "
            "SAEs of your own have no page there."
        )
    pages = [f"{sources[found.saes[entry.layer]]}/{entry.feature}" for entry in listed]
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
        "left_out": [f"{f.layer}:{f.feature}" for f in found.features if found.saes[f.layer] not in sources],
    }


def _names(found: Layers) -> str:
    names: Sequence[str] = list(dict.fromkeys(found.saes[entry.layer] for entry in found.features))
    return ", ".join(names) or "there are no features"


def _description(entry: FeatureEntry, model: str) -> str:
    """What the search found of a feature, in words; numbers of the model that was asked, not of the SAE's."""
    said = []
    if entry.causal is not None and entry.causal.recovery.value is not None:
        recovery, chance = entry.causal.recovery, entry.causal.random
        interval = "" if recovery.low is None else f" [{recovery.low:.2f}, {recovery.high:.2f}]"
        beside = "" if chance is None else f" (random direction {chance:.2f})"
        said.append(f"recovers {recovery.value:.2f}{interval} of the margin shift{beside}")
    if entry.held_out_auc is not None:
        said.append(f"flip AUC {entry.held_out_auc:.2f} on held-out patients")
    return f"GateScope on {model}: {'; '.join(said) or 'not tested'}"
