"""The working folder: where a run that will make the folder `out` keeps its checkpoint until `out` is complete.

It is called `out.partial`, lies beside `out`, and is removed when the run is done.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.runtime.errors import InputError
from interp.runtime.progress import notify
from interp.storage.atomic import PARTIAL, sweep
from interp.storage.checkpoint import UnusableError, as_json
from interp.storage.lock import held
from interp.storage.manifest import check_manifest, read_manifest
from interp.storage.provenance import measurement


def working_folder(out: Path) -> Path:
    """Path of the working folder of `out`."""
    absolute = out.absolute()
    return absolute.with_name(f"{absolute.name}.partial")


@contextmanager
def working(work: Path) -> Iterator[None]:
    """Hold a working folder, and say after an error or interruption that it keeps the work done so far.

    Nothing is said of work that this run cannot use. Raises InputError if another process holds it.
    """
    with held(work), measurement():
        sweep(work)
        try:
            yield
        except UnusableError:
            raise
        except BaseException:
            if unfinished(work):
                notify(f"{work} keeps the work done so far. To continue, give the same command with --resume.")
            raise


def unfinished(work: Path) -> bool:
    """Whether a working folder holds anything to resume from."""
    return work.is_dir() and any(not left.name.startswith(".") for left in work.iterdir())


def refuse_unfinished(out: Path, resume: bool) -> None:
    """Raise InputError if there is unfinished work on `out`, unless it is to be resumed."""
    work = working_folder(out)
    if not resume and unfinished(work):
        raise InputError(
            f"{work}: holds the work of an interrupted run. Add --resume to continue it, or remove that folder to "
            "start over."
        )


def finished(out: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether `out` is complete and was made from exactly these inputs, so that nothing is left to do.

    Raises InputError if it was, but is damaged.
    """
    manifest = read_manifest(out)
    if manifest is None or manifest.inputs != as_json(inputs):
        return False
    check_manifest(out)
    return True


def discard(work: Path) -> None:
    """Remove everything but the lock from a working folder once the work is done."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith(".") or path.name.startswith(PARTIAL):
            path.unlink()
