"""Where an SAE comes from: hub repository, commit and sae-lens release, with a digest."""

from pathlib import Path

from interp.runtime.errors import InputError
from interp.saes.sae_folder import sae_digest
from interp.saes.suites import pages_of, release_of, suite_path
from interp.schemas.layers import SaeEntry
from interp.storage.hub import hub_place
from interp.storage.json_files import read_object


def sae_source(layer: int, folder: Path) -> SaeEntry:
    """The entry of an SAE folder in layers.json. Raises InputError as `interp.saes.sae_folder.sae_digest`."""
    place = hub_place(folder)
    inside = suite_path(folder) if place is None else place.inside
    release = release_of(None if place is None else place.repository, _model_name(folder), inside)
    return SaeEntry(
        layer=layer,
        folder=inside,
        repository=None if place is None else place.repository,
        revision=None if place is None else place.revision,
        release=release,
        digest=sae_digest(folder).hex()[:32],
        neuronpedia=pages_of(release or "").get(inside),
    )


def _model_name(folder: Path) -> str | None:
    """The model that an SAE was trained on, by its config.json; None if that does not say."""
    try:
        name = read_object(folder / "config.json").get("model_name")
    except InputError:
        return None
    return name if isinstance(name, str) else None
