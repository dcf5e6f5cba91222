"""Shared parts of the benchmarks: models with SAEs of all layers, any number of questions, timing and counting.

`tiny` is the embedded world's model with its SAEs of 512 features. `medgemma-4b` has MedGemma 4B's true configuration
with random bfloat16 weights and random 16k SAEs for all 34 layers, created in GPU memory, so its findings mean nothing.
`gemma-27b` is the same at the size of MedGemma 27B, with 62 layers and 54 GB of weights.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pandas as pd
import torch
from accelerate import dispatch_model
from flop_formulas import FlopCounterMode
from PIL import Image
from ready import drop_kernels

from interp.demo.model import CHAT_TEMPLATE, IMAGE_TOKENS, train_tokenizer
from interp.demo.phrasings import all_texts
from interp.demo.sample_cases import ANSWERS
from interp.measurement.margins import measure
from interp.model.cpu_kernels import product
from interp.model.decoder import final_logits
from interp.model.image_tokens import encode_pixels
from interp.model.load import load_vlm
from interp.model.packing import Row, collate
from interp.model.placement import balanced_device_map
from interp.model.prompts import answer_tokens
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.schema import Question
from interp.questions.tables import prompt_table
from interp.runtime.machine import cores
from interp.saes.locate import locate_saes
from interp.saes.sae import Sae, load_sae

sys.path.insert(0, str(Path(__file__).parents[1]))
from medgemma import medgemma_config

T = TypeVar("T")
Shape = Literal["tiny", "medgemma-4b", "gemma-27b"]
SHAPES: tuple[Shape, ...] = ("tiny", "medgemma-4b", "gemma-27b")
PIXELS = {"tiny": 64, "medgemma-4b": 896, "gemma-27b": 896}
"""Shape -> side of the square images of its vision tower [pixels]."""
D_SAE = 16384


def build(shape: Shape, split: bool = False) -> tuple[Vlm, list[Sae]]:
    """The plain model of a shape and an SAE of every layer, on the GPU if there is one; all shapes but tiny need one.

    With `split` the layers are divided over all GPUs, as `load_vlm` does.
    """
    if shape != "tiny":
        prompts = prompt_table([q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed][:20])
        vlm = random_medgemma(prompts, shape == "gemma-27b", split)
        return vlm, random_saes(vlm, prompts)
    vlm = load_vlm(WORLD / "planted")
    drop_kernels(vlm.model)
    folders = locate_saes(WORLD / "saes")
    return vlm, [load_sae(folders[layer], layer, vlm.d_model, vlm.device) for layer in sorted(folders)]


def random_medgemma(prompts: pd.DataFrame, large: bool = False, split: bool = False) -> Vlm:
    """MedGemma 4B's configuration with random bfloat16 weights, and a processor for 896 pixels and 256 image tokens.

    The margins on `prompts` have both signs. `large` is the size of MedGemma 27B; `split` divides the layers over GPUs.
    """
    from transformers import Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    tokenizer = train_tokenizer(all_texts(), ANSWERS)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in IMAGE_TOKENS.items()}
    config = medgemma_config(large)
    # From the file; a model created in memory lacks it.
    config.architectures = [Gemma3ForConditionalGeneration.__name__]
    config.boi_token_index, config.eoi_token_index = ids["boi_token"], ids["eoi_token"]
    config.image_token_index = config.image_token_id = ids["image_token"]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Gemma3ForConditionalGeneration(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    if split:
        dispatch_model(model, balanced_device_map(model, range(torch.cuda.device_count())), main_device=0)
    images = Gemma3ImageProcessor(size={"height": 896, "width": 896}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = Gemma3Processor(
        image_processor=images, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE, image_seq_length=256
    )
    vlm = Vlm(model, processor, "random", None, answer_tokens(tokenizer))
    center_margins(vlm, prompts)
    return vlm


def center_margins(vlm: Vlm, prompts: pd.DataFrame) -> None:
    """Shift the output rows of "no" so that margins have both signs; random weights answer all questions alike."""
    hidden: list[torch.Tensor] = []
    handle = vlm.model.lm_head.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0].float()))
    margin = measure(vlm, prompts).margin
    handle.remove()
    mean = torch.cat(hidden).mean(0)
    rows = vlm.model.lm_head.weight[vlm.answers.no]
    vlm.model.lm_head.weight[vlm.answers.no] = (rows.float() + float(margin.median()) * mean / mean.dot(mean)).to(rows)


def random_saes(vlm: Vlm, prompts: pd.DataFrame) -> list[Sae]:
    """Random bfloat16 SAEs of every layer, with thresholds of 2.6 standard deviations: some 80 active features a token.

    Encoder and decoder share memory, 2.9 GB in all.
    """
    scale = measure(vlm, prompts, range(vlm.n_layers)).residuals.pow(2).mean((0, 2)).sqrt()
    generator = torch.Generator(vlm.device).manual_seed(0)
    saes = []
    for layer in range(vlm.n_layers):
        w = torch.randn(vlm.d_model, D_SAE, generator=generator, device=vlm.device)
        w = (w / w.norm(dim=0)).bfloat16()
        b_enc, b_dec = torch.zeros(D_SAE, device=vlm.device), torch.zeros(vlm.d_model, device=vlm.device)
        # In bfloat16, as in a file.
        threshold = torch.full_like(b_enc, 2.6 * float(scale[layer])).bfloat16().float()
        saes.append(Sae(layer, f"layer_{layer}_width_16k_l0_small", w, b_enc, w.T, b_dec, threshold))
    return saes


class Counts(NamedTuple):
    """The number of images and questions."""

    images: int
    """Number of image files."""
    questions: int
    """Number of original wordings, spread evenly over the images."""
    paraphrases: int
    """Number of paraphrases, spread evenly over the questions; at most four each."""


MIMIC = Counts(images=999, questions=3266, paraphrases=8938)
"""Counts of PSF-Med's MIMIC part, which the published study screened."""


def counts_of(images: int, prompts_an_image: int) -> Counts:
    """Counts for a number of wordings per image, about 3.7 per question as in PSF-Med's MIMIC part and at most 5."""
    asked = max(round(prompts_an_image / 3.7), -(-prompts_an_image // 5))
    return Counts(images, images * asked, images * (prompts_an_image - asked))


def questions(counts: Counts, folder: Path, side: int) -> list[Question]:
    """Yes/no questions of the embedded world in these counts, with every image as a JPEG in `folder`.

    Images are scaled to `side` pixels, and each has its own patient. If the world has too few questions, they are
    repeated on darker copies of their images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pool = [q for q in load_questions(WORLD / "questions.jsonl") if q.closed]
    made: list[Question] = []
    paths: list[str] = []
    copies: list[tuple[str, str, int, float]] = []
    for k in range(counts.questions):
        known = pool[k % len(pool)]
        place = k * counts.images // counts.questions
        if place == len(paths):
            paths.append(str(folder / f"{place}.jpg"))
            copies.append((known.image, paths[-1], side, 1 - 0.1 * (k // len(pool) % 5)))
        first, last = (j * counts.paraphrases // counts.questions for j in (k, k + 1))
        changed = {"id": str(k), "image": paths[place], "patient": str(place), "boxes": [], "split": None}
        made.append(known.model_copy(update=changed | {"paraphrases": known.paraphrases[: last - first]}))
    with ThreadPoolExecutor(cores()) as threads:
        list(threads.map(lambda copy: _copy(*copy), copies))
    return made


def _copy(source: str, path: str, side: int, brightness: float) -> None:
    with Image.open(source) as picture:
        scaled = picture.resize((side, side), Image.Resampling.BICUBIC)
    scaled.point(lambda value: value * brightness).save(path, quality=95)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(run: Callable[[], T], repeats: int = 3) -> tuple[float, T]:
    """Median wall time of `repeats` runs after a warm-up [s], and the result of the last run."""
    found = []
    result = run()
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        result = run()
        synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found), result


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """Median wall time of `repeats` runs after a warm-up [s]."""
    return timed(run, repeats)[0]


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Speed of a large square matrix product [FLOP/s]; on a CPU that of the faster of MKL and oneDNN."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.randn(n, n, device=device, dtype=dtype)
    ways: list[Callable[[], object]] = [lambda: a @ a]
    if device.type == "cpu" and dtype == torch.float32:
        ways.append(lambda: product(a, a))
    return max(2 * n**3 / seconds(way, 5) for way in ways)


def memory_rate(device: torch.device) -> float:
    """Speed of a copy of a quarter GiB within the device's memory, counting reads and writes [bytes/s]."""
    a = torch.ones(2**28, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() / seconds(lambda: b.copy_(a), 5)


class Operations(NamedTuple):
    """Operations of a model's parts [FLOP], without attention between positions, which adds a few percent."""

    image: int
    """One image through the vision tower and the projector, its attention included."""
    position: int
    """One position through all decoder layers."""
    logits: int
    """One final token through the output layer."""


@torch.no_grad()
def operations(vlm: Vlm) -> Operations:
    """Count the operations of a model by running it on one image and one token."""
    side = vlm.model.config.vision_config.image_size
    with FlopCounterMode(display=False) as tower:
        encode_pixels(vlm.model, torch.zeros(1, 3, side, side, device=vlm.device, dtype=vlm.tower_dtype))
    # Two prompts of one token, because a CPU pads the rows of a product to two.
    batch = collate([Row([k], [], [[int(vlm.answers.yes[0])]]) for k in range(2)], 0).to(vlm.device)
    with FlopCounterMode(display=False) as decoder:
        final_logits(vlm.model, batch, torch.empty(0, vlm.d_model, device=vlm.device))
    logits = 2 * vlm.model.lm_head.weight.numel()
    return Operations(tower.get_total_flops(), decoder.get_total_flops() // 2 - logits, logits)


def distinct_positions(rows: Sequence[Row], images: Sequence[str]) -> int:
    """Positions that must pass the language model: what the prompts of an image begin with once, and all that follows.

    `images` holds the image of every prompt that `rows` refer to.
    """
    prefixes = {images[row.prompts[0]]: len(row.prefix) for row in rows}
    return sum(prefixes.values()) + sum(len(suffix) for row in rows for suffix in row.suffixes)


def machine(vlm: Vlm) -> dict[str, str]:
    """Device and dtype, for every report."""
    cuda = vlm.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
    }


def report(facts: Mapping[str, Any], table: pd.DataFrame) -> None:
    """Print facts and a table for people, then both as one line of JSON."""
    print(pd.Series({k: f"{v:.5g}" if isinstance(v, float) else str(v) for k, v in facts.items()}).to_string())
    print(table.to_string(float_format="{:.4g}".format, na_rep=""))
    rows = json.loads(table.reset_index().to_json(orient="records", double_precision=10))
    print(json.dumps({k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in facts.items()} | {"rows": rows}))
