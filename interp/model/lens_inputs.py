"""Inputs of a TransformerLens bridge from a question and its image."""

import torch
from torch import Tensor

from interp.images.decode import NO_IMAGE, open_image
from interp.model.pixels import pixels_of
from interp.model.prompts import prompt_tokens
from interp.model.vlm import Vlm


def lens_inputs(vlm: Vlm, image: str, text: str, closed: bool = True) -> dict[str, Tensor]:
    """One question about one image, in the prompt style of `vlm`, as inputs of its bridge: `bridge(**inputs)`.

        >>> inputs = interp.lens_inputs(vlm, questions[0].image, questions[0].question)
        >>> sorted(inputs)
        ['input', 'pixel_values', 'token_type_ids']

    The inputs are `input` int64 [1, S], the token ids; `token_type_ids` int64 [1, S], 1 at image tokens; and, unless
    `image` is `NO_IMAGE`, `pixel_values` [1, 3, h, w]. `closed` marks a yes/no question. Raises InputError for an
    unreadable image.
    """
    tokens = prompt_tokens(vlm.processor, [text], [closed], vlm.style, [image != NO_IMAGE])
    ids = torch.tensor(tokens, device=vlm.device)
    inputs = {"input": ids, "token_type_ids": (ids == vlm.model.config.image_token_id).long()}
    if image != NO_IMAGE:
        inputs["pixel_values"] = pixels_of(vlm, [open_image(image)]).to(vlm.device, vlm.tower_dtype)
    return inputs
