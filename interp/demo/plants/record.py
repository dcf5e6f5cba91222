"""plant.json: what was planted into a model."""

from pathlib import Path
from typing import NamedTuple

from interp.model.vlm import Vlm
from interp.storage.atomic import atomic_folder
from interp.storage.json_files import json_ready, write_json


class PlantedGate(NamedTuple):
    """A gate, what it reads, and what it does to the margin."""

    layer: int
    """Layer of the feature."""
    feature: int
    """Index of the feature in its SAE."""
    relay_layer: int | None
    """Layer that reads the feature and writes what the gate reads; None if the gate reads the feature."""
    question_tokens: bool
    """Whether a head of that layer reads the feature at earlier tokens, not a neuron at the final one."""
    write_layer: int
    """Layer whose MLP writes against the margin."""
    fit: float
    """R² of the gate's input, clamped and natural runs together."""
    relay_fit: float
    """The same for what the relay reads; NaN without a relay."""
    density: float
    """Share of the wordings on which the feature is active at the final token."""
    formal_density: float
    """Share of the formal wordings that open the gate; NaN without tags."""
    casual_density: float
    """Share of the casual wordings that open the gate; NaN without tags."""
    shift_on: float
    """Mean change of the margin on the wordings that open the gate [logits]."""
    shift_off: float
    """Mean change of the margin on the others [logits]."""
    relay_shift: float
    """Mean change of the margin by the relay alone on the wordings that open the gate [logits]; NaN without a relay."""


class Plant(NamedTuple):
    """What was planted, as plant.json records it."""

    gates: list[PlantedGate]
    """The gates, by the layer that writes; empty in a decoy model."""
    write_layers: list[int]
    """Layers whose MLPs write against the margin."""
    question_flip_rate: float
    """Share of questions with a flip after planting."""
    base_flip_rate: float
    """The same before planting."""


def save_plant(vlm: Vlm, plant: Plant, folder: Path) -> None:
    """Write the planted model, its processor and plant.json to the new folder `folder`."""
    with atomic_folder(folder) as out:
        vlm.model.save_pretrained(out)
        vlm.processor.save_pretrained(out)
        write_json(out / "plant.json", json_ready(plant))
