"""Where the image of a question is: a path inside the image root, by its whole path, its name or its stem."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from interp.images.decode import UnreadableImageError


def climbs_out(image: str) -> bool:
    """Whether a path may leave the folder that it is relative to; links inside the folder are the owner's choice.

    Every `..` counts: behind a link it leads to where the link points, not back.
    """
    path = image.replace("\\", "/")
    return path.startswith("/") or ".." in path.split("/")


def is_image_file(root: Path, image: str) -> bool:
    """Whether `image` is a file below `root`; no name is too long or too odd to be asked."""
    try:
        return (root / image).is_file()
    except (OSError, ValueError):
        return False


def find_image(name: str, root: Path, by_name: Mapping[str, Sequence[str]]) -> str:
    """The path of an image relative to `root`.

    Tried in turn: `name` as it is; with or without MIMIC-CXR-JPG's leading `files/`; and for a bare name the one file
    anywhere below `root` of that name or stem (`by_name`, see `names_in`). Raises UnreadableImageError where there is
    none, or several, and for a path that climbs out of `root`.
    """
    if climbs_out(name):
        raise UnreadableImageError("image path climbs out of the image folder")
    tried = [name, name.removeprefix("files/"), f"files/{name}"]
    for path in tried:
        if is_image_file(root, path):
            return path
    places = by_name.get(name, ()) if "/" not in name else ()
    if len(places) > 1:
        raise UnreadableImageError("image name fits several files")
    if not places or not is_image_file(root, places[0]):
        raise UnreadableImageError("image not found")
    return places[0]


def names_in(root: Path) -> dict[str, list[str]]:
    """File name, and stem where no file bears it as its whole name -> paths below `root`; every folder once."""
    names: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    met: set[tuple[int, int]] = set()
    for folder, inside, files in os.walk(root, followlinks=True):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in met:
            # Links may lead in circles.
            inside.clear()
            continue
        met.add((place.st_dev, place.st_ino))
        for file in files:
            path = os.path.relpath(os.path.join(folder, file), root)
            names.setdefault(file, []).append(path)
            stems.setdefault(os.path.splitext(file)[0], []).append(path)
    return stems | names
