"""Are p values calibrated when there is no effect? Screens and tests on shuffled labels, with a plot.

    python tests/benchmarks/calibration.py --draws 20 --out calibration.png

Three kinds of p values are drawn on the embedded world, with every effect removed by shuffling: of the flip AUC, with
flips shuffled freely over pairs; of the flip AUC, with each patient's number of flips taken from another patient and
put on random pairs, so that flips stay clustered; and of the causal test of a feature, with the sign of every patient's
shift drawn at random.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from interp.causal.layer_patching import patch_effect, random_directions, rerun_paraphrases
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae
from interp.saes.sparse_codes import differences, encode_sparse
from interp.screening.feature_stats import ScreenedPairs, feature_delta, screen_layer
from interp.screening.flips import find_flips, sample_pairs, sides
from interp.statistics import ratio_sign_flips

LAYER = 5


def main() -> None:
    """Draw p values, print the share below .05 and .01 of each kind, and plot their distributions."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    vlm = load_vlm(WORLD / "planted", "auto", "float32")
    prompts = prompt_table([q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed])
    measured = measure(vlm, prompts, [LAYER])
    flips = find_flips(prompts, pair_table(prompts), measured.margin, 0.25)
    x = measured.residuals[:, 0]
    sae = load_sae(locate_saes(WORLD / "saes")[LAYER], LAYER, vlm.d_model, vlm.device)
    activations = encode_sparse(sae, x)
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"flips shuffled over pairs": [], "flips shuffled, patients kept together": []}
    order = np.argsort(flips.pairs["patient"].to_numpy(), kind="stable")
    ordered = flips._replace(pairs=flips.pairs.iloc[order].reset_index(drop=True), flipped=flips.flipped[order])
    codes, delta = activations.by_feature, differences(activations, *sides(ordered.pairs))
    for _ in range(options.draws):
        moved = np.roll(ordered.flipped, int(rng.integers(1, len(order))))
        within = np.lexsort((rng.random(len(order)), ordered.pairs["patient"].to_numpy()))
        labels = rng.permutation(ordered.flipped), moved[within]
        for name, flipped in zip(found, labels, strict=True):
            pairs = ScreenedPairs.of(prompts, ordered._replace(flipped=flipped))
            found[name] += screen_layer(LAYER, codes, delta, pairs)["flip_p"].tolist()
    found["causal test, shifts of random sign"] = causal_p(vlm, prompts, flips, x, sae, options.draws, rng, torch)
    rows = [
        {
            "p values": name,
            "n": len(p),
            "below .05": np.mean(np.array(p) < 0.05),
            "below .01": np.mean(np.array(p) < 0.01),
        }
        for name, p in found.items()
    ]
    print(pd.DataFrame(rows).round(4).to_string(index=False))
    if options.out:
        plot(found, options.out)


def causal_p(vlm, prompts, flips, x, sae, draws, rng, torch) -> list[float]:
    """p-values of the net recovery of 40 features, `draws` times, with the sign of every patient's shift at random."""
    banked = sample_pairs(flips.take(flips.banked), 80, seed=0)
    delta = feature_delta(sae, x, banked.pairs, torch.arange(sae.d_sae))
    moving = np.argsort(-np.abs(delta.numpy()).mean(0))[:40]
    patch = -delta[:, moving, None] * sae.w_dec[torch.from_numpy(moving.copy())].cpu()
    control = random_directions(patch, torch.Generator().manual_seed(0))
    effect = patch_effect(
        rerun_paraphrases(vlm, prompts, banked), banked, [LAYER] * 80, torch.cat([patch, control], 1), "patches"
    )
    net = effect[:, :40] - effect[:, 40:]
    patients, member = np.unique(banked.pairs["patient"], return_inverse=True)
    p = []
    for draw in range(draws):
        sign = rng.choice((-1.0, 1.0), len(patients))[member]
        whose, one = banked.pairs["patient"].tolist(), np.ones(len(net))
        p += [ratio_sign_flips(net[:, k] * sign, one, whose, draw, 1000)[1] for k in range(40)]
    return p


def plot(found: dict[str, list[float]], path: Path) -> None:
    """Plot the distribution functions of the p-values with the diagonal that a true null gives."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", lw=1, label="promised")
    for (name, p), style in zip(found.items(), ("-", "--", ":"), strict=True):
        axes.plot(np.sort(p), np.linspace(0, 1, len(p)), style, color="k", lw=1.4, label=name)
    axes.set_xlabel("p")
    axes.set_ylabel("share of p values below")
    axes.legend(fontsize=7, frameon=False)
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    main()
