"""How small an edit of a residual does each number format still measure?

    python tests/benchmarks/edit_size.py
    python tests/benchmarks/edit_size.py --model real/ --data real/questions.jsonl --layers 3 9 15

A causal sweep adds an edit to the final token's residual and runs on. A bfloat16 number has 8 significant bits, so an
edit below 1/512 of an entry leaves the entry as it is, and the margins that follow are rounded too. Here the same edits
along random directions are measured in bfloat16 and float16 and compared with float32: "error" is the root mean square
of the difference of their effects over that of the effects, "r" their correlation, "unchanged" the share of the entries
that the edit leaves as they are. An error of 1 is that of a measurement that finds nothing.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from interp.measurement.margins import measure
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.load import load_vlm
from interp.model.placement import DTYPES
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table

SIZES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Norms of the edits as shares of the norm of the residual."""
DIRECTIONS = 4
"""Random directions for every prompt, layer and size."""


def main() -> None:
    """Measure the effects of the same edits in every format, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=WORLD / "planted")
    parser.add_argument("--data", type=Path, default=WORLD / "questions.jsonl")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 4, 7])
    options = parser.parse_args()
    asked = [q for q in load_questions(options.data, split="test") if q.closed][: options.questions]
    prompts = prompt_table(asked)
    layers, generator = list(options.layers), torch.Generator().manual_seed(0)
    exact = load_vlm(options.model, "auto", "float32")
    residuals = measure(exact, prompts, layers).residuals
    directions = torch.randn(len(prompts), len(layers), DIRECTIONS, exact.d_model, generator=generator)
    directions *= (residuals.norm(dim=-1) / directions.norm(dim=-1).mean(-1))[..., None, None]
    effects: dict[str, dict[float, torch.Tensor]] = {}
    for name in ("float32", "bfloat16", "float16"):
        vlm = exact if name == "float32" else load_vlm(options.model, "auto", name)
        rerun = SuffixRerun(vlm, prompts)
        repeated = [layer for layer in layers for _ in range(DIRECTIONS)]
        before = rerun.margins(repeated, torch.zeros(len(prompts), len(repeated), vlm.d_model))
        effects[name] = {
            size: rerun.margins(repeated, size * directions.flatten(1, 2)).double() - before.double() for size in SIZES
        }
    rows = []
    for name in ("bfloat16", "float16"):
        rounded = residuals.to(DTYPES[name])
        for size in SIZES:
            true, found = effects["float32"][size], effects[name][size]
            edited = (rounded.float()[:, :, None] + size * directions).to(DTYPES[name])
            rows.append(
                {
                    "format": name,
                    "size": size,
                    "effect [logits]": float(true.pow(2).mean().sqrt()),
                    "error": float((found - true).pow(2).mean().sqrt() / true.pow(2).mean().sqrt()),
                    "r": float(torch.corrcoef(torch.stack([found.flatten(), true.flatten()]))[0, 1]),
                    "unchanged": float((edited == rounded[:, :, None]).double().mean()),
                }
            )
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
