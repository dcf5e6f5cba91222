"""The folder of a search: layers.json, the features as parquet and CSV, and the figures.

A search keeps its finished parts in a working folder (`interp.storage.working_folder`), so that one that was killed can
be resumed.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from interp.questions.tables import fingerprint
from interp.runtime.distributed import is_main, meet, team_on
from interp.runtime.errors import InputError
from interp.runtime.later import Later
from interp.runtime.progress import notify
from interp.saes.sae_folder import sae_digest
from interp.schemas.items import ITEMS, read_items, write_items
from interp.schemas.items_kept import ItemsKept
from interp.schemas.layers import write_layers
from interp.search.find import run_search
from interp.search.result import FindResult
from interp.search.task import Search
from interp.storage.atomic import PARTIAL, atomic_folder, flush, refuse_unwritable
from interp.storage.checkpoint import Checkpoint, refuse_other_inputs
from interp.storage.checksums import inputs_digests, joined_digest, weights_fingerprint
from interp.storage.manifest import MANIFEST, read_manifest, write_manifest
from interp.storage.provenance import measurement
from interp.storage.working_folder import discard, finished, refuse_unfinished, working, working_folder
from interp.storage.write_errors import disk_full_errors, write_errors
from interp.views.figures.style import import_drawing, save_figures

LAYERS = "layers.json"
FILES = (LAYERS, "features.parquet", "features.csv")
"""The files by which a folder is recognized as that of a search."""
WHOLE = "whole"
"""Folder, in the working folder, of a run that is finished but not yet moved to its place."""


def find_into(
    out: Path, load: Callable[[], Search], resume: bool = False, items: ItemsKept = ItemsKept()
) -> FindResult | None:
    """Run the search that `load` gives, and write it into the folder `out` as `save_result` does.

    After an interruption, a folder beside `out` (`interp.storage.working_folder.working_folder`) holds the finished
    parts, and `resume` continues from them, with as many processes as before. Returns None if nothing is left to do.

    Raises InputError as `find_features`, if `out` already holds a run, if another process is writing it, if the
    finished parts are of another search, and if the run is finished but lacks the `items` asked for.
    """
    if not resume:
        refuse_run(out)
    refuse_unfinished(out, resume)
    work = working_folder(out)
    meet()
    with working(work) if is_main() else measurement():
        search = load()
        team = team_on(search.vlm.device)
        # Hashing some GB takes seconds; until it is done, nothing is written that needs it.
        inputs = Later(partial(_inputs_of, search, team.size))
        if team.rank == 0 and search.vlm.device.type == "cuda":
            Thread(target=_import_drawing_after, args=(inputs,)).start()
        result = None
        if not team.gather_values(resume and team.rank == 0 and _is_whole(out, work, inputs, items))[0]:
            refuse_run(out)
            checkpoint = Checkpoint(work, inputs)
            checkpoint.refuse_others()
            with checkpoint.writing_beside() as written:
                result = run_search(search, written)
                if team.rank == 0:
                    # Beside what is left to keep of the last stages.
                    write_run(result, work / WHOLE, inputs, items)
            used = team.gather_values(sorted(checkpoint.used))
            if team.rank == 0:
                checkpoint.report_unused(set().union(*used))
                _publish(work / WHOLE, out)
                discard(work)
    # The launcher stops all processes when one of them ends with an exit code.
    team.shut_down()
    return result


def _import_drawing_after(inputs: Mapping[str, Any]) -> None:
    """Import what figures need once the inputs are hashed, while a GPU is busy and the interpreter is not.

    Earlier, the import would hold up the threads that read the first images and launch their encoding.
    """
    # Whoever needs the inputs reports their error.
    with suppress(Exception):
        len(inputs)
    import_drawing()


def _inputs_of(search: Search, processes: int) -> dict[str, Any]:
    """What must be equal for finished parts to be used, and for a finished run to be the one that was asked for."""
    vlm = search.vlm
    return search.settings.__dict__ | {
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
    """Hexadecimal hash of some SAEs (`interp.saes.sae_folder.sae_digest`)."""
    return joined_digest(map(sae_digest, folders)).hex()[:32]


def _is_whole(out: Path, work: Path, inputs: Mapping[str, Any], items: ItemsKept) -> bool:
    """Whether the run is finished; if it is, move it to its place first. Raises InputError as `find_into`."""
    manifest = read_manifest(work / WHOLE)
    if manifest is not None:
        refuse_other_inputs(work / WHOLE, manifest.inputs, inputs, f"remove {work} to start over")
        _publish(work / WHOLE, out)
    elif not finished(out, inputs):
        return False
    discard(work)
    _refuse_absent_items(out, items)
    notify(f"{out}: already complete, so nothing is left to do.")
    return True


def _refuse_absent_items(out: Path, items: ItemsKept) -> None:
    """Raise InputError if a finished run lacks the `items` asked for; its work, from which they follow, is gone."""
    again = "Search again with another --out, or leave the option out."
    if items.keep and not (out / ITEMS).is_file():
        raise InputError(
            f"{out}: already complete, without {ITEMS}. --keep-items cannot be added to a finished run, which has not "
            f"kept the margins of every wording. {again}"
        )
    if items.include_text and not read_items(out / ITEMS, "search")[1].with_text:
        raise InputError(
            f"{out / ITEMS}: already complete, without wordings. --include-text cannot be added to a finished run; "
            f"interp.with_questions adds them to the table. {again}"
        )


def refuse_run(out: Path) -> None:
    """Raise InputError if `out` cannot be written, already holds a run, or is a file."""
    refuse_unwritable(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file. Give --out a folder.")
    present = [name for name in FILES if (out / name).exists()]
    if present:
        raise InputError(
            f"{out}: already holds a run ({', '.join(present)}), and nothing is overwritten. "
            "Choose another --out, or remove these files."
        )


def save_result(result: FindResult, out: str | Path, items: ItemsKept = ItemsKept()) -> None:
    """Write a run into `out`, layers.json last, so that its presence means a complete run.

        >>> interp.save_result(result, "run", interp.ItemsKept(keep=True))

    The manifest covers everything but the figures, which can be drawn again from their tables. Raises InputError if
    `out` already holds a run.
    """
    out = Path(out)
    refuse_run(out)
    with disk_full_errors(out):
        with write_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=out) as name:
            write_run(result, Path(name) / WHOLE, items=items)
            _publish(Path(name) / WHOLE, out)


def write_run(
    result: FindResult, folder: Path, inputs: Mapping[str, Any] | None = None, items: ItemsKept = ItemsKept()
) -> None:
    """Write the files of a run into a new folder; the manifest records the `inputs`."""
    with atomic_folder(folder) as partial:
        result.features.to_parquet(partial / "features.parquet", index=False)
        result.features.to_csv(partial / "features.csv", index=False, float_format="%.6g")
        save_figures(result.drawings(), partial)
        write_layers(result.artifact, partial / LAYERS)
        if items.keep:
            table = result.flip_table(text=True)
            write_items(partial / ITEMS, table, "search", result.artifact.data.fingerprint, items.include_text)
        # Of the figures only the tables, because images may be drawn again.
        kept = [ITEMS] if items.keep else []
        names = sorted({*FILES, *kept, *(path.name for path in partial.glob("*.csv"))})
        write_manifest(partial, {name: partial / name for name in names}, inputs)


def _publish(folder: Path, out: Path) -> None:
    """Move the files of a run to their place, layers.json and the manifest last; a move that was killed is repeated."""
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        last = (LAYERS, MANIFEST)
        for path in sorted(folder.iterdir(), key=lambda path: (path.name in last, path.name)):
            # `out` may be on another file system.
            shutil.move(path, out / path.name)
        flush(out)
        folder.rmdir()
