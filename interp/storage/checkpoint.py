"""Checkpoints: what a long run has computed so far, as tensors on disk, so that a killed run resumes after it.

A file of a checkpoint is a safetensors file with the inputs of the run that wrote it. Another run cannot use it.
"""

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.runtime.calls_beside import CallsBeside
from interp.runtime.distributed import is_main
from interp.runtime.errors import InputError, first_line
from interp.runtime.progress import notify
from interp.storage.atomic import atomic_file
from interp.storage.checksums import named_digest
from interp.storage.provenance import Provenance, note_measured, provenance, software

log = logging.getLogger(__name__)
SCHEMA_VERSION = 2
DIGEST_BYTES = 32
STAGE_BYTES = 16
"""Bytes of the hash in the name of a stage."""
SHOWN = 4
"""Most kinds of stages that a message names."""
HASHED = 2**22
"""Bytes of a tensor that one thread hashes at a time."""


class UnusableError(InputError):
    """What an earlier run kept is damaged, or of another run. The message says what can be done with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder of named tensors, all of which were computed from the same inputs. False if it has no folder."""

    folder: Path | None
    """Where the files are; None to write nothing and to find nothing."""
    inputs: Mapping[str, Any]
    """Settings, and digests of data and weights: plain JSON values that must be the same for a file to be used."""
    whole: Path | None = None
    """The folder of the whole run if `folder` is inside it (`within`); it is what has to be removed to start over."""
    used: set[str] = field(default_factory=set)
    """Paths of the files that this process has read or written, those of inner checkpoints included."""
    beside: CallsBeside | None = None
    """The thread that writes stages (`writing_beside`); without it, whoever writes one waits."""

    def read(self, name: str) -> dict[str, Tensor] | None:
        """The tensors under a name, None if there are none.

        Other versions of the software are reported. Raises InputError for a file that is damaged or has other inputs.
        """
        path = self.folder and self.folder / f"{name}.safetensors"
        if not path or not path.is_file():
            return None
        tensors = read_tensors(path, self.inputs, self.whole)
        self.used.add(str(path))
        return tensors

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors under a name, atomically. Raises InputError if the disk is full."""
        if self.folder:
            path = self.folder / f"{name}.safetensors"
            self.used.add(str(path))
            write_tensors(path, tensors, self.inputs)

    def stage(
        self, kind: str, inputs: Mapping[str, Tensor], make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The tensors of a stage (`stage_name`), or those that `make` returns, which are then written."""
        found = self.read_stage(kind, inputs)
        if found is None:
            found = make()
            self.write_stage(kind, inputs, found)
        return found

    def read_stage(self, kind: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The tensors that an earlier run wrote of a stage, None if there are none. Raises InputError as `read`."""
        left = self.folder.glob(f"{kind}-*.safetensors") if self.folder else ()
        # Hashing what a stage starts from takes as long as some stages.
        return self.read(stage_name(kind, inputs)) if any(str(path) not in self.used for path in left) else None

    def write_stage(self, kind: str, inputs: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors of a stage, atomically. Neither they nor its inputs may change afterwards.

        Raises InputError if the disk is full, or was for an earlier stage.
        """

        def write() -> None:
            self.write(stage_name(kind, inputs), tensors)

        if self.folder and self.beside:
            self.beside.add(write)
        elif self.folder:
            write()

    @contextmanager
    def writing_beside(self) -> Iterator["Checkpoint"]:
        """While open, a checkpoint of the same run whose stages are written by a thread; all are when it closes.

        Raises InputError if one could not be.
        """
        with CallsBeside() as calls:
            yield replace(self, beside=calls)

    def refuse_others(self) -> None:
        """Raise InputError if any file of the checkpoint, in inner folders too, is damaged or has other inputs.

        The name of a file may follow from what was computed before it, so other inputs may ask for other names. Those
        files would never be read, but removed with the folder.
        """
        for _ in self._records():
            pass

    def report_unused(self, used: Collection[str]) -> None:
        """Print which files, in inner folders too, no process of the run has `used`, and which versions wrote them.

        Another version of the software may have divided its work into stages of other names. Raises InputError as
        `refuse_others`.
        """
        unused = {path: record for path, record in self._records() if str(path) not in used}
        if not unused:
            return
        kinds = list(dict.fromkeys(_stage_kind(path.stem) for path in unused))
        more = ", ..." if len(kinds) > SHOWN else ""
        writers = sorted({_code(_versions(record)) for record in unused.values()})
        notify(
            f"{self.folder}: this run of {_code(_versions_now())} does not use what {' and '.join(writers)} kept there "
            f"as {', '.join(kinds[:SHOWN])}{more}, and computes it again, because its stages differ, or start from "
            "values that differ in their last digits."
        )

    def _records(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield every file, in inner folders too, with its record. Raises InputError as `refuse_others`."""
        if self.folder:
            for path in sorted(self._files()):
                yield path, _read_record(path, self.inputs, self.whole or self.folder)

    def _files(self) -> Iterator[Path]:
        """Yield every file that was kept here, in inner folders too."""
        return self.folder.rglob("[!.]*.safetensors") if self.folder else iter(())

    def within(self, name: str) -> "Checkpoint":
        """A checkpoint of the same run in a folder of its own inside this one."""
        return replace(self, folder=self.folder and self.folder / name, whole=self.whole or self.folder)

    def has_files(self) -> bool:
        """Whether something was kept here."""
        return any(True for _ in self._files())

    def __bool__(self) -> bool:
        return self.folder is not None


NO_CHECKPOINT = Checkpoint(None, {})
"""The checkpoint of a run that cannot be resumed."""


def stage_name(kind: str, inputs: Mapping[str, Tensor]) -> str:
    """Name of one stage of a run: its kind and a hash of the tensors that it starts from, with their names.

    The tensors are hashed because the stage before may have been lost: computed again on a GPU, it may differ in its
    last digits.
    """
    rows = {
        f"{name} {k}": part
        for name, tensor in inputs.items()
        for k, part in enumerate(tensor.split(max(1, HASHED * len(tensor) // max(1, tensor.nbytes))))
    }
    return f"{kind}-{named_digest(rows, STAGE_BYTES)}"


def _stage_kind(name: str) -> str:
    """The kind of stage in a `stage_name`; other names are returned as they are."""
    return re.sub(f"-[0-9a-f]{{{2 * STAGE_BYTES}}}$", "", name)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> None:
    """Write tensors and the inputs that they were computed from, atomically. Raises InputError if the disk is full."""
    from safetensors.torch import save

    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    record = {"schema_version": SCHEMA_VERSION, "inputs": dict(inputs), "software": software()}
    record["provenance"] = provenance().model_dump()
    record["digest"] = named_digest(dict(sorted(held.items())), DIGEST_BYTES)
    with atomic_file(path) as partial:
        partial.write_bytes(save(held, {"record": json.dumps(record)}))
    log.info("%s: wrote %.1f MB", path.name, sum(tensor.nbytes for tensor in held.values()) / 1e6)


def read_tensors(path: Path, inputs: Mapping[str, Any], whole: Path | None = None) -> dict[str, Tensor]:
    """Read the tensors that `write_tensors` wrote; `whole` is the folder of the run, by default the file's own.

    Other versions of the software are reported. Raises InputError for a file that is damaged or has other inputs.
    """
    from safetensors import SafetensorError, safe_open

    folder = whole or path.parent
    record = _read_record(path, inputs, folder)
    try:
        with safe_open(path, "pt") as saved:
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        if record["digest"] != named_digest(dict(sorted(tensors.items())), DIGEST_BYTES):
            raise ValueError("its content is not what was written")
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, error, folder) from None
    log.info("%s: resumed", path.name)
    # Checkpoints of earlier versions do not have it.
    if "provenance" in record:
        note_measured(Provenance.model_validate(record["provenance"]))
    return tensors


def _read_record(path: Path, inputs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The record in a file of a checkpoint; no tensor is read. Raises InputError as `read_tensors`.

    Other versions of the software are reported.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as saved:
            record = json.loads(saved.metadata()["record"])
        version, recorded, _ = record["schema_version"], record["inputs"], record["digest"]
        # Only the schema version is sure to be there in a file of another one.
        versions = _versions(record) if version == SCHEMA_VERSION else {}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error, folder) from None
    if version != SCHEMA_VERSION:
        raise UnusableError(
            f"{path}: schema version {version}, but this GateScope reads {SCHEMA_VERSION}. Continue with the version "
            f"that started the run, or remove {folder} to start over."
        )
    refuse_other_inputs(path, recorded, inputs, f"remove {folder} to start over")
    if is_main():
        _report_versions(json.dumps(versions))
    return record


def _versions(record: Mapping[str, Any]) -> dict[str, str]:
    """Versions of the software that wrote the file with this record, and the commit of its checkout if it had one."""
    # Checkpoints of earlier versions have no provenance.
    writer = Provenance.model_validate(record["provenance"]).processes()[-1] if "provenance" in record else None
    commit = {"commit": writer.commit[:9]} if writer and writer.commit else {}
    return record["software"] | commit


@cache
def _versions_now() -> dict[str, str]:
    """The `_versions` of the files that this process writes."""
    return _versions({"software": software(), "provenance": provenance().model_dump()})


def _code(versions: Mapping[str, str]) -> str:
    """GateScope's version among `versions`, and its commit if it is known, for a message."""
    return " at ".join(f"{name} {versions[name]}" for name in ("gatescope", "commit") if name in versions)


def _damaged(path: Path, error: Exception, folder: Path) -> UnusableError:
    return UnusableError(f"{path}: damaged ({first_line(error)}). Remove {folder} to start over, without --resume.")


def as_json(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as they are read back from JSON."""
    return json.loads(json.dumps(dict(inputs)))


def refuse_other_inputs(path: Path, recorded: Mapping[str, Any], inputs: Mapping[str, Any], otherwise: str) -> None:
    """Raise UnusableError, which names every difference, if `path` was made from inputs other than these.

    `otherwise` is what the user can do if the original inputs are not wanted.
    """
    now = as_json(inputs)
    differences = [
        f"with {name.replace('_', ' ')} {recorded.get(name)!r}, but now it is {now.get(name)!r}"
        for name in dict.fromkeys((*now, *recorded))
        if recorded.get(name) != now.get(name)
    ]
    if differences:
        raise UnusableError(
            f"{path}: was made {'; '.join(differences)}. Give the original options, data and model, or {otherwise}."
        )


@cache
def _report_versions(recorded: str) -> None:
    """Report once that other versions of the software wrote a checkpoint, however many files it has."""
    now = _versions_now()
    then = json.loads(recorded)
    others = [f"{name} {then[name]} (now {now.get(name)})" for name in then if now.get(name) != then[name]]
    if others:
        notify(
            f"Resuming work that was started with {', '.join(others)}: what is now divided into other stages is "
            "computed again, and the result may differ in its last digits."
        )
