"""How time and memory of `find-features` grow with the number of questions and of layers.

    python tests/benchmarks/growth.py
    python tests/benchmarks/growth.py --shape medgemma-4b --questions 100 --folder /tmp/growth

Each configuration runs in its own process, which makes a small search to warm up and then the measured ones. It reports
the median wall time, with images but without loading the model, and the peaks of resident memory and, on a GPU, of
allocated memory. medgemma-4b needs a GPU; its random SAEs, 168 MB per layer, are written into `--folder` if they are
missing. Linux only.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ready import ready
from shape import PIXELS, SHAPES, Counts, Shape, build, machine, medgemma_config, questions, report, synchronize
from stopwatch import forget_peak, resident

from interp.paths import WORLD
from interp.saes.locate import locate_saes
from interp.saes.sae import save_sae
from interp.search.find import find_features
from interp.search.settings import FindSettings

GROWTH = (1, 4, 16)
WARMING = 24
"""Number of questions of the warm-up search."""


def written_saes(shape: Shape, folder: Path, n_layers: int | None) -> dict[int, Path]:
    """SAE folders of `n_layers` evenly spaced layers, by default all; random SAEs are written if needed."""
    if shape == "tiny":
        return every(locate_saes(WORLD / "saes"), n_layers)
    folder.mkdir(parents=True, exist_ok=True)
    n = medgemma_config().text_config.num_hidden_layers
    wanted = every({layer: folder / f"layer_{layer}_width_16k_l0_small" for layer in range(n)}, n_layers)
    if missing := [layer for layer, path in wanted.items() if not path.is_dir()]:
        saes = build(shape)[1]
        for layer in missing:
            save_sae(saes[layer], wanted[layer], "google/gemma-3-4b-it")
        del saes
        torch.cuda.empty_cache()
    return wanted


def every(sae_of: dict[int, Path], n_layers: int | None) -> dict[int, Path]:
    """`n_layers` of these layers, evenly spaced."""
    n, layers = n_layers or len(sae_of), sorted(sae_of)
    # The middle of each of n parts, so that a single layer is neither the first, which reruns everything, nor the last.
    kept = [layers[(2 * k + 1) * len(layers) // (2 * n)] for k in range(n)]
    return {layer: sae_of[layer] for layer in kept}


def one(shape: Shape, asked: int, sae_of: dict[int, Path], repeats: int, max_memory: float | None) -> None:
    """Run one search `repeats` times and print its numbers as a line of JSON."""
    vlm = build(shape)[0]
    # The margins of a random model are close together.
    settings = FindSettings(bank_margin=0.0) if shape == "medgemma-4b" else FindSettings()
    with tempfile.TemporaryDirectory() as images, ready(vlm):
        few, many = (
            questions(Counts(-(-n // 3), n, 3 * n), Path(images) / str(n), PIXELS[shape]) for n in (WARMING, asked)
        )
        find_features(vlm, sae_of, few, settings=settings, max_memory=max_memory)
        gc.collect()
        before = resident("VmRSS")
        forget_peak()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        found = []
        for _ in range(repeats):
            vlm.image_tokens.clear()
            started = time.perf_counter()
            data = find_features(vlm, sae_of, many, settings=settings, max_memory=max_memory).artifact.data
            synchronize()
            found.append(time.perf_counter() - started)
    elapsed = statistics.median(found)
    row = {"questions": asked, "layers": len(sae_of), "pairs": data.pairs, "flips": data.flip_bank, "seconds": elapsed}
    row |= {"ms_a_pair": 1000 * elapsed / data.pairs, "resident_before_gib": before, "peak_gib": resident("VmHWM")}
    if torch.cuda.is_available():
        row["gpu_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps({"row": row, "machine": machine(vlm)}))


def main() -> None:
    """Run every configuration in its own process, and print the numbers as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--questions", type=int, default=100, help="the least number; each has three paraphrases")
    parser.add_argument("--layers", type=int, help="the greatest number, by default all; also half of it, and one")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/growth"), help="of medgemma-4b's SAEs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-memory", type=float, help="GiB that the search may take")
    parser.add_argument("--one", type=int, nargs=2, metavar=("QUESTIONS", "LAYERS"), help="this configuration alone")
    options = parser.parse_args()
    if options.one:
        sae_of = every(written_saes(options.shape, options.folder, options.layers), options.one[1])
        one(options.shape, options.one[0], sae_of, options.repeats, options.max_memory)
        return
    most = len(written_saes(options.shape, options.folder, options.layers))
    configurations = [(options.questions * times, most) for times in GROWTH]
    configurations += [(options.questions * GROWTH[1], layers) for layers in (1, most // 2)]
    printed = [run_apart([*sys.argv[1:], "--one", *map(str, configuration)]) for configuration in configurations]
    rows = pd.DataFrame([line["row"] for line in printed]).set_index(["questions", "layers"])
    report({"shape": options.shape, **printed[0]["machine"], "max_memory": options.max_memory}, rows)


def run_apart(arguments: list[str]) -> dict[str, Any]:
    """Run this script with these arguments and parse the last line that it prints."""
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
