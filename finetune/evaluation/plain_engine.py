"""Any vision-language model of transformers as an engine: padded batches through its own processor and `generate`.

Nothing is shared between prompts and every image is encoded again for each, so this is many times as slow as the packed
engine, which knows Gemma 3 alone. It assumes only what `AutoModelForImageTextToText` and a chat template give.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from finetune.evaluation.engine import FirstTokens
from interp.images.decode import BLANK_IMAGE, open_image
from interp.measurement.generate import end_tokens
from interp.measurement.margins import check_finite
from interp.model.attention import set_attention
from interp.model.blank_images import ALL_BLANKS, BLANKS, GAUSSIAN, gaussian_image
from interp.model.load import adopt_template, check_memory, quiet_loading
from interp.model.memory_jobs import loading
from interp.model.memory_model import Format
from interp.model.placement import place_model
from interp.model.prompts import PromptStyle, answer_margin, answer_tokens, chat_messages
from interp.model.spec import ModelSpec
from interp.model.weights_check import check_weights, refuse_two_models
from interp.runtime.errors import InputError, first_line
from interp.runtime.progress import spinner, track
from interp.storage.hub import Source, locate_any
from interp.storage.json_files import read_object


class PlainEngine:
    """A loaded model of any family (`load_plain_engine`) that answers prompts in padded batches."""

    def __init__(self, model: Any, processor: Any, source: Source, style: PromptStyle, batch_size: int) -> None:
        from transformers import GenerationConfig

        self.model, self.processor, self.source, self.style = model, processor, source, style
        self.batch_size = batch_size
        """Number of prompts in a batch."""
        self.answer_ids = answer_tokens(processor.tokenizer)
        self.own_limit: int | None = model.generation_config.max_new_tokens
        ends = end_tokens(model)
        pad = processor.tokenizer.pad_token_id
        if pad is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
            pad = processor.tokenizer.pad_token_id
        # Greedy means the most probable token: penalties and samplers of the model's own configuration are left out.
        model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=pad)
        self.blank_pixels: dict[str, Tensor] = {}
        """Name of a blank image that is no picture -> its pixels, as the processor gives those of one picture."""
        self.blank_pictures: dict[str, Any] = {}
        """Name of a blank image -> the picture that is shown, or that the pixels replace."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.processor.tokenizer

    def prepare_blanks(self, images: Sequence[str], seed: int) -> None:
        """Make the blank images; raises InputError for an unreadable image.

        Noise and mean are made of pixels after the processor, as for Gemma 3. If it makes pixels of another shape of
        the images than of the grey picture, the mean is that of images resized to the grey picture.
        """
        from PIL import Image

        grey = open_image(BLANK_IMAGE)
        white, black = (Image.new("RGB", grey.size, (level,) * 3) for level in (255, 0))
        self.blank_pictures = dict.fromkeys(ALL_BLANKS.values(), grey)
        self.blank_pictures |= {BLANKS["white"]: white, GAUSSIAN: gaussian_image(seed)}
        low, high = (self._pixels(picture).float() for picture in (black, white))
        noise = torch.rand(low.shape, generator=torch.Generator().manual_seed(seed))
        self.blank_pixels = {BLANKS["noise"]: low + noise * (high - low), BLANKS["mean"]: self._mean(images, grey)}

    def first_tokens(self, prompts: pd.DataFrame, description: str) -> FirstTokens:
        """The margin and the first token of every row of a prompt table. Raises InputError if one is not finite."""
        margin, top = np.empty(len(prompts)), np.empty(len(prompts), np.int64)
        for rows, inputs in self._batches(prompts, description):
            logits = self._generate(inputs, 1).logits[0]
            margin[rows] = answer_margin(logits, self.answer_ids).double().cpu().numpy()
            top[rows] = logits.argmax(-1).cpu().numpy()
        check_finite(prompts, torch.arange(len(prompts)), torch.from_numpy(margin))
        return FirstTokens(margin, top)

    def answers(self, prompts: pd.DataFrame, max_new_tokens: int, description: str) -> list[str]:
        """The greedy answer to every row of a prompt table, stripped, without special tokens."""
        texts = [""] * len(prompts)
        for rows, inputs in self._batches(prompts, description):
            tokens = self._generate(inputs, max_new_tokens).sequences[:, inputs["input_ids"].shape[1] :]
            said = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for row, text in zip(rows, said, strict=True):
                texts[row] = text.strip()
        return texts

    @torch.no_grad()
    def _generate(self, inputs: Any, count: int) -> Any:
        return self.model.generate(
            **inputs, max_new_tokens=count, do_sample=False, return_dict_in_generate=True, output_logits=True
        )

    def _batches(self, prompts: pd.DataFrame, description: str) -> Iterator[tuple[list[int], Any]]:
        """Batches of wordings of like length, on the model's device: their rows in the table and their inputs.

        A batch shows either pictures alone or one blank image alone.
        """
        images, texts = prompts["image"].to_numpy(object), prompts["text"].to_numpy(object)
        closed = prompts["closed"].to_numpy(bool)
        order = sorted(range(len(prompts)), key=lambda row: (images[row] in self.blank_pixels, len(texts[row])))
        blanks = [row for row in order if images[row] in self.blank_pixels]
        chunks = [
            part[start : start + self.batch_size]
            for part in (
                order[: len(order) - len(blanks)],
                *([r for r in blanks if images[r] == b] for b in self.blank_pixels),
            )
            for start in range(0, len(part), self.batch_size)
        ]
        for rows in track(chunks, description, self.batch_size):
            pictures = [self.blank_pictures.get(images[row]) or open_image(images[row]) for row in rows]
            inputs = self._inputs([texts[row] for row in rows], [bool(closed[row]) for row in rows], pictures)
            pixels = self.blank_pixels.get(images[rows[0]])
            if pixels is not None:
                inputs["pixel_values"] = torch.cat([pixels] * len(rows)).to(inputs["pixel_values"].dtype)
            yield rows, inputs.to(self.model.device, self.model.dtype)

    def _inputs(self, texts: Sequence[str], closed: Sequence[bool], pictures: Sequence[Any]) -> Any:
        """What the processor makes of some wordings, each with its picture, padded on the left."""
        messages = [chat_messages(text, yes_no, True, self.style) for text, yes_no in zip(texts, closed, strict=True)]
        rendered = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        start = self.tokenizer.bos_token
        return self.processor(
            text=rendered,
            images=[[picture] for picture in pictures],
            # As in transformers, the tokenizer adds the first token if the template has not.
            add_special_tokens=start is None or not rendered[0].startswith(start),
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )

    def _pixels(self, picture: Any) -> Tensor:
        """The pixels of one picture as the processor gives them, with any leading dimensions."""
        return self._inputs(["?"], [False], [picture])["pixel_values"]

    def _mean(self, images: Sequence[str], grey: Any) -> Tensor:
        """The mean of the pixels of the different images."""
        different = sorted(set(images))
        resized = {self._pixels(open_image(image)).shape for image in different} != {self._pixels(grey).shape}
        total: Any = 0
        for image in different:
            picture = open_image(image)
            total = total + self._pixels(picture.resize(grey.size) if resized else picture).double()
        return (total / max(1, len(different))).float()


def load_plain_engine(model: str | Path, spec: ModelSpec, batch_size: int) -> PlainEngine:
    """Load any model that `AutoModelForImageTextToText` knows, to be asked in the style of `spec`.

    `spec` also gives device, dtype and revision; its model is not used. Raises InputError for a model that cannot be
    found or loaded, that lacks weights, or whose template leaves out the question, and for a Gemma 3 whose weights do
    not fit into memory; those of other families, or saved quantized, are not counted.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    source = locate_any(model, spec.revision)
    refuse_two_models(source.folder)
    saved = _saved_as(source.folder)
    placed = place_model(
        source.folder, spec.device, spec.dtype, spec.load_in, spec.max_memory, saved, lambda folder: "auto"
    )
    if spec.device != "split" and saved is None:
        check_memory(source, Format(placed.dtype, spec.load_in), loading(), placed.devices, spec.max_memory)
    try:
        with spinner("loading the model"), quiet_loading():
            processor = AutoProcessor.from_pretrained(source.folder, trust_remote_code=False)
            adopt_template(processor)
            found: Any = AutoModelForImageTextToText.from_pretrained(
                source.folder,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **placed.options,
            )
            loaded, report = found
            # Many families publish weights that their class does not use.
            check_weights(source.folder, {**report, "unexpected_keys": ()})
            if loaded.config.model_type == "gemma3":
                set_attention(loaded)
            engine = PlainEngine(placed.settle(loaded), processor, source, spec.prompt_style(), batch_size)
    except InputError as error:
        folder = "" if str(error).startswith(str(source.folder)) else f"{source.folder}: "
        raise InputError(f"{folder}{error}") from None
    # transformers does not validate configurations, and a wrong one may raise any kind of error.
    except Exception as error:
        raise InputError(f"{source.folder}: could not be loaded ({first_line(error)}).") from None
    check_template(engine)
    return engine


def _saved_as(folder: Path) -> str | None:
    """The method by which the weights in a model folder are quantized; None if they are not."""
    path = folder / "config.json"
    config = read_object(path).get("quantization_config") if path.is_file() else None
    return str(config.get("quant_method", "by an unknown method")) if isinstance(config, dict) else None


def check_template(engine: PlainEngine) -> None:
    """Raise InputError unless the model's processor takes a question and an image."""
    probe = chat_messages("Is this in the prompt?", True, True, engine.style)
    try:
        (rendered,) = engine.processor.apply_chat_template([probe], tokenize=False, add_generation_prompt=True)
        inputs = engine._inputs(["Is this in the prompt?"], [True], [open_image(BLANK_IMAGE)])
    # Templates and processors raise errors of any kind.
    except Exception as error:
        raise InputError(
            f"{engine.source.folder}: its processor takes no conversation with an image ({first_line(error)})."
        ) from None
    for part in (part for message in probe for part in message["content"] if part["type"] == "text"):
        if part["text"].strip() not in rendered:
            raise InputError(
                f"{engine.source.folder}: the chat template leaves out {part['text']!r}. Copy the base model's."
            )
    if "pixel_values" not in inputs:
        raise InputError(f"{engine.source.folder}: the processor gives no pixels, so this model takes no images.")
