"""manifest.json: size and SHA-256 of the files in a finished folder, and the inputs that they were made from.

With it, a file that was truncated, changed or copied from elsewhere is named before anything in the folder is used.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from interp.runtime.errors import InputError
from interp.storage.atomic import write_text
from interp.storage.json_files import refuse_newer

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2
"""Version 1 called `inputs` `made_of`."""
BY_HAND = ("README.md",)
"""Files that users are asked to complete, so their changes are not faults."""


class FileEntry(BaseModel):
    """One file as it was written."""

    model_config = ConfigDict(extra="forbid")
    size: int = Field(description="size of the file [bytes]")
    sha256: str = Field(description="SHA-256 of the content, hexadecimal")


class Manifest(BaseModel):
    """The whole content of manifest.json. It contains no question, path or patient."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = Field(default=SCHEMA_VERSION, description="version of this schema")
    inputs: dict[str, Any] = Field(
        default_factory=dict,
        validation_alias=AliasChoices("inputs", "made_of"),
        description="settings of the run, and digests of its data and weights",
    )
    files: dict[str, FileEntry] = Field(description="name -> the file as it was written")

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            if Path(name).name != name:
                raise ValueError(f"{name!r} is not the name of a file in the folder")
        return files


def entry_of(path: Path) -> FileEntry:
    """Size and digest of a file as it is now."""
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return FileEntry(size=path.stat().st_size, sha256=digest)


def write_manifest(folder: Path, files: Mapping[str, Path], inputs: Mapping[str, Any] | None = None) -> None:
    """Write manifest.json of `files`, name in `folder` -> where the content is now; those of BY_HAND are left out."""
    entries = {name: entry_of(files[name]) for name in sorted(files) if name not in BY_HAND}
    content = Manifest(inputs=dict(inputs or {}), files=entries)
    write_text(folder / MANIFEST, content.model_dump_json(indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None if it has none. Raises InputError if it is damaged or of a newer schema."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        found = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise InputError(f"{path}: {where}: {first['msg']}. {_remedy(folder)}") from None
    refuse_newer(path, found.schema_version, SCHEMA_VERSION)
    return found


def check_manifest(folder: Path, names: Iterable[str] | None = None) -> None:
    """Raise InputError if a file of the manifest, or one of `names` among them, is not as it was written.

    A folder without a manifest passes, and so do files that the manifest does not name.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return
    for name, entry in manifest.files.items():
        if names is not None and name not in names:
            continue
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: absent, but {MANIFEST} names it. {_remedy(folder)}")
        found = entry_of(path)
        if found != entry:
            raise InputError(
                f"{path}: damaged, changed, or of another folder: found {found.size} bytes with SHA-256 "
                f"{found.sha256[:12]}..., expected {entry.size} with {entry.sha256[:12]}... by {MANIFEST}. "
                f"{_remedy(folder)}"
            )


def _remedy(folder: Path) -> str:
    return (
        "Copy the folder again from where it was made. If you made the change yourself, remove "
        f"{folder / MANIFEST} to use the folder as it is."
    )
