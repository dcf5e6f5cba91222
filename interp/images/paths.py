"""Finds the image of a question inside the image root, by its path, its file name or its stem."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from interp.images.grey import UnreadableImageError

_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".dcm", ".dicom")
"""Endings between which radiographs are converted."""


def climbs_out(image: str) -> bool:
    """Whether a path may lead out of the folder that it is relative to. Links inside the folder are allowed to.

    Every `..` counts: after a link it refers to the parent of the link's target.
    """
    path = image.replace("\\", "/")
    return path.startswith("/") or ".." in path.split("/")


def is_image_file(root: Path, image: str) -> bool:
    """Whether `image` is a file below `root`; False for names that the file system rejects."""
    try:
        return (root / image).is_file()
    except (OSError, ValueError):
        return False


def find_image(name: str, root: Path, by_name: Mapping[str, Sequence[str]]) -> str:
    """The path of an image relative to `root`.

    It is `name` as given, or `name` with or without MIMIC-CXR-JPG's leading `files/`. For a bare name it may also be
    the only file below `root` with that name or stem (`by_name`, see `names_in`). If there is none, it is the only file
    in its place with another ending, as converted images have. Raises UnreadableImageError if there is no such file, if
    there are several, or if the path may lead out of `root`.
    """
    if climbs_out(name):
        raise UnreadableImageError("image path leads out of the image folder")
    tried = [name, name.removeprefix("files/"), f"files/{name}"]
    for path in tried:
        if is_image_file(root, path):
            return path
    places = by_name.get(name, ()) if "/" not in name else ()
    if not places:
        stems = [re.sub(rf"(?:{'|'.join(map(re.escape, _ENDINGS))})$", "", path, flags=re.I) for path in tried]
        beside = [path for stem in stems for ending in _ENDINGS if is_image_file(root, path := stem + ending)]
        places = list(dict.fromkeys(beside)) or by_name.get(stems[0], ())
    if len(places) > 1:
        raise UnreadableImageError("image name matches several files")
    if not places or not is_image_file(root, places[0]):
        raise UnreadableImageError("image not found")
    return places[0]


def names_in(root: Path) -> dict[str, list[str]]:
    """File name or stem -> paths below `root`, links included. A full name takes precedence over an equal stem."""
    names: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    visited: set[tuple[int, int]] = set()
    for folder, inside, files in os.walk(root, followlinks=True):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in visited:
            # Links may form cycles.
            inside.clear()
            continue
        visited.add((place.st_dev, place.st_ino))
        for file in files:
            path = os.path.relpath(os.path.join(folder, file), root)
            names.setdefault(file, []).append(path)
            stems.setdefault(os.path.splitext(file)[0], []).append(path)
    return stems | names
