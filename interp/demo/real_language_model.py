"""A real Gemma 3 language model given eyes: a model with images on published weights, in Gemma's own vocabulary.

The language model comes from a folder as transformers saves it, or from a GGUF file, whose weights are restored to
floating point. The vision tower and the projector are new, as small as the embedded model's, and untrained.
"""

import math
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.demo.model import IMAGE_TOKENS, assemble_model
from interp.demo.radiographs import SIZE
from interp.model.load import quiet_loading
from interp.model.prompts import prompt_tokens
from interp.runtime.errors import InputError, first_line
from interp.runtime.progress import spinner

TURN_TOKENS = ("<start_of_turn>", "<end_of_turn>")
"""Tokens of Gemma's chat template, which its base models know too."""
ROWS_MULTIPLE = 64
"""The number of embeddings is a multiple of this, as in Gemma 3's own models with images."""
SAMPLE = "Is there radiographic evidence of a left pleural effusion?"


class LanguageModel(NamedTuple):
    """A Gemma 3 language model as it was read."""

    config: Any
    """Its `Gemma3TextConfig`."""
    weights: dict[str, Tensor]
    """Name of each weight in `Gemma3ForCausalLM` -> its values, in floating point."""
    tokenizer: Any
    """Its tokenizer, with the tokens of images added."""


def read_language_model(source: Path) -> LanguageModel:
    """Read a Gemma 3 language model from a folder or from a `.gguf` file, whose package `gguf` must be installed.

    Raises InputError if there is no such file or folder, if it holds no Gemma 3 language model or no tokenizer, and if
    the tokenizer lacks the tokens of Gemma's chat template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    is_file = source.suffix == ".gguf"
    if not (source.is_file() if is_file else (source / "config.json").is_file()):
        found = "found something else" if source.exists() else "no such file or folder"
        raise InputError(f"--language-model {source}: {found}, expected a folder with config.json, or a .gguf file.")
    if is_file and find_spec("gguf") is None:
        raise InputError(f"{source}: reading it needs the package gguf. Run `pip install gguf`.")
    folder = source.parent if is_file else source
    options: dict[str, Any] = {"gguf_file": source.name} if is_file else {}
    try:
        with spinner("reading the language model"), quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, extra_special_tokens=IMAGE_TOKENS, trust_remote_code=False, **options
            )
            model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False, **options)
    # transformers raises errors of any kind for files that it cannot read.
    except Exception as error:
        raise InputError(f"{source}: could not be read as a language model ({first_line(error)}).") from None
    if model.config.model_type != "gemma3_text":
        raise InputError(f"{source}: found a model of type {model.config.model_type}, expected gemma3_text.")
    absent = [token for token in TURN_TOKENS if token not in tokenizer.get_vocab()]
    if absent:
        raise InputError(f"{source}: the tokenizer has no token {absent[0]}, which Gemma's chat template needs.")
    # A model that was read from a GGUF file cannot be saved, but its values can.
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    return LanguageModel(model.config, weights, tokenizer)


def check_round_trip(processor: Any) -> None:
    """Raise InputError unless the processor gives the same tokens after it is saved and loaded again.

    transformers 5.17 cuts this tokenizer's words into characters then, and gives the image token another id.
    """
    import transformers

    def sample(which: Any) -> list[list[int]]:
        ids = which.tokenizer.convert_tokens_to_ids([*TURN_TOKENS, *IMAGE_TOKENS.values()])
        return [ids, *prompt_tokens(which, [SAMPLE]), which.tokenizer(SAMPLE)["input_ids"]]

    with TemporaryDirectory() as folder, quiet_loading():
        processor.save_pretrained(folder)
        loaded = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        try:
            same = sample(processor) == sample(loaded)
        # A broken tokenizer gives prompts that the check in `prompt_tokens` refuses.
        except InputError:
            same = False
    if not same:
        raise InputError(
            f"transformers {transformers.__version__} changes this tokenizer when it is saved and loaded again: "
            f"{SAMPLE!r} gives other tokens. Use transformers 5.23, which does not."
        )


def give_eyes(language_model: LanguageModel, seed: int) -> Any:
    """A `Gemma3ForConditionalGeneration` in float32 with these weights, and an untrained vision tower and projector.

    Every weight of the language model stays as it is. The embeddings grow by one row for each new token, and up to a
    multiple of ROWS_MULTIPLE; each new row is the mean of the others.
    """
    from transformers import Gemma3TextConfig

    given = language_model.config.to_dict()
    rows = math.ceil(len(language_model.tokenizer) / ROWS_MULTIPLE) * ROWS_MULTIPLE
    dropped = ("quantization_config", "architectures", "dtype", "transformers_version", "_name_or_path")
    text = {name: value for name, value in given.items() if name not in dropped}
    rows = max(rows, given["vocab_size"])
    model = assemble_model(Gemma3TextConfig(**text | {"vocab_size": rows}), language_model.tokenizer, SIZE, seed)
    with torch.no_grad():
        embeddings = language_model.weights["model.embed_tokens.weight"].float()
        added = embeddings.mean(0).expand(rows - len(embeddings), -1)
        model.get_input_embeddings().weight.copy_(torch.cat([embeddings, added]))
    text_weights = {
        name.removeprefix("model."): weight.float()
        for name, weight in language_model.weights.items()
        if name not in ("model.embed_tokens.weight", "lm_head.weight")
    }
    found = model.model.language_model.load_state_dict(text_weights, strict=False)
    if found.unexpected_keys or found.missing_keys != ["embed_tokens.weight"]:
        named = [*found.unexpected_keys, *found.missing_keys][0]
        raise InputError(f"The language model's weights do not fit its configuration; the first misfit is {named}.")
    return model
