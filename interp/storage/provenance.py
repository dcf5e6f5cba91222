"""How a result came about: the commit of the code, the device, the start, and the command without paths or text.

It is that of the measurement, not of the writing: a checkpoint holds the provenance of its parts, so a resumed run
keeps when and where they were measured.

The command is recorded beside the settings because it holds what they do not: the split, limits, and which options
were left at their defaults.
"""

import importlib.metadata
import inspect
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from pydantic import BaseModel, ConfigDict, Field

from interp.runtime.distributed import process_count


def software() -> dict[str, str]:
    """Versions of the software that computes the numbers: package -> version, as every artifact records it."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    """Looked up once, because a checkpoint consists of many files."""
    names = ("gatescope", "torch", "transformers", "peft", "accelerate", "sae-lens", "numpy", "pandas", "scipy")
    versions = {"python": platform.python_version(), "platform": sys.platform}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


HIDDEN = "…"
"""Stands for the value of an option that may be a path or text."""
_PLAIN = re.compile(r"[\w:,.+-]{1,40}")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


class Process(BaseModel):
    """A process that computed something. It contains no path, text or patient."""

    model_config = ConfigDict(extra="forbid")
    commit: str | None = Field(
        description="commit of the checkout that the code ran from, without later edits; null if it was installed"
    )
    device: str = Field(description="GPUs that computed the result, or the CPU and its threads")
    command: str | None = Field(description="the command, with … for paths and text; null for a call from Python")
    started: str = Field(description="start of the process, or of the launcher of several [UTC, ISO 8601]")


class Provenance(Process):
    """How a result came about: the process that began to measure it, and those that resumed it."""

    resumed: list[Process] = Field(
        default_factory=list, description="the later processes that resumed the work, in order; empty for one process"
    )

    def processes(self) -> list[Process]:
        """All processes, in order."""
        return [Process(**self.model_dump(exclude={"resumed"})), *self.resumed]


class _Measurement(NamedTuple):
    """What is recorded of the measurement under way, whichever thread asks."""

    command: str | None
    """The command, which only its own thread can tell; None for a call from Python."""
    processes: list[Process]
    """The processes whose work a checkpoint has given to it."""


_MEASURED: ContextVar[_Measurement | None] = ContextVar("measured", default=None)
"""None outside of a measurement. A thread that is part of one needs a copy of the context."""


@contextmanager
def measurement() -> Iterator[None]:
    """While open, `provenance` includes the processes that measured what is read from checkpoints."""
    token = _MEASURED.set(_Measurement(_command(), []))
    try:
        yield
    finally:
        _MEASURED.reset(token)


def note_measured(found: Provenance) -> None:
    """Note that the measurement under way uses what was measured there; no effect outside of one."""
    if (noted := _MEASURED.get()) is not None:
        noted.processes.extend(found.processes())


def joined(found: Iterable[Provenance]) -> Provenance:
    """One provenance of results that several processes measured."""
    return _in_order([process for each in found for process in each.processes()])


def _in_order(processes: Sequence[Process]) -> Provenance:
    # One process may have written several parts, of which the later ones know the GPU that it used.
    of = {(process.started, process.command, process.commit): process for process in processes}
    first, *later = [of[key] for key in sorted(of, key=lambda key: key[0])]
    return Provenance(**first.model_dump(), resumed=later)


def provenance() -> Provenance:
    """The processes that measured what is being computed, this one so far included; a GPU counts once it is used."""
    noted = _MEASURED.get()
    return _in_order([*(noted.processes if noted else []), _this_process()])


def _this_process() -> Process:
    import psutil

    process, noted = psutil.Process(), _MEASURED.get()
    if process_count() > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        # The processes of one launch count as one, which started with their launcher.
        process = process.parent() or process
    started = datetime.fromtimestamp(process.create_time(), UTC)
    return Process(
        commit=_own_commit(),
        device=_device(),
        command=noted.command if noted else _command(),
        started=started.isoformat(timespec="seconds"),
    )


@cache
def _own_commit() -> str | None:
    """The commit of this code when it is first asked for; a later one is not the code that runs."""
    return commit_of(Path(__file__).parents[2])


def commit_of(root: Path) -> str | None:
    """The commit of the git checkout at `root`, None if it is not one; folders above it are not searched."""
    with suppress(OSError, UnicodeDecodeError):
        git = root / ".git"
        if git.is_file():
            git = root / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        # A linked work tree shares its branches with the main one.
        shared = git / "commondir"
        places = [git, *([git / shared.read_text(encoding="utf-8").strip()] if shared.is_file() else [])]
        for found in [head] if not head.startswith("ref: ") else _targets(places, head.removeprefix("ref: ")):
            if _COMMIT.fullmatch(found):
                return found
    return None


def _targets(places: list[Path], name: str) -> Iterator[str]:
    """The commits that a branch may point to, by its own file and by the packed references."""
    for place in places:
        with suppress(OSError):
            yield (place / name).read_text(encoding="utf-8").strip()
        with suppress(OSError):
            for line in (place / "packed-refs").read_text(encoding="utf-8").splitlines():
                if line.endswith(f" {name}"):
                    yield line.split(" ")[0]


def _device() -> str:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        used = [k for k in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(k)]
        names = Counter(torch.cuda.get_device_name(k) for k in used)
        return ", ".join(
            f"{n * process_count()} x {name}" if n * process_count() > 1 else name for name, n in names.items()
        )
    threads = "" if torch is None else f", {torch.get_num_threads()} threads"
    return f"{_processor()}{threads}{f', {process_count()} processes' if process_count() > 1 else ''}"


def _processor() -> str:
    with suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


def _command() -> str | None:
    """The running command with the options that were given, None outside of a command."""
    # Newer versions of typer contain a copy of click.
    clicks = [sys.modules[name] for name in ("typer._click.globals", "click.globals") if name in sys.modules]
    contexts = [click.get_current_context(silent=True) for click in clicks]
    context: Any = next((found for found in contexts if found is not None), None)
    if context is None:
        return None
    # Options are judged by their annotations, which do not depend on the version of typer.
    kinds = {name: str(kind) for name, kind in get_type_hints(inspect.unwrap(context.command.callback)).items()}
    words = [context.command_path]
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in kinds and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
            words += _given(parameter, kinds[name], context.params.get(name))
    return " ".join(words)


def _given(parameter: Any, kind: str, value: Any) -> list[str]:
    """The words of an option or argument as it was given."""
    names = [name for name in parameter.opts if name.startswith("-")]
    if isinstance(value, bool):
        return [names[0] if value or not parameter.secondary_opts else parameter.secondary_opts[0]]
    several = value if isinstance(value, list | tuple) else [value]
    return [word for each in several for word in (*names[:1], _shown(kind, each))]


def _shown(kind: str, value: Any) -> str:
    """A value, or HIDDEN. Numbers and choices reveal nothing, but a word may name a file or a folder."""
    if isinstance(value, int | float) or "Literal" in kind:
        return str(value)
    word = "Path" not in kind and _PLAIN.fullmatch(str(value)) is not None and not os.path.exists(value)
    return str(value) if word else HIDDEN
