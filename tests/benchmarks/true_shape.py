"""Wall time and peak GPU memory at MedGemma-4B's true shape: random weights, random 16k SAEs for all 34 layers.

    python tests/benchmarks/true_shape.py --questions 120 --folder /tmp/true_shape

Writes a model of 8.6 GB and SAEs of 5.7 GB into `--folder`, in the layouts of the real ones, and runs the search and
the published training recipe (layers 15-19) on questions of the embedded world, images scaled to 896 pixels.
The numbers found mean nothing: the weights are random. Needs a GPU.
"""

import argparse
import time
from pathlib import Path

import torch

from finetune.run import train_and_evaluate
from finetune.settings import TrainSettings
from interp.demo import WORLD
from interp.demo.cases import ANSWERS
from interp.demo.model import CHAT_TEMPLATE, IMAGE_TOKENS, train_tokenizer
from interp.demo.phrasings import all_texts
from interp.find import FindSettings, find_features
from interp.questions import load_questions, prompt_table
from interp.sae_sources import locate_saes
from interp.saes import Sae, save_sae
from interp.vlm import load_vlm, measure

D_MODEL, D_SAE, LAYERS = 2560, 16384, 34


def write_model(folder: Path) -> None:
    """Gemma 3 4B's configuration with random bfloat16 weights, and a processor for 896 pixels and 256 image tokens."""
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    tokenizer = train_tokenizer(all_texts(), ANSWERS)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in IMAGE_TOKENS.items()}
    text = Gemma3TextConfig(
        vocab_size=262208,
        hidden_size=D_MODEL,
        intermediate_size=10240,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        sliding_window=1024,
    )
    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=896,
        patch_size=14,
        vision_use_head=False,
    )
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=256,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Gemma3ForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    model.save_pretrained(folder)
    images = Gemma3ImageProcessor(size={"height": 896, "width": 896}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    Gemma3Processor(
        image_processor=images, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE, image_seq_length=256
    ).save_pretrained(folder)


def write_saes(folder: Path, model: Path) -> None:
    """Random SAEs of every layer with some 80 active features a token, by thresholds at 2.6 standard deviations."""
    prompts = prompt_table(load_questions(WORLD / "questions.jsonl", split="train")[:2])
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
    if not model.is_dir():
        write_model(model)
        write_saes(saes, model)
    report("writing model and SAEs", started)

    asked = load_questions(WORLD / "questions.jsonl", split="train")[: options.questions]
    started = time.monotonic()
    vlm = load_vlm(model)
    report("loading the model", started)
    started = time.monotonic()
    found = find_features(vlm, locate_saes(saes), asked, settings=FindSettings(bank_margin=0.0), split="train").artifact
    report(f"find-features, {found.data.pairs} pairs, {found.data.flip_bank} flips, {LAYERS} SAEs of 16k", started)
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
