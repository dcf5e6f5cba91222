"""Finds and decodes the image of every question that is imported."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from interp.images.decode import UnreadableImageError, decode
from interp.images.paths import find_image, is_image_file, names_in
from interp.importing.records import SourceQuestion
from interp.runtime.progress import track
from interp.schemas.import_report import ImportReport


def with_images(
    sources: Sequence[SourceQuestion], root: Path, report: ImportReport
) -> list[tuple[SourceQuestion, str]]:
    """The questions whose image can be decoded, each with the image's path relative to `root`.

    The others are counted in `report` as left out.
    """
    by_name_only = any("/" not in source.image and not is_image_file(root, source.image) for source in sources)
    by_name = names_in(root) if by_name_only else {}
    path_of: dict[str, str] = {}
    problem_of: dict[str, str | None] = {}
    for name in dict.fromkeys(source.image for source in sources):
        try:
            path_of[name] = find_image(name, root, by_name)
        except UnreadableImageError as error:
            problem_of[name] = str(error)
    found = list(path_of)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in track(range(0, len(found), 64), "images", unit=64):
            chunk = found[start : start + 64]
            problem_of |= zip(chunk, pool.map(_problem, [root / path_of[name] for name in chunk]), strict=True)
    kept = []
    for source in sources:
        problem = problem_of[source.image]
        if problem is None:
            kept.append((source, path_of[source.image]))
        else:
            report.drop(source.where, problem)
    return kept


def _problem(path: Path) -> str | None:
    """Why an image cannot be decoded; None if it can."""
    try:
        decode(path)
    except UnreadableImageError as error:
        return str(error)
    return None
