"""A run on disk: layers.json, the features as parquet and CSV, and the figures.

A search keeps what it has done in a working folder (`interp.storage.working_folder`), so that one that was killed
goes on.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint
from interp.runtime.distributed import is_main, team_on
from interp.runtime.errors import InputError
from interp.runtime.progress import notify
from interp.saes.sae import sae_digest
from interp.schemas.layers import write_layers
from interp.search.find import FindResult, FindSettings, find_features
from interp.storage.atomic import PARTIAL, atomic_folder, flush
from interp.storage.checkpoint import Checkpoint
from interp.storage.checksums import inputs_digests, joined_digest, weights_fingerprint
from interp.storage.disk_full import disk_full_errors
from interp.storage.manifest import MANIFEST, read_manifest, write_manifest
from interp.storage.working_folder import check_begun, discard, finished, refuse_unfinished, working, working_folder
from interp.views.figures.search import search_drawings
from interp.views.figures.style import save_figures

LAYERS = "layers.json"
FILES = (LAYERS, "features.parquet", "features.csv")
WHOLE = "whole"
"""Folder of a run that is done but not yet where it belongs, in its working folder."""


class Search(NamedTuple):
    """What is searched, and how: the arguments of `interp.search.find.find_features`."""

    vlm: Vlm
    """The model."""
    saes: Mapping[int, Path]
    """Layer -> SAE folder."""
    questions: Sequence[Question]
    """Of the split."""
    layers: Sequence[int]
    """To be profiled."""
    settings: FindSettings
    """All else that is recorded."""
    split: str
    """Name of the split."""
    batch_tokens: int
    """In a forward pass."""
    max_memory: float | None
    """[GiB]."""


def find_into(out: Path, load: Callable[[], Search], resume: bool = False) -> FindResult | None:
    """`find_features` of what `load` gives, written into the folder `out` (`save_result`).

    After an interruption a folder beside `out` (`interp.storage.working_folder.working_folder`) holds what was done,
    and `resume`
    goes on behind it, with as many processes as before; it returns None if nothing is left to do. Raises InputError as
    `find_features`, if `out` holds a run, if another process makes it, and if what was done was of another search.
    """
    if not resume:
        refuse_run(out)
    refuse_unfinished(out, resume)
    work = working_folder(out)
    with working(work) if is_main() else nullcontext():
        search = load()
        team = team_on(search.vlm.device)
        inputs = _inputs_of(search, team.size)
        result = None
        if not team.gather_values(resume and team.rank == 0 and _is_whole(out, work, inputs))[0]:
            refuse_run(out)
            result = find_features(*search, checkpoint=Checkpoint(work, inputs))
            if team.rank == 0:
                write_run(result, work / WHOLE, inputs)
                _publish(work / WHOLE, out)
                discard(work)
    # The launcher stops all processes when one of them ends with an exit code.
    team.shut_down()
    return result


def _inputs_of(search: Search, processes: int) -> dict[str, Any]:
    """What must be the same for what was done to be of use, and for a finished run to be this one."""
    vlm, settings = search.vlm, search.settings
    return settings.__dict__ | {
        "sae_dtype": str(settings.sae_dtype).removeprefix("torch."),
        "layers": list(search.layers),
        "saes": saes_digest([search.saes[layer] for layer in sorted(search.layers)]),
        "questions": fingerprint(search.questions),
        "split": search.split,
        "weights": weights_fingerprint(vlm.model),
        "prompt": vlm.style._asdict(),
        "arithmetic": vlm.arithmetic,
        "device": vlm.device.type,
        "batch_tokens": search.batch_tokens,
        "processes": processes,
        **inputs_digests(vlm.processor, [question.image for question in search.questions]),
    }


def saes_digest(folders: Sequence[Path]) -> str:
    """A hash of some SAEs, hexadecimal (`interp.saes.sae.sae_digest`)."""
    return joined_digest(map(sae_digest, folders)).hex()[:32]


def _is_whole(out: Path, work: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a run is done, which is put where it belongs if it is not there yet. Raises InputError as `find_into`."""
    manifest = read_manifest(work / WHOLE)
    if manifest is not None:
        check_begun(work / WHOLE, manifest.inputs, inputs)
        _publish(work / WHOLE, out)
    elif not finished(out, inputs):
        return False
    notify(f"{out}: is whole, so nothing is left to do.")
    discard(work)
    return True


def refuse_run(out: Path) -> None:
    """Raise InputError if `out` already holds a run, or is a file."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file. Give --out a folder.")
    present = [name for name in FILES if (out / name).exists()]
    if present:
        raise InputError(
            f"{out}: already holds a run ({', '.join(present)}), and nothing is overwritten. "
            "Choose another --out, or remove these files."
        )


def save_result(result: FindResult, out: Path) -> None:
    """Write a run into `out`, layers.json behind the others, so that its presence means a whole run.

    The manifest is of all but the figures, which may be drawn again.
    """
    out = Path(out)
    refuse_run(out)
    with disk_full_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=out) as name:
            write_run(result, Path(name) / WHOLE)
            _publish(Path(name) / WHOLE, out)


def write_run(result: FindResult, folder: Path, inputs: Mapping[str, Any] | None = None) -> None:
    """Write the files of a run into a new folder; the manifest records the `inputs`."""
    with atomic_folder(folder) as partial:
        result.features.to_parquet(partial / "features.parquet", index=False)
        result.features.to_csv(partial / "features.csv", index=False, float_format="%.6g")
        save_figures(search_drawings(result), partial)
        write_layers(result.artifact, partial / LAYERS)
        # Of figures the numbers: they may be drawn again.
        names = sorted({*FILES, *(path.name for path in partial.glob("*.csv"))})
        write_manifest(partial, {name: partial / name for name in names}, inputs)


def _publish(folder: Path, out: Path) -> None:
    """Move the files of a run to where they belong; what a kill has left over can be moved on another day."""
    with disk_full_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        last = (LAYERS, MANIFEST)
        for path in sorted(folder.iterdir(), key=lambda path: (path.name in last, path.name)):
            # `out` may be a file system of its own.
            shutil.move(path, out / path.name)
        flush(out)
        folder.rmdir()
