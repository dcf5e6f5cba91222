"""Where an SAE comes from: hub repository, commit and sae-lens release, with a digest."""

from pathlib import Path

from interp.saes.sae_folder import sae_digest
from interp.schemas.layers import SaeEntry
from interp.storage.hub import HubPlace, hub_place

RELEASES = "google/gemma-scope-2"
"""Beginning of the repositories whose releases `interp.saes.locate.locate_saes` takes by name."""


def sae_source(layer: int, folder: Path) -> SaeEntry:
    """The entry of an SAE folder in layers.json. Raises InputError as `interp.saes.sae_folder.sae_digest`."""
    place = hub_place(folder)
    return SaeEntry(
        layer=layer,
        folder=folder.resolve().name if place is None else place.inside,
        repository=None if place is None else place.repository,
        revision=None if place is None else place.revision,
        release=None if place is None else _release_of(place),
        digest=sae_digest(folder).hex()[:32],
    )


def _release_of(place: HubPlace) -> str | None:
    """The release by which sae-lens knows an SAE of the hub; None if it knows none."""
    if not place.repository.startswith(RELEASES):
        return None
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    for name, release in get_pretrained_saes_directory().items():
        if release.repo_id == place.repository and place.inside in release.saes_map.values():
            return name
    return None
