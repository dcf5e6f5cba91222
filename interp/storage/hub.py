"""Finding the files of a model in a local folder or in the cache of the Hugging Face hub."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from interp.runtime.errors import InputError, first_line
from interp.storage.folders import did_you_mean, nearest_folder
from interp.storage.hub_access import is_cached
from interp.storage.json_files import read_object

LONGEST_NAME = 200
"""Most characters in a file name; operating systems refuse much longer ones."""
CONFIG = "config.json"
"""The file with a model's kind and shape."""
HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)((?:/[\w.-]+)*)", re.ASCII)
"""owner/name of a hub repository, and a folder in it."""
HUB = "https://huggingface.co"
"""Address of the hub."""
_PAGE = re.compile(rf"^{re.escape(HUB).replace('//', '//?')}/([^/]+/[^/]+)(/tree/main(?=/|$))?")
"""The address of a page of a repository, in which a Path has kept one of two slashes."""
MODEL_ID = "a hub id such as google/medgemma-4b-it"
"""How errors call the name of a model on the hub."""
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
"""Patterns of the files of a hub repository that a model needs."""


class Source(NamedTuple):
    """A model folder on this machine."""

    folder: Path
    """Folder with config.json, the weights and the processor."""
    name: str
    """Hub id owner/name, or the folder name of a local model."""
    revision: str | None
    """Commit of the hub repository; None for a local folder."""


class HubId(NamedTuple):
    """A repository of the hub, or a folder in one."""

    repository: str
    """owner/name."""
    inside: str
    """Path inside the repository; empty for all of it."""


def without_address(given: str | Path) -> str:
    """`given` without what is pasted with a hub id: the address of a page of the main branch, and slashes after it."""
    return _PAGE.sub(r"\1", str(given)).rstrip("/")


def hub_id(given: str | Path, expected: str, inside: bool = False) -> HubId:
    """What `given`, which is no folder, names on the hub: a repository or, with `inside`, perhaps a folder in one.

    The address of the repository's page names it too. Raises InputError if it is no such name (`expected` says what
    would be), or is more likely a mistyped path, of which the hub would only say that it has no such repository: its
    first folder is here, or a folder here is called nearly the same. What the hub's cache has is no mistake.
    """
    path, named = Path(given), HUB_ID.fullmatch(without_address(given))
    if path.exists():
        raise InputError(f"{given}: is a file, expected a folder or {expected}.")
    meant = nearest_folder(path)
    said = did_you_mean(meant)
    if named is None or (named[2] and not inside):
        raise InputError(f"{given}: no such folder, and not {expected}.{said}")
    found = HubId(named[1], named[2].strip("/"))
    if (meant or os.path.isdir(path.parts[0])) and not is_cached(found.repository):
        here = "a folder here is called nearly the same" if meant else f"there is a folder {path.parts[0]} here"
        raise InputError(
            f"{given}: no such folder.{said} It is not looked up on the hub, because {here}. If a repository is meant, "
            f"run `hf download {found.repository}` first."
        )
    return found


def locate(model: str | Path, revision: str | None = None) -> Source:
    """Find the folder of `model`, a Gemma 3 model with images in a local folder or on the hub.

    Raises InputError as `locate_any`, and if files are missing or those of another kind of model.
    """
    source = locate_any(model, revision)
    _check_whole(source)
    return source


def locate_config(model: str | Path, fetch: bool) -> Source | None:
    """Find a folder with the config.json of `model`, for its shape: no weight is asked for, and none needs to be there.

    If the hub's cache lacks config.json, that file alone is downloaded with `fetch`, and without it the result is None.
    Raises InputError as `locate` for a folder, and as `locate_any` for a hub repository.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if (source := _in_folder(model)) is not None:
        _check_whole(source)
        return source
    repo = hub_id(model, MODEL_ID).repository
    try:
        cached = try_to_load_from_cache(repo, CONFIG)
    except HFValidationError as error:
        raise InputError(f"{model}: no such folder, and not a hub id ({first_line(error)}).") from None
    if isinstance(cached, str):
        folder = Path(cached).parent
    elif fetch:
        folder = download(repo, None, [CONFIG], command=f"hf download {repo} {CONFIG}")
    else:
        return None
    source = Source(folder, repo, folder.name)
    _check_kind(source)
    return source


def locate_any(model: str | Path, revision: str | None = None) -> Source:
    """Find the folder of `model`, of any kind, and download it from the hub if its cache lacks it.

    HF_HUB_OFFLINE=1 forbids the download. Raises InputError if `model` is neither a folder nor a hub repository that
    can be reached, or if its terms are not accepted.
    """
    if (source := _in_folder(model)) is not None:
        return source
    repo = hub_id(model, MODEL_ID).repository
    folder = download(repo, revision, MODEL_FILES)
    return Source(folder, repo, folder.name)


def _in_folder(model: str | Path) -> Source | None:
    """The model in a local folder; None if it is not one."""
    path = Path(model)
    return Source(path, path.resolve().name, None) if path.is_dir() else None


def download(
    repo: str, revision: str | None, patterns: list[str], kind: str = "model", command: str | None = None
) -> Path:
    """The cached snapshot of a hub repository, after downloading the files that match `patterns` and are missing.

    `kind` is model or dataset. `command` is what an error tells to run where there is a network, by default the
    download of the whole repository. Raises InputError if the repository cannot be reached, does not exist, or has
    terms that are not accepted.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    data = kind == "dataset"
    page = f"{HUB}/{'datasets/' if data else ''}{repo}"
    command = command or f"hf download {repo}{' --repo-type dataset' if data else ''}"
    try:
        # Some versions of huggingface_hub list a commit's files over the network even offline, unless told again.
        offline = constants.HF_HUB_OFFLINE
        return Path(
            snapshot_download(
                repo, repo_type=kind, revision=revision, allow_patterns=patterns, local_files_only=offline
            )
        )
    except GatedRepoError:
        raise InputError(
            f"{repo}: you must accept its terms first. Open {page}, accept the terms, and log in with `hf auth login`."
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{repo}: no revision {revision!r}. See {page}/commits/main.") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{repo}: the repository does not exist or is private. Check the name, or log in with `hf auth login`."
        ) from None
    except LocalEntryNotFoundError:
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"{repo}: not in the local cache{at}, and the hub cannot be reached. Run `{command}` where there is a "
            "network, or give a local folder."
        ) from None
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise InputError(f"{repo}: could not be downloaded ({first_line(error)}). See {page}.") from None


class HubPlace(NamedTuple):
    """Where in the hub a file or folder of its cache comes from."""

    repository: str
    """Hub id of the repository."""
    revision: str
    """Commit."""
    inside: str
    """Path inside the repository."""


def hub_place(path: Path) -> HubPlace | None:
    """Where in the hub a path of its cache comes from, by the cache's layout; None for any other path."""
    parts = path.absolute().parts
    for place in range(len(parts) - 3, 0, -1):
        if parts[place] == "snapshots" and parts[place - 1].startswith("models--"):
            repository = parts[place - 1].removeprefix("models--").replace("--", "/", 1)
            return HubPlace(repository, parts[place + 1], "/".join(parts[place + 2 :]))
    return None


def _check_whole(source: Source) -> None:
    """Raise InputError unless the folder has config, weights and processor of a Gemma 3 model."""
    again = (
        f"Finish the download with `hf download {source.name}`."
        if source.revision
        else "Give --model a folder to which save_pretrained wrote both model and processor."
    )
    index = source.folder / "model.safetensors.index.json"
    needed = [CONFIG, "tokenizer_config.json"]
    needed += ["model.safetensors"] if not index.is_file() else _parts(index)
    missing = [name for name in needed if not (source.folder / name).is_file()]
    if not any((source.folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        missing.append("processor_config.json")
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"{source.folder}: no {', '.join(missing[:3])}{more}. {again}")
    _check_kind(source)


def _check_kind(source: Source) -> None:
    """Raise InputError unless config.json is that of a Gemma 3 model with images."""
    kind = read_object(source.folder / CONFIG).get("model_type")
    if kind != "gemma3":
        raise InputError(f"{source.folder}: found a model of type {kind!r}, expected 'gemma3' with images.")


def _parts(index: Path) -> list[str]:
    """The names of the files of sharded weights. Names with folders are refused, so that no file lies elsewhere."""
    weight_map = read_object(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(
        isinstance(name, str) and Path(name).name == name and len(name) <= LONGEST_NAME for name in names
    ):
        raise InputError(f"{index}: expected 'weight_map', a map from weights to files in the same folder.")
    return sorted(set(names))
