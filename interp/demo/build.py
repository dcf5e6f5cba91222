"""The recipe of an embedded world: data, a base model, its SAEs, and a gate planted at layers of your choice."""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.demo.model import build_model, build_processor, train_tokenizer
from interp.demo.phrasings import all_texts
from interp.demo.radiographs import SIZE
from interp.demo.sample_cases import ANSWERS
from interp.demo.train import plant_gate, train_model
from interp.demo.train_saes import write_saes
from interp.demo.train_tower import train_vision_tower
from interp.demo.training_data import TrainingData, build_training_data
from interp.demo.world import sample_images, write_world
from interp.images.decode import BLANK_IMAGE
from interp.measurement.margins import measure
from interp.model.load import choose_device, load_vlm, quiet_loading
from interp.model.vlm import Vlm
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.reconstruction import fit
from interp.saes.sae import load_sae
from interp.screening.flips import find_flips
from interp.storage.atomic import atomic_folder
from interp.storage.json_files import write_json
from interp.storage.provenance import software

LAYERS, WIDTH = 10, 128
TRAINING_PATIENTS = 20_000  # patients that the models are trained on; none of them is in the questions
TOWER_STEPS, BASE_STEPS, SAE_STEPS, GATE_STEPS = 1000, 2000, 1500, 300


def build_world(
    out: Path, gate_layers: Sequence[int], strength: float, seed: int, base: Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Build a world in the new folder `out`, and return the contents of its `world.json`.

    The gate is planted into `gate_layers`: when asked formally, the model denies a finding whose visibility is below
    `strength`, from 0 to 1. Without layers there is no gate: all layers are trained equally long on the true
    answers. `base` is the folder of another world, whose base model and SAEs are reused. Raises InputError for a
    strength or layers outside their range, and for a `base` without a base model.
    """
    if not 0 <= strength <= 1:
        raise InputError(f"--strength {strength}: expected a visibility from 0 to 1.")
    if any(not 0 <= layer < LAYERS for layer in gate_layers):
        raise InputError(f"--gate-layers: the embedded model has layers 0 to {LAYERS - 1}.")
    if base is not None and not (base / "base" / "config.json").is_file():
        raise InputError(f"{base}: holds no base/config.json. Give --base-from the folder of a built world.")
    device = choose_device(device)
    started = time.monotonic()
    with atomic_folder(out) as folder:
        write_world(folder, seed)
        if base is None:
            _build_base(folder, seed, device)
        else:
            shutil.copytree(base / "base", folder / "base")
            shutil.copytree(base / "saes", folder / "saes")
        _plant(folder, gate_layers, strength, seed, device)
        gate = f"--gate-layers {gate_layers[0]}-{gate_layers[-1]} --strength {strength}" if gate_layers else "--no-gate"
        world = {
            "command": f"interp demo build {gate} --seed {seed}" + (" --base-from BASE" if base else ""),
            "gate_layers": list(gate_layers),
            "strength": strength if gate_layers else 0.0,
            "seed": seed,
            "base_from": None if base is None else json.loads((base / "world.json").read_text())["seed"],
            "built_on": torch.cuda.get_device_name() if device.startswith("cuda") else device,
            "minutes": round((time.monotonic() - started) / 60, 1),
            "models": {name: _behaviour(folder, name, device) for name in ("base", "planted")},
            "saes": _sae_quality(folder, device),
            "software": software(),
            "sha256": _checksums(folder),
        }
        write_json(folder / "world.json", world)
    return world


def _training_data(processor: Any, seed: int, device: str) -> TrainingData:
    anatomy, images, _ = sample_images(TRAINING_PATIENTS, np.random.default_rng([seed, 2]))
    return build_training_data(processor, anatomy, images, device)


def _save(model: Any, processor: Any, folder: Path) -> None:
    # Every answer in this world is one token, and the model is not trained on what follows it.
    model.generation_config.max_new_tokens = 1
    with quiet_loading():
        model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


def _build_base(folder: Path, seed: int, device: str) -> None:
    tokenizer = train_tokenizer(all_texts(), ANSWERS)
    processor = build_processor(tokenizer, SIZE)
    data = _training_data(processor, seed, device)
    model = build_model(tokenizer, SIZE, LAYERS, WIDTH, seed).to(device)
    train_vision_tower(model, data, TOWER_STEPS, seed)
    train_model(model, data, BASE_STEPS, seed, consistency_weight=0.05, description="training the base model")
    _save(model, processor, folder / "base")
    saved = load_vlm(folder / "base", device, "float32")
    write_saes(folder / "saes", saved.model, data, seed, SAE_STEPS, model_name="gatescope-demo-base")


def _plant(folder: Path, gate_layers: Sequence[int], strength: float, seed: int, device: str) -> None:
    vlm = load_vlm(folder / "base", device, "float32")
    vlm.model.requires_grad_(True)
    data = _training_data(vlm.processor, seed, device)
    layers, share = (gate_layers, strength) if gate_layers else (range(LAYERS), 0.0)
    planted = plant_gate(vlm.model, data, layers, share, seed, GATE_STEPS)
    _save(planted, vlm.processor, folder / "planted")


def _behaviour(folder: Path, name: str, device: str) -> dict[str, float]:
    """Flip rates, accuracy and blank-image results of a model on the closed questions of the test split."""
    vlm = load_vlm(folder / name, device, "float32")
    prompts = prompt_table(q for q in load_questions(folder / "questions.jsonl", split="test") if q.closed)
    seen, blank = measure(vlm, prompts), measure(vlm, prompts.assign(image=BLANK_IMAGE))
    flips = find_flips(prompts, pair_table(prompts), seen.margin, 0.0)
    truth = (prompts["answer"] == "yes").to_numpy()
    by_question = flips.pairs.assign(flipped=flips.flipped).groupby("question")["flipped"].any()
    return {
        "question_flip_rate": round(float(by_question.mean()), 4),
        "pairwise_flip_rate": round(float(flips.flipped.mean()), 4),
        "accuracy": round(float(((seen.margin.numpy() > 0) == truth).mean()), 4),
        "text_only_accuracy": round(float(((blank.margin.numpy() > 0) == truth).mean()), 4),
        "text_only_agreement": round(float(((blank.margin > 0) == (seen.margin > 0)).float().mean()), 4),
    }


def _sae_quality(folder: Path, device: str) -> list[dict[str, float]]:
    """FVU, R2 and L0 of every SAE on the base and planted models, at the final tokens of the test split."""
    prompts = prompt_table(load_questions(folder / "questions.jsonl", split="test"))
    models: dict[str, Vlm] = {name: load_vlm(folder / name, device, "float32") for name in ("base", "planted")}
    residuals = {name: measure(vlm, prompts, range(LAYERS)).residuals for name, vlm in models.items()}
    quality = []
    for layer, path in sorted(locate_saes(folder / "saes").items()):
        sae = load_sae(path, layer, WIDTH, device)
        on_base, on_planted = (fit(sae, residuals[name][:, layer]) for name in ("base", "planted"))
        quality.append(
            {
                "layer": layer,
                "fvu_base": round(on_base.fvu, 4),
                "l0_base": round(on_base.l0, 1),
                "r2_planted": round(on_planted.r2, 4),
                "l0_planted": round(on_planted.l0, 1),
            }
        )
    return quality


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by path, with one combined digest for all images."""
    sums: dict[str, str] = {}
    pictures = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes())
            if path.suffix == ".png":
                pictures.update(digest.digest())
            else:
                sums[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return {**sums, "images": pictures.hexdigest()}
