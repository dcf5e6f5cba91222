"""Time an exact causal sweep over all layers and prompts: reruns from the patched layer against full reruns.

    python tests/benchmarks/causal.py
    python tests/benchmarks/causal.py --shape medgemma-4b --prompts 200

Ours runs each prompt once and the edits of all layers together; a second sweep reuses what the first cached. The usual
loop runs the whole model for every edit, image included, with a hook that applies it. The best plain loop encodes the
image once per prompt and runs its edits in batches. These two run on a sample, as their time is proportional. All must
find the same margins. The floor is the time of the counted operations (tower once per image, each prompt once, edits in
the layers above their own) at the speed of a large matrix product on this device.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from loops import inputs_of
from ready import ready
from shape import PIXELS, SHAPES, build, counts_of, machine, matmul_rate, operations, questions, report, timed
from torch import Tensor

from interp.measurement.margins import pack_prompts
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.prompts import answer_margin
from interp.model.vlm import Vlm
from interp.questions.tables import prompt_table
from interp.runtime.memory import memory_left


@torch.no_grad()
def full_runs(vlm: Vlm, prompts: pd.DataFrame, layers: list[int], delta: Tensor, size: int) -> Tensor:
    """Margins [n, k] under the edits, from full forward passes of plain transformers with `size` edits at once."""
    rows = []
    for place in range(len(prompts)):
        inputs: dict[str, Any] = inputs_of(vlm, prompts.iloc[[place]])
        if size > 1:
            image = vlm.model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True).pooler_output
            embedded = vlm.model.get_input_embeddings()(inputs["input_ids"])
            here = (inputs["input_ids"] == vlm.model.config.image_token_id)[..., None]
            inputs["inputs_embeds"] = embedded.masked_scatter(here, image.to(embedded.dtype))
        margins = []
        for edits in torch.arange(len(layers)).split(size):
            repeated = {name: value.expand(len(edits), *value.shape[1:]) for name, value in inputs.items()}
            if size > 1:
                repeated.pop("input_ids")
            handles = [
                vlm.layers[layers[k]].register_forward_hook(edit_of(row, delta[place, k]))
                for row, k in enumerate(edits.tolist())
            ]
            logits = vlm.model(**repeated, logits_to_keep=1, use_cache=False).logits[:, -1]
            for handle in handles:
                handle.remove()
            margins.append(answer_margin(logits, vlm.answers).cpu())
        rows.append(torch.cat(margins))
    return torch.stack(rows)


def edit_of(row: int, delta: Tensor) -> Any:
    """A hook that adds `delta` [d_model] to the final token of one row of a layer's output."""

    def edit(module: Any, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[row, -1] = (output[row, -1].float() + delta.to(output.device)).to(output.dtype)
        return output

    return edit


def floor(vlm: Vlm, prompts: pd.DataFrame, layers: list[int]) -> tuple[float, dict[str, float]]:
    """Time of the necessary operations [s], and its parts."""
    cost = operations(vlm)
    positions = sum(row.length for row in pack_prompts(vlm, prompts))
    climbed = sum(vlm.n_layers - 1 - layer for layer in layers) / vlm.n_layers
    parts = {
        "tower_tflop": prompts["image"].nunique() * cost.image / 1e12,
        "prompts_tflop": positions * cost.position / 1e12,
        "edits_tflop": len(prompts) * climbed * cost.position / 1e12,
    }
    rate = matmul_rate(vlm.device, vlm.model.dtype)
    seconds = sum(parts.values()) * 1e12 / rate
    return seconds, {**parts, "matmul_tflop_per_s": rate / 1e12, "floor_s": seconds}


def main() -> None:
    """Time all ways and print the numbers as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--prompts", type=int, default=100, help="prompts that are patched, two on each image")
    parser.add_argument("--edits", type=int, default=4, help="edits of every layer, as a patch, its control, ...")
    parser.add_argument("--sample", type=int, default=4, help="prompts of the batched loop; the usual loop takes one")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    vlm, _ = build(options.shape)
    layers = [layer for layer in range(vlm.n_layers) for _ in range(options.edits)]
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        asked = questions(counts_of(options.prompts // 2, 2), Path(folder), PIXELS[options.shape])
        prompts = prompt_table(asked)
        delta = torch.randn(len(prompts), len(layers), vlm.d_model, generator=generator)
        room = memory_left(vlm.device).device // 2
        rows, found = {}, {}

        def run(name: str, edits: int, sweep: Any, repeats: int = options.repeats) -> None:
            seconds, found[name] = timed(sweep, repeats)
            rows[name] = {"interventions": edits, "seconds": seconds, "interventions_per_s": edits / seconds}
            print(f"{name}: {edits / seconds:.0f} interventions/s", file=sys.stderr, flush=True)

        def anew() -> Tensor:
            vlm.image_tokens.clear()
            return SuffixRerun(vlm, prompts).margins(layers, delta)

        with ready(vlm):
            run("ours, from the images", delta.shape[0] * delta.shape[1], anew)
            held = SuffixRerun(vlm, prompts, room)
            held.margins(layers, delta)
            run("ours, a further sweep", delta.shape[0] * delta.shape[1], lambda: held.margins(layers, delta))
        few = options.sample
        run("plain batches of 32", few * len(layers), lambda: full_runs(vlm, prompts[:few], layers, delta, 32), 1)
        some = list(range(0, len(layers), options.edits))[:: max(1, vlm.n_layers // 8)]
        once = [layers[k] for k in some]
        run("plain, one by one", len(some), lambda: full_runs(vlm, prompts[:1], once, delta[:1, some], 1), 1)
        floor_s, facts = floor(vlm, prompts, layers)

    mine = found["ours, from the images"]
    rows["plain batches of 32"]["margin_diff"] = float((found["plain batches of 32"] - mine[:few]).abs().max())
    rows["plain, one by one"]["margin_diff"] = float((found["plain, one by one"] - mine[:1, some]).abs().max())
    rows["ours, a further sweep"]["margin_diff"] = float((found["ours, a further sweep"] - mine).abs().max())
    rows["floor"] = {"interventions": mine.numel(), "seconds": floor_s, "interventions_per_s": mine.numel() / floor_s}
    for row in rows.values():
        row["ours_is_faster"] = rows["ours, from the images"]["interventions_per_s"] / row["interventions_per_s"]
    shown = {"shape": options.shape, **machine(vlm), "prompts": len(prompts), "images": prompts["image"].nunique()}
    shown |= {**facts, "share_of_floor": rows["floor"]["ours_is_faster"], "margin_spread": float(mine.std())}
    report(shown, pd.DataFrame(rows.values(), index=pd.Index(rows, name="way")))


if __name__ == "__main__":
    main()
