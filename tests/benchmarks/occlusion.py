"""Time all occlusions of one image with several wordings: batched, in the usual loop, and the tower's floor.

    python tests/benchmarks/occlusion.py
    python tests/benchmarks/occlusion.py --shape medgemma-4b --folder /tmp/true_shape

The usual loop runs plain transformers on one occluded image and one wording at a time, for `--loop` occlusions, and its
time is scaled to all. The floor is the time of the vision tower alone on all occlusions at the speed of a large matrix
product on this device. medgemma-4b has random weights (8.6 GB in `--folder`, written if missing) and needs a GPU.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
import torch
from flop_formulas import FlopCounterMode
from shape import SHAPES, machine, matmul_rate, seconds

from interp.images.boxes import grid_side
from interp.images.decode import open_image
from interp.measurement.occlusion import encode_occluded, image_margins, image_pixels, make_fill, occlude, single_cells
from interp.model.image_tokens import encode_pixels
from interp.model.load import load_vlm
from interp.model.prompts import answer_margin
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.schema import Question
from interp.questions.tables import prompt_table


@torch.no_grad()
def loop(vlm: Vlm, pixels: torch.Tensor, texts: list[str], question: Question) -> torch.Tensor:
    """Margins [v, t] of every image and wording, from one plain forward pass each."""
    picture = open_image(question.image)
    rows = []
    for text in texts:
        content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        inputs = vlm.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        ).to(vlm.device)
        column = []
        for image in pixels:
            logits = vlm.model(**inputs | {"pixel_values": image[None]}, logits_to_keep=1).logits
            column.append(answer_margin(logits[0, -1], vlm.answers).cpu())
        rows.append(torch.stack(column))
    return torch.stack(rows, dim=1)


def measured(vlm: Vlm, question: Question, wordings: int, looped: int) -> dict[str, float]:
    """The timings of one image."""
    texts = [question.question, *(p.text for p in question.paraphrases)][:wordings]
    pixels = image_pixels(vlm, question.image)
    side = grid_side(vlm.model.config.mm_tokens_per_image)
    cells, filled = single_cells(side), make_fill(vlm, pixels, "grey")
    looped = min(looped or len(cells), len(cells))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encode_pixels(vlm.model, pixels[None])
    tower = counter.get_total_flops() * len(cells)
    occluded = occlude(pixels, filled, cells)
    closed = [True] * len(texts)
    batched = seconds(lambda: image_margins(vlm, occluded, texts, closed))
    alone = seconds(lambda: encode_occluded(vlm, pixels, filled, cells))
    usual = seconds(lambda: loop(vlm, occluded[:looped], texts, question), 1) * len(cells) / looped
    ours = image_margins(vlm, occluded, texts, closed)
    difference = (ours[:looped] - loop(vlm, occluded[:looped], texts, question)).abs().max()
    rate = matmul_rate(vlm.device, vlm.tower_dtype)
    return {
        "occlusions": len(cells),
        "wordings": len(texts),
        "usual_loop_s": usual,
        "looped_occlusions": looped,
        "batched_s": batched,
        "ratio": usual / batched,
        "tower_alone_s": alone,
        "tower_tflop": tower / 1e12,
        "matmul_tflop_per_s": rate / 1e12,
        "floor_s": tower / rate,
        "batched_over_floor": batched / (tower / rate),
        "largest_difference_logits": float(difference),
        "margin_spread_logits": float(ours.std()),
    }


def main() -> None:
    """Time one image and print the numbers as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--wordings", type=int, default=5, help="wordings put to every occlusion")
    parser.add_argument("--loop", type=int, default=16, help="occlusions in the usual loop, 0 for all")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/true_shape"))
    options = parser.parse_args()
    asked = [q for q in load_questions(WORLD / "questions.jsonl", split="test") if q.closed and q.boxes]
    model = WORLD / "planted"
    if options.shape == "medgemma-4b":
        from true_shape import write_model

        model = options.folder / "medgemma-4b-it"
        if not model.is_dir():
            write_model(model, prompt_table(asked[:20]))
    vlm = load_vlm(model)
    question = next(q for q in asked if len(q.paraphrases) + 1 >= min(options.wordings, 4))
    numbers = measured(vlm, question, options.wordings, options.loop)
    print(pd.Series(numbers).map("{:.4g}".format).to_string())
    facts = {"shape": options.shape, **machine(vlm)}
    print(json.dumps(facts | {k: float(f"{v:.5g}") for k, v in numbers.items()}))


if __name__ == "__main__":
    main()
