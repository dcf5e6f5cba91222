"""The nearest feature that Neuronpedia has a page of, for features of SAEs without pages."""

from pathlib import Path

from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import Sae, load_sae
from interp.saes.similar_page import most_similar_page
from interp.saes.suites import ALL_LAYERS, PAGED_L0, SOME_LAYERS, pages_of, suite_path
from interp.schemas.layers import SaeEntry
from interp.schemas.neuronpedia import NearestPage

WIDTH = "16k"
"""Width of the SAEs whose pages are searched: the smallest, so that 0.3 GB are read."""


def nearest_page(sae: Sae, feature: int, source: SaeEntry, folder: Path) -> NearestPage | None:
    """The feature with a page whose decoder row has the largest cosine with that of a feature without one.

    It is looked for in the SAE with pages of the nearest layer, in the suite `res` beside the suite `res-all` that
    `source` names: in the local snapshot around `folder`, or on the hub. None if the SAE is not of Gemma Scope 2, if
    its model has no pages, or if the other SAE cannot be had.
    """
    release = (source.release or "").removesuffix("-all")
    pages = {_layer(path): (path, page) for path, page in pages_of(release).items() if _is_paged(path)}
    if not pages:
        return None
    layer = min(pages, key=lambda each: (abs(each - sae.layer), -each))
    path, page = pages[layer]
    try:
        other = load_sae(_beside(folder, path, release, layer), layer, len(sae.b_dec), sae.w_dec.device)
    except InputError:
        return None
    return most_similar_page(sae, feature, other, page, path)


def _is_paged(path: str) -> bool:
    return path.endswith(f"_width_{WIDTH}_l0_{PAGED_L0}")


def _layer(path: str) -> int:
    return int(path.rsplit("/", 1)[-1].split("_")[1])


def _beside(folder: Path, path: str, release: str, layer: int) -> Path:
    """The folder of an SAE of the suite `res`: in the snapshot that `folder` is in, or from the hub."""
    if suite_path(folder).partition("/")[0] in (ALL_LAYERS, SOME_LAYERS):
        local = folder.resolve().parent.parent / path
        if local.is_dir():
            return local

    return locate_saes(release, WIDTH, PAGED_L0, [layer])[layer]
