"""What was seen on one image, on disk, so that a study that was killed goes on behind it; numbers alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from finetune.grounding.map_scores import Floats
from finetune.grounding.one_image import Look
from interp.storage.working_folder import read_tensors, write_tensors


class Seen(NamedTuple):
    """What one arm did on one image."""

    look: Look
    """Of every wording put to it."""
    curves: Mapping[int, Floats]
    """Question -> margins of deletion and insertion (`finetune.grounding.all_images.Observed`)."""
    without: Mapping[int, Floats]
    """Question -> margins without its boxes and other places."""


class Kept(NamedTuple):
    """Where the images that are done are kept."""

    folder: Path
    """Holds a file an image, named by its place among the images."""
    inputs: Mapping[str, Any]
    """What must be the same for them to be of use."""

    def read(self, number: int) -> dict[str, Seen] | None:
        """Arm -> what it did on an image, None if that is not there. Raises InputError as `read_tensors`."""
        path = self._path(number)
        return _arms(read_tensors(path, self.inputs)[0]) if path.is_file() else None

    def write(self, number: int, seen: Mapping[str, Seen]) -> None:
        """Keep what every arm did on an image. Raises InputError if there is no room."""
        write_tensors(self._path(number), _tensors(seen), self.inputs)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"


def _tensors(seen: Mapping[str, Seen]) -> dict[str, Tensor]:
    """Each under its arm, part, and where there are several its place and name."""
    arrays: dict[str, Floats] = {}
    for arm, (look, curves, without) in seen.items():
        arrays |= {f"{arm}/{part}": getattr(look, part) for part in ("margins", "reference", "other_fills")}
        arrays |= {f"{arm}/maps/{k}/{name}": values for k, (name, values) in enumerate(look.maps.items())}
        arrays |= {f"{arm}/curves/{question}": values for question, values in curves.items()}
        arrays |= {f"{arm}/without/{question}": values for question, values in without.items()}
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _arms(tensors: Mapping[str, Tensor]) -> dict[str, Seen]:
    parts: dict[str, dict[str, dict[str, Floats]]] = {}
    for name, tensor in tensors.items():
        arm, part, rest = (*name.split("/", 2), "")[:3]
        parts.setdefault(arm, {}).setdefault(part, {})[rest] = tensor.numpy()
    found = {}
    for arm, of in parts.items():
        places = sorted(of["maps"], key=lambda rest: int(rest.split("/")[0]))
        maps = {rest.split("/", 1)[1]: of["maps"][rest] for rest in places}
        look = Look(of["margins"][""], maps, of["reference"][""], of["other_fills"][""])
        curves, without = (
            {int(question): values for question, values in of.get(part, {}).items()} for part in ("curves", "without")
        )
        found[arm] = Seen(look, curves, without)
    return found
