"""Does every command finish on a small GPU? Peak memory and time with the allocator held to 16, 24 and 40 GiB.

    python tests/benchmarks/caps.py --shape medgemma-4b --caps 16 24 40 --out caps.csv
    python tests/benchmarks/caps.py --shape medgemma-4b --caps 8 12 --load-in 4bit --out caps.csv
    python tests/benchmarks/caps.py --shape medgemma-4b --caps 24 --dtype float32 --out caps.csv
    python tests/benchmarks/caps.py --shape medgemma-4b --quantization --out quantization.csv

Each cap is a process of its own that loads the model for every command, as a user would with `--max-memory`, and takes
no more of the GPU than the cap (`torch.cuda.set_per_process_memory_fraction`). Rows are written as they finish; a
command that does not fit has its message instead of a peak. Several processes share a large GPU, so their times are
upper bounds. `--quantization` compares 8-bit, 4-bit and float32 weights with bfloat16 on the same prompts instead.
medgemma-4b has random weights, written into `--folder` if they are missing (8.6 GB, and 5.7 GB of SAEs).
"""

import argparse
import csv
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from true_shape import write_model, write_saes

from finetune.evaluation.run import evaluate_saved
from finetune.evaluation.settings import EvaluationSettings
from finetune.grounding.settings import GroundingSettings
from finetune.grounding.study import study_grounding
from finetune.lora.settings import TrainSettings
from finetune.training.run import train_and_evaluate
from interp.cli.transfer_check import PROMPTS
from interp.feature.study import study_feature
from interp.measurement.margins import measure
from interp.model.doctor import PUBLISHED
from interp.model.memory_jobs import Job, grounding, measuring, searching, training
from interp.model.memory_model import Format
from interp.model.placement import choose_dtype
from interp.model.shape import shape_of_folder
from interp.model.spec import ModelSpec
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.spec import DataSpec
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError, first_line
from interp.runtime.memory import GIB
from interp.saes.locate import locate_saes
from interp.screening.transfer import LIMIT, question_prompts, text_prompts, transfer_check
from interp.search.find import find_features
from interp.search.settings import FindSettings

COLUMNS = (
    "command",
    "cap_gib",
    "load_in",
    "dtype",
    "seconds",
    "peak_gib",
    "reserved_gib",
    "least_gib",
    "wanted_gib",
    "result",
)
COMMANDS = ("evaluate", "finetune", "find-features", "test-feature", "grounding", "transfer-check")
"""The commands, in the order in which they are tried."""


def inputs(shape: str, folder: Path) -> tuple[Path, Path, list[int]]:
    """Folders of model and SAEs, and the layers to train; random ones are written if they are missing."""
    if shape == "tiny":
        return WORLD / "planted", WORLD / "saes", [4, 5]
    model, saes = folder / "medgemma-4b-it", folder / "gemma-scope-2-4b-it"
    if not model.is_dir():
        prompts = prompt_table([q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed][:20])
        write_saes(saes, write_model(model, prompts), prompts)
        torch.cuda.empty_cache()
    return model, saes, list(PUBLISHED)


def jobs(saes: Path, layers: Sequence[int]) -> dict[str, Job]:
    """What the memory model says of each command."""
    n = len(locate_saes(saes))
    return {
        "evaluate": measuring(),
        "finetune": training(layers, TrainSettings().rank, TrainSettings().batch_size),
        "find-features": searching(n),
        "test-feature": searching(1),
        "grounding": grounding(),
        "transfer-check": measuring(answers=False, captured=n, sae=True),
    }


def text_kinds(questions: int) -> dict[str, pd.DataFrame]:
    """The prompts of `interp transfer-check`."""
    asked = load_questions(WORLD / "questions.jsonl", split="train")[:questions]
    kinds = {name: text_prompts(PROMPTS / f"{name}.txt", LIMIT) for name in ("medical", "general")}
    return {"questions": question_prompts(asked, LIMIT), **kinds}


def commands(
    spec: ModelSpec, saes: Path, layers: Sequence[int], questions: int, out: Path
) -> dict[str, Callable[[], Any]]:
    """The commands, as the functions that they call."""
    asked = load_questions(WORLD / "questions.jsonl", split="train")[:questions]
    data, layer = DataSpec(limit=questions), layers[0]

    def search() -> Any:
        # The margins of a random model are close together.
        vlm = spec.load(job=searching(len(locate_saes(saes))))
        settings = FindSettings(bank_margin=0.0)
        return find_features(vlm, saes, asked, settings=settings, max_memory=spec.max_memory).artifact.data.flip_bank

    return {
        "evaluate": lambda: evaluate_saved([], data, spec, EvaluationSettings(), clamps=[f"{layer}:1"], sae_of=saes),
        "test-feature": lambda: study_feature(spec.load(job=searching(1)), saes, asked, f"{layer}:1"),
        "finetune": lambda: train_and_evaluate(spec, data, out, TrainSettings(epochs=1), layers=layers),
        "grounding": lambda: study_grounding(None, data, spec, GroundingSettings(limit=1)),
        "transfer-check": lambda: transfer_check(spec.load(), saes, text_kinds(questions)),
        "find-features": search,
    }


def capped(options: argparse.Namespace, cap: float | None) -> None:
    """Run the commands one after the other within a cap, and append a row for each."""
    model, saes, layers = inputs(options.shape, options.folder)
    spec = ModelSpec(model, dtype=options.dtype, load_in=options.load_in, max_memory=cap)
    out = options.folder / f"adapter-{cap}-{options.load_in}-{time.time():.0f}"
    runs, expected = commands(spec, saes, layers, options.questions, out), jobs(saes, layers)
    shape, gpu = shape_of_folder(model), torch.cuda.is_available()
    format = Format(choose_dtype(options.dtype, torch.device("cuda" if gpu else "cpu")), options.load_in)
    for name in options.commands:
        started, result = time.monotonic(), "done"
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            found = runs[name]()
            result = f"{found} flips" if isinstance(found, int) else result
        except (InputError, torch.OutOfMemoryError) as error:
            result = f"{type(error).__name__}: {first_line(error)[:250]}"
        found = None
        gc.collect()
        need = expected[name].needs(shape, format)
        peaks = [torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()] if gpu else [0, 0]
        sizes = [round(size / GIB, 2) for size in (*peaks, need.least, need.wanted)]
        seconds = round(time.monotonic() - started, 1)
        append(options.out, COLUMNS, (name, cap or "", options.load_in or "", format.dtype, seconds, *sizes, result))


def quantization(options: argparse.Namespace) -> None:
    """Margins and flips of every format of weights against bfloat16 on a GPU, or float32 on a CPU."""
    model = options.model or inputs(options.shape, options.folder)[0]
    questions = load_questions(options.data, split="test" if options.model else "train")
    prompts = prompt_table([q for q in questions if q.closed][: options.questions])
    pairs = pair_table(prompts)
    columns = (
        "weights",
        "weights_gib",
        "seconds",
        "difference",
        "largest",
        "correlation",
        "answers",
        "flips",
        "same_flips",
    )
    plain, margins = ("bfloat16" if torch.cuda.is_available() else "float32"), {}
    kinds: dict[str, dict[str, Any]] = {
        plain: {"dtype": plain},
        "8bit": {"load_in": "8bit"},
        "4bit": {"load_in": "4bit"},
    }
    kinds |= {name: {"dtype": name} for name in ("float32", "bfloat16") if name != plain}
    for name, given in kinds.items():
        vlm = ModelSpec(model, **given).load()
        measure(vlm, prompts)
        started = time.monotonic()
        margin = margins[name] = measure(vlm, prompts).margin.double().numpy()
        seconds, size = time.monotonic() - started, vlm.model.get_memory_footprint() / GIB
        flips = {key: flipped(pairs, each) for key, each in ((plain, margins[plain]), (name, margin))}
        row = {
            "weights": name,
            "weights_gib": size,
            "seconds": seconds,
            "difference": np.abs(margin - margins[plain]).mean(),
            "largest": np.abs(margin - margins[plain]).max(),
            "correlation": np.corrcoef(margin, margins[plain])[0, 1],
            "answers": ((margin > 0) != (margins[plain] > 0)).mean(),
            "flips": flips[name].mean(),
            "same_flips": (flips[name] & flips[plain]).sum() / max(1, (flips[name] | flips[plain]).sum()),
        }
        append(options.out, columns, [f"{row[c]:.4g}" if isinstance(row[c], float) else row[c] for c in columns])
        del vlm
        gc.collect()


def flipped(pairs: Any, margin: np.ndarray) -> np.ndarray:
    """Which pairs flip."""
    return (margin[pairs["original"]] > 0) != (margin[pairs["paraphrase"]] > 0)


def append(out: Path, columns: Sequence[str], row: Sequence[Any]) -> None:
    """Append a row to a CSV file, which several processes may do, and print it."""
    new = not out.exists()
    with out.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(columns)
        writer.writerow(row)
    print(*row, flush=True)


def main() -> None:
    """Start a process for every cap, or compare quantizations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("tiny", "medgemma-4b"), default="tiny")
    parser.add_argument("--caps", type=float, nargs="*", default=[], help="GiB; none for no cap")
    parser.add_argument("--load-in", choices=("4bit", "8bit"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--commands", nargs="*", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/caps"))
    parser.add_argument("--out", type=Path, default=Path("caps.csv"))
    parser.add_argument("--quantization", action="store_true")
    parser.add_argument("--model", type=Path, help="a model to quantize instead of the shape's")
    parser.add_argument("--data", type=Path, default=WORLD / "questions.jsonl", help="its questions")
    parser.add_argument("--one", type=float, help="this cap alone, in this process; 0 for none")
    options = parser.parse_args()
    if options.quantization:
        quantization(options)
    elif options.one is not None:
        capped(options, options.one or None)
    else:
        inputs(options.shape, options.folder)
        started = [
            subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--one", str(cap)])
            for cap in options.caps or [0]
        ]
        for process in started:
            process.wait()


if __name__ == "__main__":
    main()
