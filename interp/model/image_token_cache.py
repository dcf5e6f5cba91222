"""Image tokens kept on disk between runs, by the content of the image and of all that makes tokens of it.

A file's name is a hash and nothing of an image's path is written, but its tokens tell much of what the image shows.
"""

import json
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from interp.runtime.errors import InputError
from interp.storage.atomic import atomic_file
from interp.storage.checksums import joined_digest, tensor_digest, tensor_digests

if TYPE_CHECKING:
    from interp.model.vlm import Vlm

LAYOUT = "2"
"""To be changed whenever `interp.images.decode` decodes an image otherwise, or a file holds something else."""


class ImageCache(NamedTuple):
    """A folder of image tokens, and whose they are."""

    folder: Path
    """Holds folders of two letters, and in them one safetensors file an image."""
    encoder_digest: bytes
    """Digest of what makes tokens of a picture (`vision_encoder_digest`)."""

    def file_of(self, image: str) -> Path | None:
        """Where the tokens of an image file are or would be, whatever its name; None if it can not be read."""
        try:
            content = Path(image).read_bytes()
        except OSError:
            return None
        name = blake2b(self.encoder_digest + blake2b(content).digest(), digest_size=32).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"


def open_cache(vlm: "Vlm") -> ImageCache | None:
    """The cache of a model as it is now; None if none is asked for, or if an adapter is in its tower or projector.

    An adapter can be switched off and scaled without a change of any weight, so weights do not tell its tokens.
    """
    modules = (inside for part in vision_encoder_modules(vlm.model).values() for inside in part.modules())
    if vlm.image_cache is None or any(type(module).__module__.startswith("peft.") for module in modules):
        return None
    return ImageCache(vlm.image_cache, vision_encoder_digest(vlm))


def vision_encoder_modules(model: Any) -> dict[str, Any]:
    """The modules that make image tokens of pixels: the vision tower and the projector."""
    return {name: getattr(model.model, name) for name in ("vision_tower", "multi_modal_projector")}


def vision_encoder_digest(vlm: "Vlm") -> bytes:
    """Digest of what makes tokens of a picture: weights and their dtypes, configuration, processor, transformers.

    Names and paths of the model are not in it. The weights are hashed anew each time, as they may have been changed in
    place.
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
    """The tokens [image tokens, d_model] of one file; None if it is not there, or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # Not mapped into memory: a system allows fewer maps than there are images.
        saved = load(file.read_bytes())
        tokens, digest = saved["tokens"], bytes(saved["digest"].tolist())
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    return tokens if digest == tensor_digest(tokens) else None


def write_tokens(file: Path, tokens: Tensor) -> None:
    """Write the tokens of one image, whole or not at all. Raises InputError if that can not be done."""
    from safetensors.torch import save_file

    digest = torch.tensor(list(tensor_digest(tokens)), dtype=torch.uint8)
    try:
        with atomic_file(file, lasting=False) as partial:
            save_file({"tokens": tokens.contiguous(), "digest": digest}, partial)
    except OSError as error:
        raise _unusable(file.parent.parent, error) from None


def cache_folder(folder: Path) -> Path:
    """`folder`, made if it is not there, then for its owner's eyes only. Raises InputError if it can not be one."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from None
    return folder


def _unusable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"--image-cache {folder}: can not be written to ({error.strerror}). Name a folder of yours, with space left."
    )
