"""Cache of image tokens on disk, keyed by the content of the image and of everything that turns it into tokens.

File names are hashes and no image path is stored, but the tokens reveal much of what an image shows.
"""

import json
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.storage.atomic import atomic_file
from interp.storage.checksums import joined_digest, tensor_digest, tensor_digests

LAYOUT = "3"
"""Version of the cache. Change it when `interp.images.decode` decodes images differently or the format changes."""


class ImageCache(NamedTuple):
    """A folder of image tokens for one vision encoder."""

    folder: Path
    """Cache folder: subfolders of two letters that hold one safetensors file per image."""
    encoder_digest: bytes
    """Digest of everything that turns pixels into tokens (`vision_encoder_digest`)."""

    def file_of(self, image: str) -> Path | None:
        """The cache file for the tokens of an image file; None if the image cannot be read."""
        try:
            content = Path(image).read_bytes()
        except OSError:
            return None
        name = blake2b(self.encoder_digest + blake2b(content).digest(), digest_size=32).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"


def open_cache(vlm: Vlm) -> ImageCache | None:
    """The cache for the model in its present state; None without a cache folder or with an adapter in the encoder.

    An adapter can be disabled or scaled without changing any weight, so its weights do not determine the tokens.
    """
    modules = (inside for part in vision_encoder_modules(vlm.model).values() for inside in part.modules())
    if vlm.image_cache is None or any(type(module).__module__.startswith("peft.") for module in modules):
        return None
    return ImageCache(vlm.image_cache, vision_encoder_digest(vlm))


def vision_encoder_modules(model: Any) -> dict[str, Any]:
    """The modules that turn pixels into image tokens: the vision tower and the projector."""
    return {name: getattr(model.model, name) for name in ("vision_tower", "multi_modal_projector")}


def vision_encoder_digest(vlm: Vlm) -> bytes:
    """Digest of the weights with their dtypes, the configuration, the processor and the version of transformers.

    It contains no name or path of the model. The weights are hashed on every call, as they may have changed in place.
    """
    config = vlm.model.config
    described = [
        LAYOUT,
        version("transformers"),
        vlm.processor.image_processor.to_json_string(),
        json.dumps(_without_paths(config.vision_config.to_dict()), sort_keys=True, default=str),
        str(config.mm_tokens_per_image),
    ]
    weights = {
        f"{part}.{name}": tensor
        for part, module in vision_encoder_modules(vlm.model).items()
        for name, tensor in module.state_dict().items()
    }
    digests = tensor_digests(weights.values())
    return joined_digest([*(text.encode() for text in described), *(name.encode() for name in weights), *digests])


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}


def read_tokens(file: Path) -> Tensor | None:
    """Read the tokens [image tokens, d_model] of one cache file; None if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # Not memory-mapped: the operating system allows fewer maps than there are images.
        saved = load(file.read_bytes())
        tokens, digest = saved["tokens"], bytes(saved["digest"].tolist())
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    return tokens if digest == tensor_digest(tokens) else None


def write_tokens(file: Path, tokens: Tensor) -> None:
    """Write the tokens of one image atomically. Raises InputError if the folder cannot be written to."""
    from safetensors.torch import save_file

    digest = torch.tensor(list(tensor_digest(tokens)), dtype=torch.uint8)
    try:
        with atomic_file(file, lasting=False) as partial:
            save_file({"tokens": tokens.contiguous(), "digest": digest}, partial)
    except OSError as error:
        raise _unusable(file.parent.parent, error) from None


def cache_folder(folder: Path) -> Path:
    """Create `folder` if it is missing, readable by its owner only, and return it. Raises InputError if that fails."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from None
    return folder


def _unusable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"--image-cache {folder}: cannot be written to ({error.strerror}). Name a folder of your own with free space."
    )
