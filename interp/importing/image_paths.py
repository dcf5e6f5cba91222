"""Paths of images as tables write them (absolute, of Windows, of another machine), mapped to files below the root."""

import re
from collections.abc import Iterable
from pathlib import Path

from interp.images.paths import climbs_out, is_image_file

AMBIGUOUS = "image path ends like that of another image"
"""The reason for which an image is left out whose file could be that of several paths."""


def below_root(name: str, root: Path) -> str:
    """The path relative to `root` that a path of an image stands for; the path with `/` if no file below it fits.

    An absolute path is below `root`, or else its longest end that is a file below `root` counts, so that tables that
    were written on another machine can be read. A relative path may begin with the root's own name. Paths with `..`
    stay as they are.
    """
    if is_image_file(root, name) and not climbs_out(name):
        return name
    path = re.sub(r"^\./", "", name.removeprefix("file://").replace("\\", "/"))
    absolute = re.match(r"(?:[A-Za-z]:)?/+", path)
    if ".." in path.split("/"):
        return path
    if absolute is None:
        inside = path.removeprefix(f"{root.absolute().name}/")
        return inside if inside != path and not is_image_file(root, path) and is_image_file(root, inside) else path
    for base in {root.absolute(), root.resolve()}:
        inside = path.removeprefix(f"{base.as_posix()}/")
        if inside != path and is_image_file(root, inside):
            return inside
    parts = [part for part in path[absolute.end() :].split("/") if part not in ("", ".")]
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if is_image_file(root, end)), path)


def ambiguous_paths(path_of: dict[str, str], names: Iterable[str]) -> set[str]:
    """The absolute names among `names` that end in one file, according to `path_of`, but differ before that end."""
    wholes: dict[str, dict[str, list[str]]] = {}
    for name in names:
        whole = re.sub(r"^[A-Za-z]:", "", name.removeprefix("file://").replace("\\", "/")).lower()
        if whole.startswith("/") and name in path_of:
            wholes.setdefault(path_of[name], {}).setdefault(re.sub("/+", "/", whole), []).append(name)
    return {
        name for spellings in wholes.values() if len(spellings) > 1 for group in spellings.values() for name in group
    }
