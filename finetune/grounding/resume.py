"""The observations of each image on disk, from which an interrupted study resumes; they hold numbers alone."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from finetune.grounding.map_scores import Floats
from finetune.grounding.one_image import WordingMaps
from interp.storage.checkpoint import Checkpoint


class ImageObservation(NamedTuple):
    """The observations of one arm on one image."""

    wordings: WordingMaps
    """Margins and maps of all wordings that are asked about the image."""
    curves: Mapping[int, Floats]
    """Question -> margins of deletion and insertion (`finetune.grounding.all_images.ArmObservations`)."""
    without: Mapping[int, Floats]
    """Question -> margins with its boxes filled, and with other places filled."""


def read_image(checkpoint: Checkpoint, number: int) -> dict[str, ImageObservation] | None:
    """Arm -> observation of an image, None if the checkpoint has none. Raises InputError as `Checkpoint.read` does."""
    tensors = checkpoint.read(_name(number))
    return None if tensors is None else _arms(tensors)


def write_image(checkpoint: Checkpoint, number: int, of_arm: Mapping[str, ImageObservation]) -> None:
    """Write every arm's observation of an image. Raises InputError if the disk is full."""
    checkpoint.write(_name(number), _tensors(of_arm))


def _name(number: int) -> str:
    return f"{number:06d}"


def _tensors(of_arm: Mapping[str, ImageObservation]) -> dict[str, Tensor]:
    """Name each array by its arm and part, and by its number and name if the part has several arrays."""
    arrays: dict[str, Floats] = {}
    for arm, (wordings, curves, without) in of_arm.items():
        arrays |= {f"{arm}/{part}": getattr(wordings, part) for part in ("margins", "reference", "other_fills")}
        arrays |= {f"{arm}/maps/{k}/{name}": values for k, (name, values) in enumerate(wordings.maps.items())}
        arrays |= {f"{arm}/curves/{question}": values for question, values in curves.items()}
        arrays |= {f"{arm}/without/{question}": values for question, values in without.items()}
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _arms(tensors: Mapping[str, Tensor]) -> dict[str, ImageObservation]:
    """The inverse of `_tensors`."""
    parts: dict[str, dict[str, dict[str, Floats]]] = {}
    for name, tensor in tensors.items():
        arm, part, rest = (*name.split("/", 2), "")[:3]
        parts.setdefault(arm, {}).setdefault(part, {})[rest] = tensor.numpy()
    found = {}
    for arm, of in parts.items():
        places = sorted(of["maps"], key=lambda rest: int(rest.split("/")[0]))
        maps = {rest.split("/", 1)[1]: of["maps"][rest] for rest in places}
        wordings = WordingMaps(of["margins"][""], maps, of["reference"][""], of["other_fills"][""])
        curves, without = (
            {int(question): values for question, values in of.get(part, {}).items()} for part in ("curves", "without")
        )
        found[arm] = ImageObservation(wordings, curves, without)
    return found
