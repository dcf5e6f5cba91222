"""Finding the SAE of every layer in a local folder, a sae-lens release or a hub repository."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.runtime.errors import InputError
from interp.saes.sae_lens_config import read_lens_config
from interp.saes.suites import (
    ALL_LAYERS,
    PAGED_L0,
    SOME_LAYERS,
    of_kind,
    paged_saes,
    paged_width,
    parse_name,
    preset_model,
    releases,
)
from interp.schemas.layer_list import layers_text
from interp.storage.hub import download, hub_id

SUBFOLDERS = ("", ALL_LAYERS, SOME_LAYERS)
"""Subfolders of a local folder in which the SAE folders are looked for, in this order."""
SAE_FILES = ("params.safetensors", "config.json", "sae_weights.safetensors", "cfg.json")
"""The files of an SAE folder that are read. Gemma Scope 2's folders hold 0.8 GB of examples too."""
EXPECTED = (
    f"the preset gemma-scope-2, a sae-lens release, or a hub repository such as google/gemma-scope-2-4b-it:{ALL_LAYERS}"
)
"""What names SAEs beside a folder."""
HUB_WIDTH, HUB_L0 = "16k", "small"
"""Width and L0 that are taken from a hub repository or release by default; every Gemma Scope 2 model has them."""


def locate_saes(
    source: str | Path, width: str | None = None, l0: str | None = None, layers: Collection[int] | None = None
) -> dict[int, Path]:
    """Find the SAE folder of every layer that `source` covers: layer -> folder.

        >>> saes = interp.locate_saes(interp.WORLD / "saes")  # or interp.locate_saes("gemma-scope-2", layers=[17])
        >>> saes[6].name
        'layer_6_width_512_l0_small'

    `source` is a local folder of SAE folders (Gemma Scope 2's or sae-lens's), a sae-lens release such as
    `gemma-scope-2-4b-it-res-all`, a hub repository and a folder in it, such as
    `google/gemma-scope-2-4b-it:resid_post`, or the preset `gemma-scope-2` (for Gemma 3 4B; others as
    `gemma-scope-2-12b-it`), which takes every layer from the suite `res-all` and, where Neuronpedia has pages, from
    `res`. A local folder that holds both suites is read in the same way. `width` (16k, 65k, 262k, 1m) and `l0` (small,
    medium, big) choose among several SAEs of a layer. From the hub only the SAEs of `layers` are downloaded, by default
    all. Raises InputError if there is no SAE, if a layer has several, and if they cannot be downloaded.
    """
    path = Path(source)
    if path.is_dir():
        return _in_folder(path, width, l0)
    if (model := preset_model(str(source))) is not None:
        return _preset(model, width, l0, layers)
    if (repo_and_paths := _release(str(source))) is not None:
        repo, paths = repo_and_paths
        chosen = _one_a_layer(str(source), paths, width or HUB_WIDTH, l0 or HUB_L0)
        return _downloaded(repo, {layer: name for layer, name in chosen.items() if layers is None or layer in layers})
    match = re.fullmatch(r"(.+):(\w[\w./-]*)", str(source))
    named, inside = match.groups() if match else (str(source), ALL_LAYERS)
    repo, inside = hub_id(named, EXPECTED).repository, inside.strip("/")
    kind = f"width_{width or HUB_WIDTH}_l0_{l0 or HUB_L0}"
    places = ["*"] if layers is None else [str(layer) for layer in layers]
    root = _download(repo, [f"{inside}/layer_{place}_{kind}" for place in places])
    names = [p.relative_to(root).as_posix() for p in sorted((root / inside).glob("layer_*")) if p.is_dir()]
    chosen = _one_a_layer(str(source), names, width or HUB_WIDTH, l0 or HUB_L0)
    return {layer: root / name for layer, name in chosen.items()}


def _preset(model: str, width: str | None, l0: str | None, layers: Collection[int] | None) -> dict[int, Path]:
    """Every layer from the suite `res-all` and, where Neuronpedia has pages of the width, from `res`."""
    if (known := _release(f"{model}-res-all")) is None:
        raise InputError(f"{model}: sae-lens has no such release.")
    repo, paths = known
    chosen = _one_a_layer(f"{model}-res-all", paths, width or HUB_WIDTH, l0 if l0 in ("small", "big") else HUB_L0)
    if (paged := paged_width(width, l0, HUB_WIDTH)) is not None:
        chosen |= paged_saes(model, paged)
    return _downloaded(
        repo, {layer: name for layer, name in sorted(chosen.items()) if layers is None or layer in layers}
    )


def _downloaded(repo: str, chosen: Mapping[int, str]) -> dict[int, Path]:
    """Layer -> folder in the hub's cache, of SAEs whose paths in the repository are known."""
    root = _download(repo, list(chosen.values()))
    missing = [name for name in chosen.values() if not (root / name).is_dir()]
    if missing:
        files = " ".join(f"{missing[0]}/{file}" for file in SAE_FILES[:2])
        raise InputError(
            f"{repo}: {missing[0]} is not in the local cache, and {len(missing) - 1} others. Download the two files of "
            f"each: `hf download {repo} {files}`."
        )
    return {layer: root / name for layer, name in chosen.items()}


def _download(repo: str, folders: Sequence[str]) -> Path:
    """The cached snapshot of a repository, after downloading the files that are read of some SAE folders."""
    names = " ".join(f"--include '{pattern}/*'" for pattern in _patterns(folders))
    how = f"hf download {repo} {names} --exclude '*/examples.safetensors'"
    return download(repo, None, [f"{folder}/{file}" for folder in folders for file in SAE_FILES], command=how)


def _patterns(folders: Iterable[str]) -> list[str]:
    """Few patterns that match these folders and no other: layer_1[34]_width_16k for layers 13 and 14."""
    # Folders whose layers differ in the last digit alone share a pattern.
    last_digits: dict[tuple[str, str], str] = {}
    for folder in folders:
        match = re.fullmatch(r"(.*layer_\d*)(\d)(_.*)", folder)
        start, digit, end = match.groups() if match else (folder, "", "")
        last_digits[start, end] = last_digits.get((start, end), "") + digit
    return [f"{start}{f'[{digits}]' if digits[1:] else digits}{end}" for (start, end), digits in last_digits.items()]


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
    scoped = {place: names for place in SUBFOLDERS if (names := _scoped(root / place))}
    if ALL_LAYERS in scoped and SOME_LAYERS in scoped:
        return {layer: root / name for layer, name in _of_both(root, scoped, width, l0).items()}
    for place in SUBFOLDERS:
        if place in scoped:
            chosen = _one_a_layer(str(root / place), scoped[place], width, l0)
            return {layer: root / place / name for layer, name in chosen.items()}
        by_lens = [p for p in sorted((root / place).glob("*")) if p.is_dir() and (p / "cfg.json").is_file()]
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


def _scoped(place: Path) -> list[str]:
    """The names of the folders in Gemma Scope 2's layout in a folder."""
    return [p.name for p in sorted(place.glob("*")) if p.is_dir() and re.match(r"layer_\d+_", p.name)]


def _of_both(root: Path, scoped: Mapping[str, Sequence[str]], width: str | None, l0: str | None) -> dict[int, str]:
    """Layer -> path in a snapshot with both suites, chosen as by the preset; widths and L0 as there."""
    kinds = {(named.width, named.l0) for name in scoped[ALL_LAYERS] if (named := parse_name(name)) is not None}
    # A snapshot of other SAEs than Google's may have a single width of another name.
    default = kinds.pop() if len(kinds) == 1 else (HUB_WIDTH, HUB_L0)
    kind = width or default[0], l0 if l0 in ("small", "big") else default[1]
    chosen = _one_a_layer(str(root / ALL_LAYERS), scoped[ALL_LAYERS], *kind)
    found = {layer: f"{ALL_LAYERS}/{name}" for layer, name in chosen.items()}
    if (paged := paged_width(width, l0, default[0])) is not None:
        found |= {
            layer: f"{SOME_LAYERS}/{name}" for layer, name in of_kind(scoped[SOME_LAYERS], paged, PAGED_L0).items()
        }
    return dict(sorted(found.items()))


def _one_folder(folder: Path) -> dict[int, Path]:
    """A folder that is itself an SAE; its layer is in its name or in its sae-lens configuration."""
    match = re.match(r"layer_(\d+)", folder.resolve().name)
    return {int(match.group(1)) if match else read_lens_config(folder).layer: folder}


def _one_a_layer(source: str, names: Iterable[str], width: str | None, l0: str | None) -> dict[int, str]:
    """Choose one SAE per layer from `names`, whose last parts read like layer_17_width_16k_l0_medium."""
    found: dict[int, str] = {}
    seen = set()
    for name in names:
        named = parse_name(name)
        if named is None:
            continue
        seen.add(f"{named.width}/{named.l0}")
        if (width and named.width != width) or (l0 and named.l0 != l0):
            continue
        if named.layer in found:
            raise InputError(
                f"{source}: layer {named.layer} has two SAEs, {found[named.layer]} and {name}. Choose with --sae-width "
                "and --l0."
            )
        found[named.layer] = name
    if not found:
        raise InputError(
            f"{source}: no SAE of width {width or 'any'} and l0 {l0 or 'any'}; found width/l0 "
            f"{', '.join(sorted(seen)) or 'none'}. {_remedy(source, width, l0, seen)}"
        )
    return found


def _remedy(source: str, width: str | None, l0: str | None, seen: Collection[str]) -> str:
    """What to do if there is no SAE of a width and L0: something else than what was asked for."""
    sister = source.removesuffix("-all") if source.endswith("-res-all") else f"{source}-all"
    if (release := releases().get(sister) if source.startswith("gemma-scope-2") else None) is not None:
        layers = sorted(of_kind(release.saes_map.values(), width or HUB_WIDTH, l0 or HUB_L0))
        if layers:
            return f"{sister} has it, at layers {layers_text(layers)}."
    return f"Give --sae-width and --l0 one of these pairs, as {sorted(seen)[0]}." if seen else "Give another --saes."


def _release(name: str) -> tuple[str, list[str]] | None:
    """Hub repository and SAE paths of a sae-lens release; None if `name` cannot be one."""
    if "/" in name or not name.startswith("gemma-scope-2"):
        return None
    known = releases()
    if name not in known:
        close = [key for key in known if key.startswith("gemma-scope-2") and "-res" in key]
        raise InputError(
            f"{name}: sae-lens has no such release. It has {', '.join(close)}. The preset gemma-scope-2 takes the best "
            "of both suites of Gemma 3 4B."
        )
    return known[name].repo_id, list(known[name].saes_map.values())
