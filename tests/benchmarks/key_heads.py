"""At which numbers of keys does attention over one shared key head go wrong on this GPU? PyTorch issue 191937.

    python tests/benchmarks/key_heads.py [--most 320]

Attention of four query heads of width 256 over one key head, as in Gemma 3 270M, on random numbers with a causal mask:
transformers' own sdpa attention, which repeats the key head as a view, and `interp.model.key_heads.attend`, which
copies it, each against double precision. A number of keys is wrong if an output is off by more than .05.
"""

import argparse
from types import SimpleNamespace
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from interp.model.attention import attend


def wrong_lengths(attention: Any, dtype: torch.dtype, batch: int, most: int) -> list[int]:
    """Numbers of keys, 2 to `most`, at which `attention` of `batch` rows is off by more than .05."""
    generator = torch.Generator("cuda").manual_seed(0)
    module = SimpleNamespace(is_causal=True, num_key_value_groups=4)
    found = []
    for keys in range(2, most + 1):
        query, key, value = (
            torch.randn(batch, heads, keys, 256, generator=generator, device="cuda").to(dtype) for heads in (4, 1, 1)
        )
        mask = torch.ones(keys, keys, dtype=torch.bool, device="cuda").tril()[None, None]
        output, _ = attention(module, query, key, value, mask, scaling=1 / 16)
        weights = (query.double() @ key.double().transpose(2, 3) / 16).masked_fill(~mask, float("-inf")).softmax(-1)
        expected = (weights @ value.double()).transpose(1, 2)
        if not (output.double() - expected).abs().max() < 0.05:
            found.append(keys)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=320, help="largest number of keys")
    most = parser.parse_args().most
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, 2 to {most} keys")
    for dtype in (torch.float32, torch.bfloat16):
        for batch in (1, 3):
            for name, attention in (("transformers", sdpa_attention_forward), ("ours", attend)):
                wrong = wrong_lengths(attention, dtype, batch, most)
                print(f"{dtype}, {batch} rows, {name:12}: {len(wrong)} wrong {wrong}", flush=True)


if __name__ == "__main__":
    main()
