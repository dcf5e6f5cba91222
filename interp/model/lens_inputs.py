"""A question and its image as the inputs of a TransformerLens bridge."""

import torch
from torch import Tensor

from interp.images.decode import NO_IMAGE, open_image
from interp.model.image_tokens import pixels_of
from interp.model.prompts import prompt_tokens
from interp.model.vlm import Vlm


def lens_inputs(vlm: Vlm, image: str, text: str, closed: bool = True) -> dict[str, Tensor]:
    """One question about one image, in the prompt style of `vlm`, as the bridge takes it: `bridge(**inputs)`.

    `input` int64 [1, S] are the token ids, `token_type_ids` [1, S] 1 at image tokens, and `pixel_values` [1, 3, h, w],
    absent for `NO_IMAGE`. `closed` says that it is a yes/no question. Raises InputError for an unreadable image.
    """
    tokens = prompt_tokens(vlm.processor, [text], [closed], vlm.style, [image != NO_IMAGE])
    ids = torch.tensor(tokens, device=vlm.device)
    inputs = {"input": ids, "token_type_ids": (ids == vlm.model.config.image_token_id).long()}
    if image != NO_IMAGE:
        inputs["pixel_values"] = pixels_of(vlm, [open_image(image)]).to(vlm.device, vlm.tower_dtype)
    return inputs
