"""Wall time and peak GPU memory at MedGemma-4B's true shape: random weights, random 16k SAEs for all 34 layers.

    python tests/benchmarks/true_shape.py --questions 120 --folder /tmp/true_shape

Writes a model of 8.6 GB and SAEs of 5.7 GB into `--folder`, in the layouts of the real ones, and runs the search and
the published training recipe (layers 15-19) on questions of the embedded world, images scaled to 896 pixels.
The numbers found mean nothing: the weights are random. Needs a GPU.
"""

import argparse
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from finetune.run import train_and_evaluate
from finetune.settings import TrainSettings
from interp.cli import PROMPTS
from interp.demo import WORLD
from interp.demo.cases import ANSWERS
from interp.demo.model import CHAT_TEMPLATE, IMAGE_TOKENS, train_tokenizer
from interp.demo.phrasings import all_texts
from interp.find import FindSettings, find_features
from interp.prompts import answer_tokens
from interp.questions import load_questions, prompt_table
from interp.sae_sources import locate_saes
from interp.saes import Sae, save_sae
from interp.transfer import question_prompts, text_prompts, transfer_check
from interp.vlm import Vlm, load_vlm, measure

sys.path.insert(0, str(Path(__file__).parents[1]))
from medgemma import medgemma_config

D_MODEL, D_SAE, LAYERS = 2560, 16384, 34


def write_model(folder: Path, prompts: pd.DataFrame) -> None:
    """MedGemma 4B's configuration with random bfloat16 weights, and a processor for 896 pixels and 256 image tokens."""
    from transformers import Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    tokenizer = train_tokenizer(all_texts(), ANSWERS)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in IMAGE_TOKENS.items()}
    config = medgemma_config()
    config.boi_token_index, config.eoi_token_index = ids["boi_token"], ids["eoi_token"]
    config.image_token_index = config.image_token_id = ids["image_token"]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Gemma3ForConditionalGeneration(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    images = Gemma3ImageProcessor(size={"height": 896, "width": 896}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = Gemma3Processor(
        image_processor=images, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE, image_seq_length=256
    )
    center_margins(Vlm(model, processor, "random", None, answer_tokens(tokenizer)), prompts)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def center_margins(vlm: Vlm, prompts: pd.DataFrame) -> None:
    """Move the output rows of "no" so that the margins straddle zero: random weights answer all questions alike."""
    hidden: list[torch.Tensor] = []
    handle = vlm.model.lm_head.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0].float()))
    margin = measure(vlm, prompts).margin
    handle.remove()
    mean = torch.cat(hidden).mean(0)
    rows = vlm.model.lm_head.weight[vlm.answers.no]
    vlm.model.lm_head.weight[vlm.answers.no] = (rows.float() + float(margin.median()) * mean / mean.dot(mean)).to(rows)


def write_saes(folder: Path, model: Path, prompts: pd.DataFrame) -> None:
    """Random SAEs of every layer with some 80 active features a token, by thresholds at 2.6 standard deviations."""
    scale = measure(load_vlm(model), prompts, range(LAYERS)).residuals.pow(2).mean((0, 2)).sqrt()
    generator = torch.Generator("cuda").manual_seed(0)
    for layer in range(LAYERS):
        w = torch.randn(D_MODEL, D_SAE, generator=generator, device="cuda")
        w = w / w.norm(dim=0)
        zeros = torch.zeros(D_SAE, device="cuda")
        name = f"layer_{layer}_width_16k_l0_small"
        threshold = zeros + 2.6 * float(scale[layer])
        sae = Sae(layer, name, w, zeros, w.T.contiguous(), torch.zeros(D_MODEL, device="cuda"), threshold)
        save_sae(sae, folder / "resid_post_all" / name, "google/gemma-3-4b-it")


def report(name: str, started: float) -> None:
    """Print seconds since `started` and the peak of allocated GPU memory, and start the peak anew."""
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(f"{name}: {time.monotonic() - started:.1f} s, peak {peak:.1f} GiB", flush=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def main() -> None:
    """Write model and SAEs if they are not there, then measure the search and the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/true_shape"))
    options = parser.parse_args()
    model, saes = options.folder / "medgemma-4b-it", options.folder / "gemma-scope-2-4b-it"
    started = time.monotonic()
    asked = load_questions(WORLD / "questions.jsonl", split="train")[: options.questions]
    if not model.is_dir():
        prompts = prompt_table([q for q in asked if q.closed])
        write_model(model, prompts)
        write_saes(saes, model, prompts[:20])
    report("writing model and SAEs", started)

    started = time.monotonic()
    vlm = load_vlm(model)
    report("loading the model", started)
    started = time.monotonic()
    found = find_features(vlm, locate_saes(saes), asked, settings=FindSettings(bank_margin=0.0), split="train").artifact
    report(f"find-features, {found.data.pairs} pairs, {found.data.flip_bank} flips, {LAYERS} SAEs of 16k", started)
    print(f"  {found.verdict}: {found.reason}")
    kinds = {"questions": question_prompts(asked, 100)}
    kinds |= {name: text_prompts(PROMPTS / f"{name}.txt", 100) for name in ("medical", "general")}
    started = time.monotonic()
    transfer_check(vlm, locate_saes(saes), kinds, range(LAYERS))
    report(f"transfer-check, 3 x 100 prompts, {LAYERS} SAEs of 16k", started)
    del vlm
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    train_and_evaluate(
        str(model),
        WORLD / "questions.jsonl",
        options.folder / f"adapter-{int(time.time())}",
        TrainSettings(epochs=1),
        layers="15-19",
        limit=options.questions,
    )
    report(f"finetune, layers 15-19, 1 epoch of {options.questions} questions, evaluation included", started)


if __name__ == "__main__":
    main()
