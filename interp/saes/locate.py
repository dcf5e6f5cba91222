"""Finding the SAE of every layer in a local folder, a sae-lens release or a hub repository."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from interp.runtime.errors import InputError
from interp.saes.sae_lens_config import read_lens_config
from interp.storage.hub import download

SUBFOLDERS = ("", "resid_post_all", "resid_post")
"""Subfolders of a local folder in which the SAE folders are looked for, in this order."""
SAE_FILES = ("params.safetensors", "config.json", "sae_weights.safetensors", "cfg.json")
"""The files of an SAE folder that are read. Gemma Scope 2's folders hold 0.8 GB of examples too."""
HUB_WIDTH, HUB_L0 = "16k", "small"
"""Width and L0 that are taken from a hub repository or release by default; every Gemma Scope 2 model has them."""


def locate_saes(
    source: str | Path, width: str | None = None, l0: str | None = None, layers: Collection[int] | None = None
) -> dict[int, Path]:
    """Find the SAE folder of every layer that `source` covers: layer -> folder.

    `source` is a local folder of SAE folders (Gemma Scope 2's or sae-lens's), a sae-lens release such as
    `gemma-scope-2-4b-it-res-all`, or a hub repository and a folder in it, such as
    `google/gemma-scope-2-4b-it:resid_post`. `width` (16k, 65k, 262k, 1m) and `l0` (small, medium, big) choose among
    several SAEs of a layer. From the hub only the SAEs of `layers` are downloaded, by default all. Raises InputError if
    there is no SAE, if a layer has several, and if they cannot be downloaded.
    """
    path = Path(source)
    if path.is_dir():
        return _in_folder(path, width, l0)
    if (repo_and_paths := _release(str(source))) is not None:
        repo, paths = repo_and_paths
        chosen = _one_a_layer(str(source), paths, width or HUB_WIDTH, l0 or HUB_L0)
        chosen = {layer: name for layer, name in chosen.items() if layers is None or layer in layers}
        root = download(repo, None, [f"{name}/{file}" for name in chosen.values() for file in SAE_FILES])
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", str(source)) and not str(source).startswith("."):
        repo, _, inside = str(source).partition(":")
        inside = inside.strip("/") or "resid_post_all"
        kind = f"width_{width or HUB_WIDTH}_l0_{l0 or HUB_L0}"
        places = ["*"] if layers is None else [str(layer) for layer in layers]
        folders = [f"{inside}/layer_{place}_{kind}" for place in places]
        root = download(repo, None, [f"{folder}/{file}" for folder in folders for file in SAE_FILES])
        names = [p.relative_to(root).as_posix() for p in sorted((root / inside).glob("layer_*")) if p.is_dir()]
        chosen = _one_a_layer(str(source), names, width or HUB_WIDTH, l0 or HUB_L0)
    else:
        raise InputError(
            f"{source}: no such folder, and neither a sae-lens release nor a hub repository such as "
            "google/gemma-scope-2-4b-it:resid_post_all."
        )
    missing = [name for name in chosen.values() if not (root / name).is_dir()]
    if missing:
        raise InputError(f"{source}: {missing[0]} is not in the local cache. Download it with `hf download {repo}`.")
    return {layer: root / name for layer, name in chosen.items()}


def given_saes(saes: Any, layers: Collection[int] | None = None) -> dict[int, Path]:
    """The parameter `saes` of a function: layer -> SAE folder, as it is or as `locate_saes` finds it in a source.

    Raises InputError for anything else, and as `locate_saes` does.
    """
    if isinstance(saes, str | Path):
        return locate_saes(saes, layers=layers)
    if not isinstance(saes, Mapping):
        raise InputError(
            f"saes is of type {type(saes).__name__}, expected a folder, a sae-lens release, a hub repository, or what "
            "locate_saes() returns."
        )
    for layer, folder in saes.items():
        if not isinstance(layer, int) or not isinstance(folder, str | Path):
            found = f"{type(layer).__name__} -> {type(folder).__name__}"
            raise InputError(f"saes holds {found}, expected layer -> folder of its SAE, as locate_saes() returns.")
    return {layer: Path(folder) for layer, folder in saes.items()}


def sae_of_layer(sae_of: Mapping[int, Path], layer: int, source: str) -> Path:
    """The SAE folder of one layer. Raises InputError, naming `source` and the layers that have one, if it is absent."""
    if layer not in sae_of:
        known = ", ".join(map(str, sorted(sae_of))) or "none"
        raise InputError(f"{source}: found SAEs of the layers {known}, expected one of layer {layer}.")
    return sae_of[layer]


def _in_folder(root: Path, width: str | None, l0: str | None) -> dict[int, Path]:
    if any((root / name).is_file() for name in ("cfg.json", "params.safetensors", "sae_weights.safetensors")):
        return _one_folder(root)
    for place in SUBFOLDERS:
        folders = [p for p in sorted((root / place).glob("*")) if p.is_dir()]
        scoped = [p.name for p in folders if re.match(r"layer_\d+_", p.name)]
        if scoped:
            chosen = _one_a_layer(str(root / place), scoped, width, l0)
            return {layer: root / place / name for layer, name in chosen.items()}
        by_lens = [p for p in folders if (p / "cfg.json").is_file()]
        if by_lens:
            found: dict[int, Path] = {}
            for folder in by_lens:
                for layer, path in _one_folder(folder).items():
                    if layer in found:
                        raise InputError(f"{root}: layer {layer} has two SAEs, {found[layer].name} and {path.name}.")
                    found[layer] = path
            return found
    raise InputError(
        f"{root}: holds no layer_*_width_* folders. Give --saes a folder in Gemma Scope 2's or sae-lens's layout."
    )


def _one_folder(folder: Path) -> dict[int, Path]:
    """A folder that is itself an SAE; its layer is in its name or in its sae-lens configuration."""
    match = re.match(r"layer_(\d+)", folder.resolve().name)
    return {int(match.group(1)) if match else read_lens_config(folder).layer: folder}


def _one_a_layer(source: str, names: Iterable[str], width: str | None, l0: str | None) -> dict[int, str]:
    """Choose one SAE per layer from `names`, whose last parts read like layer_17_width_16k_l0_medium."""
    found: dict[int, str] = {}
    seen = set()
    for name in names:
        match = re.match(r"layer_(\d+)_width_([^_]+)_l0_([^_]+)(.*)", name.rsplit("/", 1)[-1])
        if not match:
            continue
        layer, this_width, this_l0, rest = int(match[1]), match[2], match[3], match[4]
        seen.add(f"{this_width}/{this_l0}")
        if (width and this_width != width) or (l0 and this_l0 != l0) or rest:
            continue
        if layer in found:
            raise InputError(
                f"{source}: layer {layer} has two SAEs, {found[layer]} and {name}. Choose with --sae-width and --l0."
            )
        found[layer] = name
    if not found:
        raise InputError(
            f"{source}: no SAE of width {width or 'any'} and l0 {l0 or 'any'}; found width/l0 "
            f"{', '.join(sorted(seen)) or 'none'}. Choose with --sae-width and --l0."
        )
    return found


def _release(name: str) -> tuple[str, list[str]] | None:
    """Hub repository and SAE paths of a sae-lens release; None if `name` cannot be one."""
    if "/" in name or not name.startswith("gemma-scope-2"):
        return None
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    if name not in known:
        close = [key for key in known if key.startswith("gemma-scope-2") and "-res" in key]
        raise InputError(f"{name}: sae-lens has no such release. It has {', '.join(close)}.")
    return known[name].repo_id, list(known[name].saes_map.values())
