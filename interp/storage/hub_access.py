"""Which repositories of the hub are there or may be downloaded, without downloading anything."""

from pathlib import Path
from typing import Literal, NamedTuple

Access = Literal["open", "closed", "unreachable", "not asked"]
"""Whether a login may download a repository."""


class Wanted(NamedTuple):
    """A repository that the published study needs."""

    id: str
    """owner/name."""
    kind: Literal["model", "dataset"]
    """Kind of the repository."""
    purpose: str
    """What it is for."""
    size_gb: float | None
    """Size of what is downloaded of it [10^9 bytes]; None where it is small."""


WANTED = (
    Wanted("google/medgemma-4b-it", "model", "model", 8.6),
    Wanted("google/gemma-scope-2-4b-it", "model", "SAEs of 34 layers, 16k features", 11.4),
    Wanted("saillab/psf-med", "dataset", "questions", None),
)
"""What `--model google/medgemma-4b-it --saes gemma-scope-2` and `interp import-questions psf-med` download."""


def cache_folder() -> Path:
    """The folder in which the hub's files are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def has_login() -> bool:
    """Whether there is a token, in the environment or from `hf auth login`; its validity is not asked."""
    from huggingface_hub import get_token

    return get_token() is not None


def is_cached(repo: str, kind: Literal["model", "dataset"] = "model") -> bool:
    """Whether the cache has a snapshot of the repository `repo`; of SAEs perhaps not of all layers."""
    folder = cache_folder() / f"{kind}s--{repo.replace('/', '--')}" / "snapshots"
    return folder.is_dir() and any(folder.iterdir())


def access(wanted: Wanted) -> Access:
    """Whether this login may download a repository; this asks the hub."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().auth_check(wanted.id, repo_type=wanted.kind)
    except (GatedRepoError, RepositoryNotFoundError):
        return "closed"
    # Without a network, the hub's library raises errors of the HTTP library that it was built with, which has changed.
    except Exception:
        return "unreachable"
    return "open"
