"""Time screening, from image files and questions to margins and SAE activations of all layers, in ours and other ways.

    python tests/benchmarks/screening.py
    python tests/benchmarks/screening.py --shape medgemma-4b --images 64 --prompts-an-image 12

Ours runs all prompts and reads the images again each time; the others run on a sample, as their time is proportional.
All must find the same. The floor is the time of the counted operations (tower once per image, every position once,
output layer and SAEs once per prompt) at the speed of a large matrix product on this device. medgemma-4b needs a GPU.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from loops import Found, Screen, nnsight_traces, plain_batches, usual_loop
from ready import ready
from shape import (
    MIMIC,
    PIXELS,
    SHAPES,
    build,
    counts_of,
    distinct_positions,
    machine,
    matmul_rate,
    memory_rate,
    operations,
    questions,
    report,
    timed,
)

from interp.measurement.margins import measure, pack_prompts
from interp.measurement.residual_store import empty_residuals
from interp.model.vlm import Vlm
from interp.questions.tables import prompt_table
from interp.runtime.memory import memory_left
from interp.saes.sae import Sae

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}
"""Dtype -> allowed differences of margins [logits], of activations, and of the share that fires in one way only."""
BLUR = 4
"""Also allowed: this many times the difference that the batch size makes in plain transformers."""


def ours(vlm: Vlm, saes: Sequence[Sae], prompts: pd.DataFrame, kept: np.ndarray) -> Found:
    """Margins of all prompts and activations of those at `kept`; the activations of all are computed."""
    vlm.image_tokens.clear()
    layers = [sae.layer for sae in saes]
    residuals = empty_residuals(layers, len(prompts), vlm.d_model, vlm.model.dtype, memory_left(vlm.device).host // 2)
    margin = measure(vlm, prompts, layers, into=residuals.values.transpose(0, 1)).margin
    activations = [sae.encode(residuals.after(sae.layer).to(vlm.device))[kept] for sae in saes]
    return Found(margin, torch.stack(activations, dim=1))


def floor(vlm: Vlm, saes: Sequence[Sae], prompts: pd.DataFrame) -> tuple[float, dict[str, float]]:
    """Time of the necessary operations on these prompts [s], and its parts."""
    cost, images = operations(vlm), prompts["image"].tolist()
    positions = distinct_positions(pack_prompts(vlm, prompts), images)
    encoders = sum(2 * sae.w_enc.numel() for sae in saes)
    parts = {
        "tower_tflop": len(set(images)) * cost.image / 1e12,
        "decoder_tflop": positions * cost.position / 1e12,
        "logits_and_sae_tflop": len(prompts) * (cost.logits + encoders) / 1e12,
    }
    rate = matmul_rate(vlm.device, vlm.model.dtype)
    read = sum(p.numel() * p.element_size() for p in vlm.model.parameters())
    read += sum(sae.w_enc.numel() * sae.w_enc.element_size() for sae in saes)
    seconds = sum(parts.values()) * 1e12 / rate
    return seconds, {
        "positions": positions,
        **parts,
        "matmul_tflop_per_s": rate / 1e12,
        "floor_s": seconds,
        "weights_read_once_s": read / memory_rate(vlm.device),
    }


def differences(a: Found, b: Found) -> dict[str, float]:
    """The differences between two ways on the same prompts.

    `margin_diff` is the largest difference of margins [logits]; `activation_diff` the largest difference of activations
    that are nonzero in both, relative to the strongest of that prompt and layer; `fires_in_one` the share of active
    features that are active in only one way.
    """
    fires_a, fires_b = a.activations > 0, b.activations > 0
    strongest = b.activations.amax(-1, keepdim=True).clamp(min=1e-9)
    relative = ((a.activations - b.activations).abs() / strongest)[fires_a & fires_b]
    return {
        "margin_diff": float((a.margin - b.margin).abs().max()),
        "activation_diff": float(relative.max()),
        "fires_in_one": float((fires_a ^ fires_b).sum() / (fires_a | fires_b).sum()),
    }


def main() -> None:
    """Time all ways on the same prompts, and print the numbers as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--prompts-an-image", type=int, default=12)
    parser.add_argument("--mimic", action="store_true", help="as many images and questions as PSF-Med's MIMIC part")
    parser.add_argument("--side", type=int, help="pixels of the image files, by default those of the tower")
    parser.add_argument("--sample", type=int, default=96, help="prompts of the batched ways; the usual loop takes 1/8")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32], help="prompts a batch of plain transformers")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    vlm, saes = build(options.shape)
    counts = MIMIC if options.mimic else counts_of(options.images, options.prompts_an_image)
    with tempfile.TemporaryDirectory() as folder:
        prompts = prompt_table(questions(counts, Path(folder), options.side or PIXELS[options.shape]))
        floor_s, facts = floor(vlm, saes, prompts)
        kept = np.unique(np.linspace(0, len(prompts) - 1, min(options.sample, len(prompts))).astype(int))
        sample = prompts.iloc[kept]
        found: dict[str, Found] = {}
        rows: dict[str, dict[str, float]] = {}

        def run(name: str, screen: Screen, asked: pd.DataFrame) -> None:
            seconds, found[name] = timed(lambda: screen(asked), options.repeats)
            rows[name] = {"prompts": len(asked), "seconds": seconds, "prompts_per_s": len(asked) / seconds}
            print(f"{name}: {len(asked) / seconds:.1f} prompts/s", file=sys.stderr, flush=True)

        with ready(vlm):
            run("ours", lambda asked: ours(vlm, saes, asked, kept), prompts)
        found["ours"] = Found(found["ours"].margin[kept], found["ours"].activations)
        for size in options.batches:
            run(f"transformers, batches of {size}", plain_batches(vlm, saes, size), sample)
        best = max(options.batches, key=lambda size: rows[f"transformers, batches of {size}"]["prompts_per_s"])
        try:
            run(f"nnsight, traces of {best}", nnsight_traces(vlm, saes, best), sample)
        except ImportError as missing:
            print(f"nnsight left out: {missing}")
        every = sample[::8]
        run("TransformerLens and sae-lens, one by one", usual_loop(vlm, saes), every)

    plain = found[f"transformers, batches of {options.batches[0]}"]
    blur = differences(found[f"transformers, batches of {options.batches[-1]}"], plain)
    for name, other in found.items():
        step = 8 if len(other.margin) < len(sample) else 1
        mine = Found(found["ours"].margin[::step], found["ours"].activations[::step])
        if name != "ours":
            rows[name] |= differences(other, mine)
            rows[name]["ours_is_faster"] = rows["ours"]["prompts_per_s"] / rows[name]["prompts_per_s"]
    rows["floor"] = {"prompts": len(prompts), "seconds": floor_s, "prompts_per_s": len(prompts) / floor_s}
    rows["floor"]["ours_is_faster"] = floor_s / rows["ours"]["seconds"]
    shown = {"shape": options.shape, **machine(vlm), **counts._asdict(), **facts}
    shown |= {"share_of_floor": rows["floor"]["ours_is_faster"], "margin_spread": float(found["ours"].margin.std())}
    shown |= {f"batch_size_{name}": value for name, value in blur.items()}
    report(shown, pd.DataFrame(rows.values(), index=pd.Index(rows, name="way")))
    bounds = {name: max(TOLERANCE[shown["dtype"]], BLUR * value) for name, value in blur.items()}
    if apart := [name for name, row in rows.items() if any(row.get(key, 0) > bounds[key] for key in bounds)]:
        sys.exit(f"not the same as ours: {', '.join(apart)}")


if __name__ == "__main__":
    main()
