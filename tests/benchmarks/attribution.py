"""Compare attribution with exact patching of every feature: rank correlation, recall of the exact top ten, and time.

    python tests/benchmarks/attribution.py

Every feature that changes in a flip of the embedded world's train split is patched exactly. It is also scored by the
gradient at the paraphrase, and by the mean gradient at 8 points on the path to the original.
"""

import argparse
import time

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from interp.causal.layer_patching import patch_effect, rerun_paraphrases
from interp.measurement.margins import measure
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.saes.locate import locate_saes
from interp.saes.sae import Sae, load_sae
from interp.screening.attribution import attribute, margin_gradients, path_gradients
from interp.screening.feature_stats import feature_delta
from interp.screening.flips import Flips, find_flips

STEPS, TOP = 8, 10


def exact(replay: SuffixRerun, flips: Flips, x: torch.Tensor, sae: Sae) -> NDArray[np.float64]:
    """Recovery by the patch of every feature, [d_sae]; 0 for features that change in no flip."""
    delta = feature_delta(sae, x, flips.pairs, torch.arange(sae.d_sae))
    found = np.zeros(sae.d_sae)
    sign, size = np.sign(flips.margin_before - flips.margin_after), np.abs(flips.margin_before - flips.margin_after)
    for part in delta.abs().amax(0).nonzero()[:, 0].split(64):
        patch = -delta[:, part, None] * sae.w_dec[part.to(sae.w_dec.device)].cpu()
        effect = patch_effect(replay, flips, [sae.layer] * len(part), patch, "exact")
        found[part.numpy()] = (effect * sign[:, None]).sum(0) / size.sum()
    return found


def main() -> None:
    """Score every feature of every layer in three ways and print their agreement."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    vlm = load_vlm(WORLD / "planted", "auto", "float32")
    prompts = prompt_table([q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed])
    layers = list(range(vlm.n_layers))
    measured = measure(vlm, prompts, layers)
    flips = find_flips(prompts, pair_table(prompts), measured.margin, 0.25)
    flips = flips.take(flips.banked)
    replay = rerun_paraphrases(vlm, prompts, flips, 2**33)
    original, paraphrase = (torch.from_numpy(flips.pairs[k].to_numpy(copy=True)) for k in ("original", "paraphrase"))
    started = time.monotonic()
    gradients = margin_gradients(replay, layers)
    seconds = {"gradient": time.monotonic() - started, "path": 0.0, "exact": 0.0}
    rows = []
    for layer, folder in sorted(locate_saes(WORLD / "saes").items()):
        sae, x = load_sae(folder, layer, vlm.d_model, vlm.device), measured.residuals[:, layer]
        started = time.monotonic()
        path = path_gradients(replay, (x[original] - x[paraphrase])[:, None], [layer], STEPS)[:, 0]
        seconds["path"] += time.monotonic() - started
        started = time.monotonic()
        truth = exact(replay, flips, x, sae)
        seconds["exact"] += time.monotonic() - started
        moving = np.flatnonzero(truth)
        best = set(np.argsort(-truth)[:TOP])
        row: dict[str, object] = {"layer": layer, "features": len(moving), "best exact": truth.max()}
        for name, score in zip(("gradient", "path"), attribute(sae, x, flips, gradients[:, layer], path), strict=True):
            row |= {f"{name} rank r": spearmanr(score[moving], truth[moving]).statistic}
            row |= {f"{name} recall": len(best & set(np.argsort(-score)[:TOP])) / TOP, f"{name} sum": score.sum()}
        rows.append(row)
    print(pd.DataFrame(rows).round(2).to_string(index=False))
    print(f"{len(flips.pairs)} flips, {len(layers)} layers; " + ", ".join(f"{k} {v:.1f} s" for k, v in seconds.items()))


if __name__ == "__main__":
    main()
