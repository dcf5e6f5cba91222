"""Wall time and peak GPU memory at MedGemma-4B's true shape: random weights, random 16k SAEs for all 34 layers.

    python tests/benchmarks/true_shape.py --questions 120 --folder /tmp/true_shape

This writes a model of 8.6 GB and SAEs of 5.7 GB into `--folder`, in the layouts of the real ones, and runs the search
and the published training recipe (layers 15-19) on questions of the embedded world, with images scaled to 896 pixels.
The results mean nothing, because the weights are random. Needs a GPU.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch
from shape import random_medgemma, random_saes

from finetune.lora.settings import TrainSettings
from finetune.training.run import train_and_evaluate
from interp.cli.transfer_check import PROMPTS
from interp.model.load import load_vlm
from interp.model.spec import ModelSpec
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.spec import DataSpec
from interp.questions.tables import prompt_table
from interp.saes.locate import locate_saes
from interp.saes.sae import save_sae
from interp.screening.transfer import question_prompts, text_prompts, transfer_check
from interp.search.find import find_features
from interp.search.settings import FindSettings


def write_model(folder: Path, prompts: pd.DataFrame) -> Vlm:
    """Write a random model of MedGemma 4B's configuration whose margins on `prompts` have both signs."""
    vlm = random_medgemma(prompts)
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return vlm


def write_saes(folder: Path, vlm: Vlm, prompts: pd.DataFrame) -> None:
    """Write a random SAE of every layer, with thresholds set on `prompts`."""
    for sae in random_saes(vlm, prompts):
        save_sae(sae, folder / "resid_post_all" / sae.id, "google/gemma-3-4b-it")


def report(name: str, started: float) -> None:
    """Print the time since `started` and the peak of allocated GPU memory, and reset the peak."""
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(f"{name}: {time.monotonic() - started:.1f} s, peak {peak:.1f} GiB", flush=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def main() -> None:
    """Write model and SAEs if they are missing, then measure the search and the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/true_shape"))
    options = parser.parse_args()
    model, saes = options.folder / "medgemma-4b-it", options.folder / "gemma-scope-2-4b-it"
    started = time.monotonic()
    asked = load_questions(WORLD / "questions.jsonl", split="train")[: options.questions]
    if not model.is_dir():
        prompts = prompt_table([q for q in asked if q.closed])
        write_saes(saes, write_model(model, prompts), prompts[:20])
    report("writing model and SAEs", started)

    started = time.monotonic()
    vlm = load_vlm(model)
    report("loading the model", started)
    started = time.monotonic()
    found = find_features(vlm, locate_saes(saes), asked, settings=FindSettings(bank_margin=0.0)).artifact
    searched = f"{found.data.pairs} pairs, {found.data.flip_bank} flips, {vlm.n_layers} SAEs of 16k"
    report(f"find-features, {searched}", started)
    print(f"  {found.verdict}: {found.reason}")
    kinds = {"questions": question_prompts(asked, 100)}
    kinds |= {name: text_prompts(PROMPTS / f"{name}.txt", 100) for name in ("medical", "general")}
    started = time.monotonic()
    transfer_check(vlm, locate_saes(saes), kinds, range(vlm.n_layers))
    report(f"transfer-check, 3 x 100 prompts, {vlm.n_layers} SAEs of 16k", started)
    del vlm
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    train_and_evaluate(
        ModelSpec(model),
        DataSpec(limit=options.questions),
        options.folder / f"adapter-{int(time.time())}",
        TrainSettings(epochs=1),
        layers="15-19",
    )
    report(f"finetune, layers 15-19, 1 epoch of {options.questions} questions, evaluation included", started)


if __name__ == "__main__":
    main()
