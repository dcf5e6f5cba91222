"""Are the engine's margins those of plain transformers, one prompt at a time, on this device?

    python tests/benchmarks/parity.py [--model FOLDER --questions FILE] [--limit 450] [--dtype float32]

Every wording is asked as it is and lengthened to three times its template. The reference is plain transformers with
eager attention on the same device, or with `--cpu` on a CPU. Compared with it are the engine in large batches, in
batches of one row, and plain transformers with its default attention. A margin is off if it differs by more than .01.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForImageTextToText

from interp.images.decode import open_image
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.model.prompts import answer_margin
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.screening.flips import questions_that_can_flip

REMINDER = " Look closely at every region of the image before you answer; note the lungs, the heart and all devices."


def plain_margins(model: Any, vlm: Vlm, prompts: pd.DataFrame) -> np.ndarray:
    """Answer margins [n] of `model` on its processor's own inputs, one prompt at a time [logits]."""

    def each() -> Iterator[float]:
        for _, row in prompts.iterrows():
            content = [{"type": "image", "image": open_image(row["image"])}, {"type": "text", "text": row["text"]}]
            inputs = vlm.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
            )
            with torch.no_grad():
                logits = model(**inputs.to(model.device), logits_to_keep=1).logits[0, -1].float().cpu()
            yield float(answer_margin(logits, vlm.answers))

    return np.array(list(each()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(WORLD / "planted"))
    parser.add_argument("--questions", type=Path, default=None)
    parser.add_argument("--limit", type=int, default=450, help="number of prompts")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cpu", action="store_true", help="compute the reference on a CPU")
    given = parser.parse_args()
    vlm = load_vlm(given.model, dtype=given.dtype)
    questions = load_questions(*([] if given.questions is None else [given.questions]), split="test")
    prompts = prompt_table(questions_that_can_flip(questions)).iloc[: given.limit].reset_index(drop=True)
    print(f"{vlm}, torch {torch.__version__}: {len(prompts)} prompts, {prompts.image.nunique()} images")

    def plain(attention: str, device: Any) -> Any:
        model = AutoModelForImageTextToText.from_pretrained(
            given.model, dtype=getattr(torch, given.dtype), attn_implementation=attention
        )
        return model.to(device).eval()

    reference = plain("eager", "cpu" if given.cpu else vlm.device)
    default = plain("sdpa", vlm.device)
    for name, table in (("as they are", prompts), ("long", prompts.assign(text=prompts.text + 3 * REMINDER))):
        expected = plain_margins(reference, vlm, table)
        print(f"{name}: margins of {expected.min():.1f} to {expected.max():.1f}")
        ways = {
            "engine, large batches": measure(vlm, table).margin.numpy(),
            "engine, one row at a time": measure(vlm, table, batch_tokens=1).margin.numpy(),
            "plain transformers, sdpa": plain_margins(default, vlm, table),
        }
        for way, found in ways.items():
            off = np.abs(found - expected)
            print(
                f"  {way:26} off by {off.max():.1e} at most, {np.median(off):.1e} in median; {(off > 0.01).sum()} off"
            )


if __name__ == "__main__":
    main()
