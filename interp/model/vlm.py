"""A vision-language model, loaded and made ready."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.model.packing import Batch
from interp.model.prompts import DEFAULT_STYLE, AnswerTokens, PromptStyle
from interp.runtime.distributed import ALONE, Team

if TYPE_CHECKING:
    from interp.model.transformer_lens import LensBridge


@dataclass
class Vlm:
    """A Gemma 3 vision-language model, ready to be measured."""

    model: Any
    """`Gemma3ForConditionalGeneration`, in eval mode; LoRA layers may be injected in place."""
    processor: Any
    """Its `Gemma3Processor`."""
    name: str
    """Where it was loaded from: hub id, or folder name for a local model."""
    revision: str | None
    """Commit of the hub repository, None for a local folder."""
    answers: AnswerTokens
    """Token ids that mean yes and no."""
    style: PromptStyle = DEFAULT_STYLE
    """How every question is put to it."""
    image_tokens: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Image path -> projected image tokens [image tokens, d_model], in main memory: each meets the tower once."""
    max_images: int = 2**31
    """Most images in `image_tokens` where the prompts themselves say which are needed next (`loaded_batches`)."""
    image_cache: Path | None = None
    """Folder that image tokens are kept in between runs (`interp.model.image_token_cache`), None for no such."""
    output_hooks: dict[int, Callable[[Tensor, Batch], Tensor]] = field(default_factory=dict, repr=False)
    """Layer -> what becomes of its output [B, S, d_model] when it is measured (interp.measurement.clamps), never in
    training."""
    team: Team = ALONE
    """The processes that share what is measured and said; all of them must ask for the same."""

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
    def device(self) -> torch.device:
        """Where the language model's weights are."""
        return self.model.lm_head.weight.device

    @property
    def arithmetic(self) -> str:
        """Name of the weights' dtype, as float32."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def tower_dtype(self) -> torch.dtype:
        """Of the vision tower's weights, and of the pixels that it takes."""
        return self.model.model.vision_tower.dtype

    def bridge(self) -> "LensBridge":
        """The model in TransformerLens's and sae-lens's hands, over the same weights
        (`interp.model.transformer_lens.lens_bridge`)."""
        from interp.model.transformer_lens import lens_bridge

        return lens_bridge(self)
