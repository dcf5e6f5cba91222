"""A loaded vision-language model with everything that measuring it needs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.model.packing import Batch
from interp.model.prompts import DEFAULT_STYLE, AnswerTokens, PromptStyle
from interp.model.shape import LoadIn, ModelShape
from interp.runtime.distributed import ALONE, Team

if TYPE_CHECKING:
    from interp.model.transformer_lens import LensBridge


@dataclass(repr=False)
class Vlm:
    """A Gemma 3 vision-language model that is ready to be measured (`interp.model.load.load_vlm`).

    >>> vlm.n_layers, vlm.d_model, vlm.device.type
    (10, 128, ...)
    """

    model: Any
    """The `Gemma3ForConditionalGeneration`, in eval mode; LoRA layers may be injected in place."""
    processor: Any
    """The model's `Gemma3Processor`."""
    name: str
    """Hub id, or the folder name of a local model."""
    revision: str | None
    """Commit of the hub repository; None for a local folder."""
    answers: AnswerTokens
    """Token ids that mean yes and no."""
    style: PromptStyle = DEFAULT_STYLE
    """How questions are put to the model."""
    image_tokens: dict[str, Tensor] = field(default_factory=dict)
    """Image path -> projected image tokens [image tokens, d_model] in main memory; each image is encoded once."""
    images_begun: dict[str, Callable[[], Any]] = field(default_factory=dict)
    """Image path -> function that waits for the image, which is being read ahead of its encoding (`begin_images`)."""
    max_images: int = 2**31
    """Number of images that `image_tokens` holds if the prompts are known in advance (`load_batches`)."""
    image_cache: Path | None = None
    """Folder that keeps image tokens between runs (`interp.model.image_token_cache`); None keeps none."""
    load_in: LoadIn | None = None
    """Format to which the decoder's projections were quantized while they were loaded; None if they were not."""
    max_memory: float | None = None
    """Memory that a run may use on the model's device, and in main memory [GiB]; None takes most of what is free."""
    output_hooks: dict[int, Callable[[Tensor, Batch], Tensor]] = field(default_factory=dict)
    """Layer -> function of the layer's output [B, S, d_model] and the batch that returns the output to use instead.

    It is applied whenever the model is measured (`interp.measurement.clamps`), never in training. After the last layer
    only final tokens are read, and the others may be zero.
    """
    team: Team = ALONE
    """The processes that divide measurements and answers among themselves; all of them must ask for the same."""

    def __repr__(self) -> str:
        encoded = sum(len(tokens) > 0 for tokens in self.image_tokens.values())
        return (
            f"Vlm({self.name}, {self.n_layers} layers, d_model {self.d_model}, {self.arithmetic} on {self.device}, "
            f"{encoded} images encoded)"
        )

    @property
    def layers(self) -> Any:
        """The decoder layers of the language model, in order."""
        return self.model.model.language_model.layers

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.model.config.text_config.hidden_size

    @property
    def shape(self) -> ModelShape:
        """The sizes of the model, from which its memory follows (`interp.model.memory_model`)."""
        return ModelShape.of(self.model.config)

    @property
    def device(self) -> torch.device:
        """Device of the language model's weights; the first one if the model is split over several."""
        return self.model.lm_head.weight.device

    @property
    def arithmetic(self) -> str:
        """Name of the weights' dtype, e.g. float32."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def tower_dtype(self) -> torch.dtype:
        """Dtype of the vision tower's weights and of the pixels that it takes."""
        return self.model.model.vision_tower.dtype

    def bridge(self) -> "LensBridge":
        """The model as a TransformerLens bridge that accepts sae-lens SAEs, over the same weights.

        `output_hooks` belong to `interp.measure` and are not part of the bridge. See
        `interp.model.transformer_lens.lens_bridge`.
        """
        from interp.model.transformer_lens import lens_bridge

        return lens_bridge(self.model, self.processor, self.name, self.device)
