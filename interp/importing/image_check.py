"""Finds and decodes the image of every question that is imported, and stores the images that a table holds itself."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from interp.images.decode import NO_CONTRAST, decode
from interp.images.grey import UnreadableImageError, lacks_contrast
from interp.images.paths import find_image, is_image_file, names_in
from interp.importing.cells import EmbeddedImage
from interp.importing.image_paths import AMBIGUOUS, ambiguous_paths, below_root
from interp.importing.patients import patient_in_path
from interp.importing.records import SourceQuestion
from interp.runtime.progress import track
from interp.schemas.import_report import ImportReport

_ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp"}
_ENDINGS |= {b"II*\0": ".tif", b"MM\0*": ".tif"}


def store_embedded(sources: Sequence[SourceQuestion], folder: Path, name: str) -> list[SourceQuestion]:
    """The questions, with embedded images written into `folder`; their paths are as if it were called `name`.

    Files are named after their content, so that an image that several questions share is one file. If a table names a
    path in MIMIC-CXR's layout beside an image, its patient is kept.
    """
    stored = []
    for source in sources:
        if isinstance(image := source.image, EmbeddedImage):
            digest = hashlib.blake2b(image.content, digest_size=16).hexdigest()
            file = digest + _ending(image.content)
            if not (folder / file).exists():
                (folder / file).write_bytes(image.content)
            patient = source.patient or patient_in_path((image.path or "").replace("\\", "/"))
            source = source._replace(image=f"{name}/{file}", patient=patient)
        stored.append(source)
    return stored


def with_images(
    sources: Sequence[SourceQuestion], root: Path, report: ImportReport, stored: tuple[Path, str] | None = None
) -> list[tuple[SourceQuestion, str]]:
    """The questions whose image can be decoded, each with the image's path relative to `root`.

    The others are counted in `report` as left out. `stored` is the folder of embedded images, and the name that it will
    have below `root` (`store_embedded`).
    """
    names = list(dict.fromkeys(str(source.image) for source in sources))
    inside = {name: below_root(name, root) for name in names}
    path_of: dict[str, str] = {}
    problem_of: dict[str, str | None] = {}
    files: dict[str, Path] = {}
    by_name_only = any("/" not in path and not is_image_file(root, path) for path in inside.values())
    by_name = names_in(root) if by_name_only else {}
    for name in names:
        if stored is not None and name.startswith(f"{stored[1]}/"):
            path_of[name], files[name] = name, stored[0] / name.removeprefix(f"{stored[1]}/")
            continue
        try:
            path_of[name] = find_image(inside[name], root, by_name)
            files[name] = root / path_of[name]
        except UnreadableImageError as error:
            problem_of[name] = str(error)
    problem_of |= dict.fromkeys(ambiguous_paths(path_of, names), AMBIGUOUS)
    found = [name for name in path_of if name not in problem_of]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in track(range(0, len(found), 64), "images", unit=64):
            chunk = found[start : start + 64]
            problem_of |= zip(chunk, pool.map(_problem, [files[name] for name in chunk]), strict=True)
    kept = []
    for source in sources:
        problem = problem_of[str(source.image)]
        if problem is None:
            kept.append((source, path_of[str(source.image)]))
        else:
            report.drop(source.where, problem)
    return kept


def _problem(path: Path) -> str | None:
    """Why an image cannot be decoded or shows nothing; None if it can be used."""
    try:
        return NO_CONTRAST if lacks_contrast(decode(path)) else None
    except UnreadableImageError as error:
        return str(error)


def _ending(content: bytes) -> str:
    """The usual ending of a file with these bytes; empty if it is unknown."""
    if content[128:132] == b"DICM":
        return ".dcm"
    return next((ending for start, ending in _ENDINGS.items() if content.startswith(start)), "")
