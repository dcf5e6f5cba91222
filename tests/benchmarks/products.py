"""What would 8-bit floating-point products save in MedGemma-4B's vision tower, and what would they change?

    python tests/benchmarks/products.py [--images 8]

On a GPU, every kind of product of a tower layer runs on random numbers: in bfloat16, and in torch.float8_e4m3fn with a
scale for each row of both factors, with sums in float32 and in the faster mode that rounds them. The time to round
activations to 8 bits is left out. On any machine, the inputs and weights of all linear layers in the embedded world's
trained tower are rounded in the same way, and margins and flips are compared with those in float32.
"""

import argparse
from collections.abc import Callable

import pandas as pd
import torch
from shape import matmul_rate, report, seconds
from torch import Tensor
from torch.nn import functional as F

from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.screening.flips import find_flips
from interp.search.settings import FindSettings

PATCHES, LAYERS = 4096, 27
"""Patches of an image, and layers of the tower."""
PRODUCTS = {"queries, keys, values, outputs": (1152, 1152, 4), "fc1": (1152, 4304, 1), "fc2": (4304, 1152, 1)}
"""Product -> its inputs, its outputs and how many of it a layer has."""
FORMAT = torch.float8_e4m3fn
"""Eight bits: a sign, four of the exponent, three of the mantissa."""


def in_8_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in 8 bits and their scales: [n, k] and float32 [n, 1]."""
    scale = x.float().abs().amax(1, keepdim=True) / torch.finfo(FORMAT).max
    return (x / scale).to(FORMAT), scale


def through_8_bits(x: Tensor) -> Tensor:
    """Rows as 8 bits represent them: float32 [n, k]."""
    small, scale = in_8_bits(x)
    return small.float() * scale


def ways(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The product of x [n, k] and weight [m, k] plus bias [m], in every way."""
    (small_x, scale_x), (small_weight, scale_weight) = in_8_bits(x), in_8_bits(weight)

    def product(fast: bool) -> Tensor:
        return torch._scaled_mm(
            small_x, small_weight.T, scale_x, scale_weight.T, bias, out_dtype=torch.bfloat16, use_fast_accum=fast
        )

    return {
        "bfloat16": lambda: torch.addmm(bias, x, weight.T),
        "8 bits": lambda: product(False),
        "8 bits, rounded sums": lambda: product(True),
    }


def times(images: int) -> pd.DataFrame:
    """Time and error of every product of the tower in every way, on random numbers."""
    torch.manual_seed(0)
    rows = []
    for name, (inputs, outputs, count) in PRODUCTS.items():
        x = torch.randn(images * PATCHES, inputs, device="cuda", dtype=torch.bfloat16)
        weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) * inputs**-0.5
        bias = torch.randn(outputs, device="cuda", dtype=torch.bfloat16)
        exact = torch.addmm(bias.float(), x.float(), weight.float().T)
        for way, run in ways(x, weight, bias).items():
            took, found = seconds(run, 20), run().float()
            rows.append(
                {
                    "product": name,
                    "way": way,
                    "tflop_per_s": 2 * x.numel() * outputs / took / 1e12,
                    "ms_an_image": 1000 * LAYERS * count * took / images,
                    "off": float((found - exact).norm() / exact.norm()),
                }
            )
    return pd.DataFrame(rows).set_index(["product", "way"])


def in_the_world() -> pd.DataFrame:
    """What rounding the factors of the trained tower's products does to the embedded world's margins and flips."""
    roundings: dict[str, Callable[[Tensor], Tensor]] = {
        "float32": lambda x: x,
        "bfloat16": lambda x: x.bfloat16().float(),
        "8 bits": through_8_bits,
    }
    prompts = prompt_table([q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed])
    pairs = pair_table(prompts)
    margins, flips = {}, {}
    for way, rounding in roundings.items():
        vlm = load_vlm(WORLD / "planted", "cpu", "float32")
        for module in vlm.model.model.vision_tower.modules():
            # The fused MLP would pass over what is set here.
            module.__dict__.pop("forward", None)
            if isinstance(module, torch.nn.Linear):
                module.forward = rounded_linear(module, rounding)
        margins[way] = measure(vlm, prompts).margin
        flips[way] = find_flips(prompts, pairs, margins[way], FindSettings().bank_margin).flipped
    exact = margins["float32"]
    return pd.DataFrame(
        {
            way: {
                "margins": len(exact),
                "flips": flips[way].sum(),
                "other_flips": (flips[way] != flips["float32"]).sum(),
                "largest_difference": float((margins[way] - exact).abs().max()),
                "rms_difference": float((margins[way] - exact).square().mean().sqrt()),
            }
            for way in roundings
        }
    ).T


def rounded_linear(linear: torch.nn.Linear, rounding: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The forward pass of a linear layer whose weight and inputs [..., k] are rounded first."""
    weight = rounding(linear.weight.data)
    return lambda x: F.linear(rounding(x.flatten(0, -2)).view(x.shape), weight, linear.bias)


def main() -> None:
    """Print both comparisons as tables and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="images that pass the tower together")
    options = parser.parse_args()
    report({"model": "the embedded world"}, in_the_world())
    if torch.cuda.is_available():
        table = times(options.images)
        facts = {"device": torch.cuda.get_device_name(), "images": options.images}
        facts |= {"matmul_tflop_per_s": matmul_rate(torch.device("cuda"), torch.bfloat16) / 1e12}
        sums = table.groupby("way", sort=False)["ms_an_image"].sum()
        report(facts | {f"{way} [ms an image]": float(ms) for way, ms in sums.items()}, table)


if __name__ == "__main__":
    main()
