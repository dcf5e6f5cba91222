"""Unfinished work on disk, so that a killed run goes on where it was: safetensors with a record, whole or not at all.

A run that will make the folder `out` keeps what it has in `out.partial` beside it, which goes when it is done.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.runtime.errors import InputError
from interp.runtime.progress import notify
from interp.storage.atomic import PARTIAL, atomic_file, sweep
from interp.storage.checksums import named_digest
from interp.storage.lock import held
from interp.storage.manifest import check_manifest, read_manifest
from interp.storage.provenance import software

log = logging.getLogger(__name__)
SCHEMA_VERSION = 2
DIGEST_BYTES = 32


def working_folder(out: Path) -> Path:
    """Where the unfinished work on `out` is."""
    absolute = out.absolute()
    return absolute.with_name(f"{absolute.name}.partial")


@contextmanager
def working(work: Path) -> Iterator[None]:
    """While open, a working folder is this process's; what it holds when something goes wrong is told of.

    Raises InputError if another process holds it.
    """
    with held(work):
        sweep(work)
        try:
            yield
        except BaseException:
            if unfinished(work):
                notify(f"{work} keeps what is done. To go on behind it, give the same command with --resume.")
            raise


def unfinished(work: Path) -> bool:
    """Whether a working folder holds anything to go on from."""
    return work.is_dir() and any(not left.name.startswith(".") for left in work.iterdir())


def refuse_unfinished(out: Path, resume: bool) -> None:
    """Raise InputError if there is unfinished work on `out`, unless it is to be resumed."""
    work = working_folder(out)
    if not resume and unfinished(work):
        raise InputError(
            f"{work}: holds what an interrupted run has done. Add --resume to go on behind it, or remove that folder "
            "to begin anew."
        )


def finished(out: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether `out` is whole and was made of just this, so that nothing is left to resume.

    Raises InputError if it was, but is damaged.
    """
    manifest = read_manifest(out)
    if manifest is None or manifest.inputs != plain(inputs):
        return False
    check_manifest(out)
    return True


def discard(work: Path) -> None:
    """Remove what a working folder holds but for its lock, when the work is done."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith(".") or path.name.startswith(PARTIAL):
            path.unlink()


def plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    return json.loads(json.dumps(inputs))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], inputs: Mapping[str, Any], seconds: float = 0.0) -> None:
    """Write tensors with what they were `inputs` and the `seconds` it took; the file before stays until it is whole.

    Raises InputError if there is no room.
    """
    from safetensors.torch import save

    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    record = {"schema_version": SCHEMA_VERSION, "inputs": inputs, "seconds": seconds, "software": software()}
    record["digest"] = named_digest(dict(sorted(held.items())), DIGEST_BYTES)
    with atomic_file(path) as partial:
        partial.write_bytes(save(held, {"record": json.dumps(record)}))
    log.info("%s: kept, %.1f MB", path.name, sum(tensor.nbytes for tensor in held.values()) / 1e6)


def read_tensors(path: Path, inputs: Mapping[str, Any]) -> tuple[dict[str, Tensor], float]:
    """What `write_tensors` wrote, and its seconds.

    Other versions of the software are told of. Raises InputError for a damaged file, and for one made of anything else,
    which is named.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as saved:
            record = json.loads(saved.metadata()["record"])
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        version, begun, seconds, digest = (record[k] for k in ("schema_version", "inputs", "seconds", "digest"))
        if version == SCHEMA_VERSION and digest != named_digest(dict(sorted(tensors.items())), DIGEST_BYTES):
            raise ValueError("its content is not what was written")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: damaged ({reason}). Remove {path.parent} to begin anew, without --resume.") from None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema version {version}, but this GateScope reads {SCHEMA_VERSION}. Go on with the one that "
            f"began it, or remove {path.parent} to begin anew."
        )
    check_begun(path, begun, inputs)
    log.info("%s: taken up again", path.name)
    if record["software"] != software():
        _tell_versions(json.dumps(record["software"]))
    return tensors, seconds


def check_begun(path: Path, begun: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Raise InputError, naming the first difference, if what is at `path` was begun with anything else."""
    now = plain(inputs)
    for name in dict.fromkeys((*now, *begun)):
        then, wanted = begun.get(name), now.get(name)
        if then != wanted:
            raise InputError(
                f"{path}: was begun with {name.replace('_', ' ')} {then!r}, but now it is {wanted!r}. Resume with what "
                f"it was begun with, or remove {path.parent} to begin anew."
            )


@cache
def _tell_versions(begun: str) -> None:
    """Once, however many files were written by them."""
    now = software()
    others = [
        f"{name} {then} (now {now.get(name)})" for name, then in json.loads(begun).items() if now.get(name) != then
    ]
    notify(f"Going on with what was begun by {', '.join(others)}: the result may differ in its last digits.")
