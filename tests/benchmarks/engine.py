"""Time the vision tower and the language model alone, in plain transformers and as `load_vlm` prepares them.

    python tests/benchmarks/engine.py
    python tests/benchmarks/engine.py --shape medgemma-4b

The input is 32 images in one batch, and 24 images with 12 packed wordings of some 40 tokens each. Times are compared
with the counted operations at the speed of a large matrix product. medgemma-4b needs a GPU.
"""

import argparse

import pandas as pd
import torch
from ready import ready
from shape import SHAPES, build, machine, matmul_rate, operations, report, seconds

from interp.model.decoder import final_logits
from interp.model.image_tokens import encode_pixels
from interp.model.packing import Row, collate
from interp.model.vlm import Vlm

IMAGES, PACKED, WORDINGS, LENGTH = 32, 24, 12, 40


def rows(vlm: Vlm) -> list[Row]:
    """Packed rows that combine images with wordings of random tokens."""
    image = vlm.model.config.image_token_id
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(image + 1, image + 100, (PACKED, 8 + WORDINGS * LENGTH), generator=generator).tolist()
    prefix = [image] * vlm.model.config.mm_tokens_per_image
    places = range(8, 8 + WORDINGS * LENGTH, LENGTH)
    return [
        Row(
            list(range(k * WORDINGS, (k + 1) * WORDINGS)),
            tokens[:4] + prefix + tokens[4:8],
            [tokens[start : start + LENGTH] for start in places],
        )
        for k, tokens in enumerate(drawn)
    ]


@torch.no_grad()
def main() -> None:
    """Time both parts in both ways and print the numbers as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    vlm, _ = build(options.shape)
    side = vlm.model.config.vision_config.image_size
    pixels = torch.randn(IMAGES, 3, side, side, device=vlm.device, dtype=vlm.tower_dtype)
    batch = collate(rows(vlm), 0).to(vlm.device)
    tokens = torch.randn(PACKED * vlm.model.config.mm_tokens_per_image, vlm.d_model, device=vlm.device)

    def both() -> tuple[float, float]:
        tower = seconds(lambda: encode_pixels(vlm.model, pixels), options.repeats)
        return tower, seconds(lambda: final_logits(vlm.model, batch, tokens), options.repeats)

    plain = both()
    with ready(vlm):
        made_ready = both()
    cost, rate = operations(vlm), matmul_rate(vlm.device, vlm.model.dtype)
    positions = batch.input_ids.numel()
    floor = (IMAGES * cost.image / rate, (positions * cost.position + PACKED * WORDINGS * cost.logits) / rate)
    table = pd.DataFrame(
        {"plain_s": plain, "ready_s": made_ready, "floor_s": floor},
        index=pd.Index([f"tower, {IMAGES} images", f"language model, {positions} positions"], name="part"),
    )
    table["faster"] = table["plain_s"] / table["ready_s"]
    table["share_of_floor"] = table["floor_s"] / table["ready_s"]
    report({"shape": options.shape, **machine(vlm), "matmul_tflop_per_s": rate / 1e12}, table)


if __name__ == "__main__":
    main()
