"""Gemma Scope 2's suites of residual-stream SAEs, and the preset that takes the best of both.

Every model has two: `res-all` (folder resid_post_all) with an SAE of every layer, without pages on Neuronpedia, and
`res` (folder resid_post) with finer SAEs of four layers, some of which have pages. Both use the same folder names for
different dictionaries.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

ALL_LAYERS, SOME_LAYERS = "resid_post_all", "resid_post"
"""Folders of the two suites in a repository or a local snapshot of it."""
PRESET = re.compile(r"gemma-scope-2(-(270m|1b|4b|12b|27b)-(it|pt))?")
"""Names of the preset: of a model's suites, or of those of Gemma 3 4B."""
PAGED_L0 = "medium"
"""L0 of the SAEs of `res` that Neuronpedia has pages of."""


class SaeName(NamedTuple):
    """What the name of a folder in Gemma Scope 2's layout says, as layer_17_width_16k_l0_medium."""

    layer: int
    """Decoder layer whose output the SAE reads."""
    width: str
    """Number of features, as 16k."""
    l0: str
    """Sparsity: small, medium or big."""

    def __str__(self) -> str:
        return f"{self.width}, L0 {self.l0}"


def parse_name(folder: str) -> SaeName | None:
    """The last part of a path, read as the name of an SAE; None for others and for repeated seeds."""
    match = re.fullmatch(r"layer_(\d+)_width_([^_]+)_l0_([^_]+)", folder.rsplit("/", 1)[-1])
    return SaeName(int(match[1]), match[2], match[3]) if match else None


def preset_model(name: str) -> str | None:
    """The model whose suites a preset names, as gemma-scope-2-4b-it; None if `name` is no preset."""
    match = PRESET.fullmatch(name)
    return None if match is None else f"gemma-scope-2{match[1] or '-4b-it'}"


def paged_width(width: str | None, l0: str | None, default: str) -> str | None:
    """The width that is taken from `res` where it has pages; None if `l0` asks for SAEs that have none."""
    return (width or default) if l0 in (None, PAGED_L0) else None


@lru_cache(maxsize=1)
def releases() -> Mapping[str, Any]:
    """sae-lens's table of releases: name -> release."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return get_pretrained_saes_directory()


def pages_of(release: str) -> dict[str, str]:
    """Path of an SAE in its repository -> Neuronpedia's model and source id, as gemma-3-4b-it/17-gemmascope-2-res-16k.

    `release` is sae-lens's name of a release; any other text gives an empty dictionary.
    """
    # A folder is no release, and importing sae-lens only to learn that takes seconds and runs git.
    known = None if not release or "/" in release or Path(release).is_dir() else releases().get(release)
    if known is None:
        return {}
    return {known.saes_map[name]: page for name, page in known.neuronpedia_id.items() if page}


def paged_saes(model: str, width: str) -> dict[int, str]:
    """Layer -> path of its SAE of this width that has pages, in the suite `res` of a preset's model."""
    return of_kind(pages_of(f"{model}-res"), width, PAGED_L0)


def of_kind(paths: Iterable[str], width: str, l0: str) -> dict[int, str]:
    """Layer -> path, of those paths whose last part names an SAE of this width and L0."""
    named = [(path, found) for path in paths if (found := parse_name(path)) is not None]
    return {found.layer: path for path, found in named if (found.width, found.l0) == (width, l0)}


def release_of(repository: str | None, model_name: str | None, inside: str) -> str | None:
    """The release by which sae-lens knows an SAE: by its repository or else its model, and the path `inside`.

    `model_name` is that of its config.json, as gemma-v3-4b-it. None if sae-lens knows none.
    """
    model = None if model_name is None else "google/" + model_name.removeprefix("google/").replace("-v3", "-3")
    if repository is None and not str(model).startswith("google/gemma-3"):
        return None
    for name, release in releases().items():
        if not name.startswith("gemma-scope-2"):
            continue
        # sae-lens names the pretrained 270m model without its suffix.
        same = release.repo_id == repository if repository else model in (release.model, f"{release.model}-pt")
        if same and inside in release.saes_map.values():
            return name
    return None


def suite_path(folder: Path) -> str:
    """An SAE folder as its repository names it: with the suite's folder, if it lies in one."""
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.parent.name in (ALL_LAYERS, SOME_LAYERS) else folder.name
