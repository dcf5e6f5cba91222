"""The shape of a Gemma 3 model as numbers: what its memory follows from, without any weight."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

LoadIn = Literal["4bit", "8bit"]
"""Formats to which the projections of the decoder layers can be quantized while they are loaded."""
ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Name of a number format -> its size [bytes]."""
QUANTIZED_ITEM = {"4bit": 0.5 + 1 / 64 + 1 / 4096, "8bit": 1.0}
"""LoadIn -> bytes for a quantized weight. 4-bit weights share a scale of 8 bits in blocks of 64, and 256 scales share
one of 32 bits (bitsandbytes' double quantization); those of 8 bits share one in a row."""


class ModelShape(NamedTuple):
    """The sizes of a Gemma 3 model with images. Numbers of weights follow from them exactly."""

    layers: int
    """Number of decoder layers."""
    width: int
    """Width of the residual stream, d_model."""
    mlp: int
    """Inner width of the decoder's MLPs."""
    heads: int
    """Number of query heads."""
    kv_heads: int
    """Number of key and value heads."""
    head: int
    """Width of a head."""
    vocabulary: int
    """Number of tokens; the output layer shares the embeddings."""
    tower_layers: int
    """Number of layers of the vision tower."""
    tower_width: int
    """Width of the vision tower."""
    tower_mlp: int
    """Inner width of the vision tower's MLPs."""
    patches: int
    """Number of patches of an image."""
    patch: int
    """Side of a patch [pixels]."""
    image_tokens: int
    """Number of tokens that an image takes in a prompt."""

    @classmethod
    def of(cls, config: Any) -> "ModelShape":
        """The shape that a `Gemma3Config` of transformers describes."""
        text, vision = config.text_config, config.vision_config
        return cls(
            text.num_hidden_layers,
            text.hidden_size,
            text.intermediate_size,
            text.num_attention_heads,
            text.num_key_value_heads,
            text.head_dim,
            text.vocab_size,
            vision.num_hidden_layers,
            vision.hidden_size,
            vision.intermediate_size,
            (vision.image_size // vision.patch_size) ** 2,
            vision.patch_size,
            config.mm_tokens_per_image,
        )

    @property
    def keys(self) -> int:
        """Width of the keys of a token in one layer, which is that of its values."""
        return self.kv_heads * self.head

    @property
    def queries(self) -> int:
        """Width of the queries of a token in one layer."""
        return self.heads * self.head

    @property
    def layer_projections(self) -> int:
        """Number of weights in the projections of one decoder layer."""
        return self.width * (2 * self.queries + 2 * self.keys + 3 * self.mlp)

    @property
    def parameters(self) -> int:
        """Number of all weights, with embeddings that the output layer shares counted once."""
        d, v = self.width, self.tower_width
        norms = self.layers * (4 * d + 2 * self.head) + d
        block = 4 * (v * v + v) + (v * self.tower_mlp + self.tower_mlp) + (self.tower_mlp * v + v) + 4 * v
        tower = (3 * self.patch**2 * v + v) + self.patches * v + self.tower_layers * block + 2 * v
        return self.vocabulary * d + self.layers * self.layer_projections + norms + tower + v * d + v

    def weight_bytes(self, dtype: str, load_in: LoadIn | None = None) -> int:
        """Memory of the weights [bytes]; `load_in` quantizes the projections of the decoder layers and nothing else."""
        quantized = self.layers * self.layer_projections if load_in else 0
        whole = (self.parameters - quantized) * ITEM[dtype]
        return whole + int(quantized * QUANTIZED_ITEM[load_in] if load_in else 0)

    def kv_bytes(self, tokens: int, dtype: str) -> int:
        """Memory of the keys and values of some tokens in all layers [bytes]."""
        return tokens * self.layers * 2 * self.keys * ITEM[dtype]


MEDGEMMA_4B = ModelShape(34, 2560, 10240, 8, 4, 256, 262208, 27, 1152, 4304, 4096, 14, 256)
"""The shape of google/medgemma-4b-it and google/gemma-3-4b-it."""


def shape_of_folder(folder: Path) -> ModelShape:
    """The shape of the model in a folder, from its config.json. Raises ValueError as transformers does."""
    from transformers import AutoConfig

    return ModelShape.of(AutoConfig.from_pretrained(folder, trust_remote_code=False))
