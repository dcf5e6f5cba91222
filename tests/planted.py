"""Plants worlds quickly: the shipped recipe with fewer, smaller steps, starting from the base model of a world."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interp.demo.train import plant_gate
from interp.demo.training_data import build_training_data
from interp.demo.world import sample_images, write_world
from interp.model.load import load_vlm, quiet_loading
from interp.model.vlm import Vlm


def plant_world(
    folder: Path,
    base: Path,
    gate_layers: Sequence[int],
    strength: float,
    seed: int,
    steps: int = 120,
    patients: int = 8,
    pool: int = 1000,
) -> Path:
    """Write `questions.jsonl`, `images/` and a model with a gate in `gate_layers` (`planted/`) into `folder`.

    The model starts from `base`/base. Without layers, all layers are trained equally long on the true answers. Returns
    `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_world(folder, seed)
    vlm: Vlm = load_vlm(base / "base", "auto", "float32")
    vlm.model.requires_grad_(True)
    anatomy, images, _ = sample_images(pool, np.random.default_rng([seed, 2]))
    data = build_training_data(vlm.processor, anatomy, images, str(vlm.device))
    layers, share = (gate_layers, strength) if gate_layers else (range(vlm.n_layers), 0.0)
    planted = plant_gate(vlm.model, data, layers, share, seed, steps, patients)
    with quiet_loading():
        planted.save_pretrained(folder / "planted")
    vlm.processor.save_pretrained(folder / "planted")
    return folder
