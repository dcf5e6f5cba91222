"""Writing files whole or not at all, and describing where a result came from."""

import importlib.metadata
import json
import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it appears whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON, indented, so that it appears whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def json_ready(value: Any) -> Any:
    """Content as JSON takes it: named tuples as objects, floats to six significant digits, undefined ones as None."""
    if hasattr(value, "_asdict"):
        return json_ready(value._asdict())
    if isinstance(value, dict):
        return {key: json_ready(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(inside) for inside in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, of the same ending, that replaces it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends without an error.

    Raises InputError if `path` exists already and is not an empty folder.
    """
    refuse_used(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=path.parent))
    try:
        yield partial
        if path.is_dir():
            path.rmdir()
        # Some writers make private files; a result is as readable as any file.
        for inside in [partial, *partial.rglob("*")]:
            inside.chmod(0o755 if inside.is_dir() else 0o644)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_used(path: Path) -> None:
    """Raise InputError if `path` is a file or a folder that holds something."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise InputError(
            f"{path}: already holds something, and nothing is overwritten. Choose another --out or remove it."
        )


def software() -> dict[str, str]:
    """Versions of what computes the numbers, for the record in every artifact."""
    names = ("gatescope", "torch", "transformers", "peft", "accelerate", "sae-lens", "numpy", "pandas", "scipy")
    versions = {"python": platform.python_version(), "platform": sys.platform}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
