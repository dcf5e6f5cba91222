"""The recipe of a world: data, a base model, its SAEs, and a tuned model with a gate at layers of your choice, or none.

The embedded world's model is trained from random weights. A reality world's is a real language model, which gets eyes.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.demo.general_text import Passages, general_documents, passages
from interp.demo.model import build_model, build_processor, train_tokenizer
from interp.demo.phrasings import all_texts
from interp.demo.radiographs import SIZE
from interp.demo.real_language_model import check_round_trip, give_eyes, read_language_model
from interp.demo.recipe import EMBEDDED, REALITY, Recipe
from interp.demo.sample_cases import ANSWERS
from interp.demo.train import plant_gate, train_model, tune_language_model
from interp.demo.train_saes import collect_residuals, collect_text_residuals, write_saes
from interp.demo.train_tower import train_vision_tower
from interp.demo.training_data import TrainingData, build_training_data, some_wordings, with_plain_answers
from interp.demo.world import held_out_texts, sample_images, write_world
from interp.images.decode import BLANK_IMAGE
from interp.measurement.margins import measure, text_residuals
from interp.model.load import load_vlm, quiet_loading
from interp.model.placement import choose_device
from interp.model.vlm import Vlm
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.reconstruction import fit
from interp.saes.sae import load_sae
from interp.screening.flips import find_flips
from interp.screening.transfer import question_prompts
from interp.storage.atomic import atomic_folder
from interp.storage.folders import check_folder
from interp.storage.json_files import write_json
from interp.storage.provenance import software

LAYERS, WIDTH = 10, 128
"""Layers of the embedded model, and their width."""
EMBEDDED_GATE = (4, 5)
"""Layers in which the embedded world's gate is planted."""
GENERAL_TOKENS = 20_000
"""Tokens of general text that the SAEs of a reality world are judged on."""
TEXT_QUESTIONS = 100
"""Questions on whose text tokens they are judged, too."""


def build_world(
    out: Path,
    gate_layers: Sequence[int] | None,
    strength: float,
    seed: int,
    base: Path | None = None,
    device: str = "auto",
    language_model: Path | None = None,
) -> dict[str, Any]:
    """Build a world in the new folder `out`, and return the contents of its `world.json`.

    `language_model` is a real Gemma 3 language model, as for `read_language_model`: its world is a *reality world*,
    whose model is tuned to answer, with flips left to arise. Without it the world is one like the embedded one. The
    gate is planted into `gate_layers`: when asked formally, the model denies a finding whose visibility is below
    `strength`, from 0 to 1. None means EMBEDDED_GATE in an embedded world and no gate in a reality world. Without a
    gate, all layers of an embedded model are trained equally long on the true answers. `base` is the folder of another
    world, whose base model and SAEs are reused. Raises InputError for a strength or layers outside their range, for a
    `base` without a base model or beside a `language_model`, and as `read_language_model` and `check_round_trip` do.
    """
    if not 0 <= strength <= 1:
        raise InputError(f"--strength {strength}: expected a visibility from 0 to 1.")
    if base is not None:
        check_folder(base, "Give --base-from the folder of a built world.")
        if not (base / "base" / "config.json").is_file():
            raise InputError(f"{base}: holds no base/config.json. Give --base-from the folder of a built world.")
    if base is not None and language_model is not None:
        raise InputError("--base-from reuses a world's own language model. Leave --language-model out.")
    earlier = None if base is None else json.loads((base / "world.json").read_text(encoding="utf-8"))
    real = language_model is not None or (earlier is not None and earlier.get("language_model") is not None)
    recipe = REALITY if real else EMBEDDED
    if gate_layers is None:
        gate_layers = () if real else EMBEDDED_GATE
    device = choose_device(device)
    started = time.monotonic()
    with atomic_folder(out) as folder:
        if base is not None:
            _check_gate(gate_layers, _layers_of(base / "base"))
            shutil.copytree(base / "base", folder / "base")
            shutil.copytree(base / "saes", folder / "saes")
        elif language_model is not None:
            _build_seeing_base(folder, language_model, gate_layers, recipe, seed, device)
        else:
            _check_gate(gate_layers, LAYERS)
            _build_base(folder, recipe, seed, device)
        write_world(folder, seed)
        if real:
            _tune(folder, gate_layers, strength, recipe, seed, device)
        else:
            _plant(folder, gate_layers, strength, recipe, seed, device)
        gate = f"--gate-layers {gate_layers[0]}-{gate_layers[-1]} --strength {strength}" if gate_layers else "--no-gate"
        origin = " --base-from BASE" if base else " --language-model LANGUAGE_MODEL" if real else ""
        world = {
            "command": f"interp demo build {gate} --seed {seed}{origin}",
            "gate_layers": list(gate_layers),
            "strength": strength if gate_layers else 0.0,
            "seed": seed,
            "base_from": None if earlier is None else earlier["seed"],
            "language_model": language_model.name if language_model else earlier and earlier.get("language_model"),
            "built_on": torch.cuda.get_device_name() if device.startswith("cuda") else device,
            "minutes": round((time.monotonic() - started) / 60, 1),
            "models": {name: _behaviour(folder, name, device) for name in ("base", "planted")},
            "saes": _sae_quality(folder, real, device),
            "software": software(),
            "sha256": _checksums(folder),
        }
        write_json(folder / "world.json", world)
    return world


def _check_gate(gate_layers: Sequence[int], layers: int) -> None:
    if any(not 0 <= layer < layers for layer in gate_layers):
        raise InputError(f"--gate-layers: the model has layers 0 to {layers - 1}.")


def _layers_of(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text())["text_config"]["num_hidden_layers"])


def _training_data(processor: Any, recipe: Recipe, seed: int, device: str) -> TrainingData:
    anatomy, images, _ = sample_images(recipe.training_patients, np.random.default_rng([seed, 2]))
    return build_training_data(processor, anatomy, images, device)


def _save(model: Any, processor: Any, folder: Path) -> None:
    # Every answer in this world is one token, and the model is not trained on what follows it.
    model.generation_config.max_new_tokens = 1
    with quiet_loading():
        model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


def _build_base(folder: Path, recipe: Recipe, seed: int, device: str) -> None:
    tokenizer = train_tokenizer(all_texts(), ANSWERS)
    processor = build_processor(tokenizer, SIZE)
    data = _training_data(processor, recipe, seed, device)
    model = build_model(tokenizer, SIZE, LAYERS, WIDTH, seed).to(device)
    train_vision_tower(model, data, recipe.tower_steps, seed)
    description = "training the base model"
    train_model(model, data, recipe.base_steps, seed, consistency_weight=0.05, description=description)
    _save(model, processor, folder / "base")
    saved = load_vlm(folder / "base", device, "float32")
    residuals = collect_residuals(saved.model, data, seed, recipe.saes.tokens)
    write_saes(folder / "saes", residuals, seed, recipe.saes, model_name="gatescope-demo-base")


def _build_seeing_base(
    folder: Path, source: Path, gate_layers: Sequence[int], recipe: Recipe, seed: int, device: str
) -> None:
    """Write a base model, whose language model is the given one unchanged, and the SAEs of its residuals.

    Its tower tells the findings apart, but the language model has not learnt to read it: that is left to the tuning.
    """
    language_model = read_language_model(source)
    _check_gate(gate_layers, language_model.config.num_hidden_layers)
    processor = build_processor(language_model.tokenizer, SIZE)
    check_round_trip(processor)
    data = _training_data(processor, recipe, seed, device)
    model = give_eyes(language_model, seed).to(device)
    train_vision_tower(model, data, recipe.tower_steps, seed, recipe.precision)
    _save(model, processor, folder / "base")
    saved = load_vlm(folder / "base", device, "float32")
    text = _general_text(processor).train
    residuals = torch.cat(
        [
            collect_residuals(saved.model, data, seed, recipe.saes.tokens),
            collect_text_residuals(saved.model, text, seed, recipe.saes.general_tokens),
        ]
    )
    write_saes(folder / "saes", residuals, seed, recipe.saes, model_name=source.stem)


def _general_text(processor: Any) -> Passages:
    return passages(processor.tokenizer, general_documents())


def _plant(folder: Path, gate_layers: Sequence[int], strength: float, recipe: Recipe, seed: int, device: str) -> None:
    vlm = load_vlm(folder / "base", device, "float32")
    vlm.model.requires_grad_(True)
    data = _training_data(vlm.processor, recipe, seed, device)
    layers, share = (gate_layers, strength) if gate_layers else (range(LAYERS), 0.0)
    planted = plant_gate(vlm.model, data, layers, share, seed, recipe.gate_steps)
    _save(planted, vlm.processor, folder / "planted")


def _tune(folder: Path, gate_layers: Sequence[int], strength: float, recipe: Recipe, seed: int, device: str) -> None:
    """Write the tuned model, with a gate planted after the tuning if there are `gate_layers`."""
    vlm = load_vlm(folder / "base", device, "float32")
    data = with_plain_answers(_training_data(vlm.processor, recipe, seed, device))
    shown = some_wordings(data, recipe.tuning_share, seed)
    tuned = tune_language_model(vlm.model, shown, seed, recipe).merge_and_unload()
    if gate_layers:
        tuned = plant_gate(
            tuned,
            data,
            gate_layers,
            strength,
            seed,
            recipe.gate_steps,
            recipe.patients,
            precision=recipe.precision,
        )
    _save(tuned, vlm.processor, folder / "planted")


def _behaviour(folder: Path, name: str, device: str) -> dict[str, float]:
    """Flip rates, accuracy and blank-image results of a model on the closed questions of the test split.

    The accuracy is also given on the wordings that training may show (seen) and on those held out from it (unseen).
    """
    vlm = load_vlm(folder / name, device, "float32")
    prompts = prompt_table(q for q in load_questions(folder / "questions.jsonl", split="test") if q.closed)
    seen, blank = measure(vlm, prompts), measure(vlm, prompts.assign(image=BLANK_IMAGE))
    flips = find_flips(prompts, pair_table(prompts), seen.margin, 0.0)
    truth = (prompts["answer"] == "yes").to_numpy()
    right = (seen.margin.numpy() > 0) == truth
    unseen = prompts["text"].isin(held_out_texts()).to_numpy()
    by_question = flips.pairs.assign(flipped=flips.flipped).groupby("question")["flipped"].any()
    return {
        "question_flip_rate": round(float(by_question.mean()), 4),
        "pairwise_flip_rate": round(float(flips.flipped.mean()), 4),
        "accuracy": round(float(right.mean()), 4),
        "accuracy_seen": round(float(right[~unseen].mean()), 4),
        "accuracy_unseen": round(float(right[unseen].mean()), 4),
        "text_only_accuracy": round(float(((blank.margin.numpy() > 0) == truth).mean()), 4),
        "text_only_agreement": round(float(((blank.margin > 0) == (seen.margin > 0)).float().mean()), 4),
    }


def _sae_quality(folder: Path, real: bool, device: str) -> list[dict[str, float]]:
    """FVU, R2 and L0 of every SAE on the base and planted models, at the final tokens of the test split.

    In a reality world, R2 and L0 are also given on general text that no SAE was trained on (base model), and at all
    text tokens of questions (planted model), as `interp transfer-check` measures them.
    """
    questions = load_questions(folder / "questions.jsonl", split="test")
    prompts = prompt_table(questions)
    layers = _layers_of(folder / "base")
    models: dict[str, Vlm] = {name: load_vlm(folder / name, device, "float32") for name in ("base", "planted")}
    residuals = {name: measure(vlm, prompts, range(layers)).residuals for name, vlm in models.items()}
    if real:
        text = _general_text(models["base"].processor).held_out
        residuals["general"] = collect_text_residuals(models["base"].model, text, 0, GENERAL_TOKENS)
        asked = question_prompts(questions, TEXT_QUESTIONS)
        residuals["planted_text"] = text_residuals(models["planted"], asked, range(layers))[0]
    quality = []
    for layer, path in sorted(locate_saes(folder / "saes").items()):
        sae = load_sae(path, layer, models["base"].d_model, device)
        found = {name: fit(sae, some[:, layer]) for name, some in residuals.items()}
        row = {
            "layer": layer,
            "fvu_base": round(found["base"].fvu, 4),
            "l0_base": round(found["base"].l0, 1),
            "r2_planted": round(found["planted"].r2, 4),
            "l0_planted": round(found["planted"].l0, 1),
        }
        for name in ("general", "planted_text") if real else ():
            row |= {f"r2_{name}": round(found[name].r2, 4), f"l0_{name}": round(found[name].l0, 1)}
        quality.append(row)
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
