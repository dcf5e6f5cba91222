"""A vision-language model, loaded and made ready."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.demo import WORLD
from interp.errors import InputError
from interp.fused import fuse
from interp.hub import locate
from interp.image_cache import cache_folder
from interp.image_tokens import straighten
from interp.memory import memory_left
from interp.packing import Batch
from interp.processes import ALONE, Team, refuse_several, team_on
from interp.progress import busy
from interp.prompts import PLAIN, AnswerTokens, PromptStyle, answer_tokens
from interp.split import map_over_gpus

if TYPE_CHECKING:
    from interp.bridge import LensBridge

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
    style: PromptStyle = PLAIN
    """How every question is put to it."""
    features: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Image path -> projected image tokens [image tokens, d_model], in main memory: each meets the tower once."""
    images_held: int = 2**31
    """Most images in `features` where the prompts themselves say which are needed next (`loaded_batches`)."""
    image_cache: Path | None = None
    """Folder that image tokens are kept in between runs (`interp.image_cache`), None for no such."""
    changes: dict[int, Callable[[Tensor, Batch], Tensor]] = field(default_factory=dict, repr=False)
    """Layer -> what becomes of its output [B, S, d_model] when it is measured (interp.clamps), never in training."""
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
        """The model in TransformerLens's and sae-lens's hands, over the same weights (`interp.bridge.lens_bridge`)."""
        from interp.bridge import lens_bridge

        return lens_bridge(self)


def load_vlm(
    model: str | Path = WORLD / "planted",
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    style: PromptStyle = PLAIN,
    image_cache: Path | None = None,
) -> Vlm:
    """Load a Gemma 3 model and its processor from a local folder or the hub's cache, by default the embedded world's.

    `device` auto takes a GPU if there is one, split all GPUs for one model (`interp.split`); `dtype` auto takes
    bfloat16 on a GPU and float32 on a CPU.
    `image_cache` is a folder that image tokens are kept in between runs; it is made if it is not there. Raises
    InputError for a model that is not there or not of this kind (see `interp.hub.locate`), for a device or dtype that
    this machine lacks, and if `image_cache` can not be a folder.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    split = device == "split"
    if split:
        refuse_several("--device split")
    device = choose_device("auto" if split else device)
    usual = "float32" if torch.device(device).type == "cpu" else "bfloat16"
    chosen = DTYPES.get(usual if dtype == "auto" else dtype)
    if chosen is None:
        raise InputError(f"--dtype {dtype}: expected auto, {', '.join(DTYPES)}.")
    source = locate(model, revision)
    places: dict[str, Any] = {"device_map": map_over_gpus(source.folder)} if split else {}
    kept = None if image_cache is None else cache_folder(image_cache)
    try:
        with busy("loading the model"), quiet_loading():
            processor = AutoProcessor.from_pretrained(source.folder, trust_remote_code=False)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                source.folder,
                dtype=chosen,
                attn_implementation="sdpa",
                trust_remote_code=False,
                use_safetensors=True,
                **places,
            )
    # transformers takes configurations at their word, and meets false ones with errors of any kind.
    except Exception as error:
        # Which torch, cleaning up, may turn an interruption into too.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{source.folder}: could not be loaded ({reason}).") from None
    # What peft writes into an adapter as its base: the hub id, not this machine's cache.
    loaded.name_or_path = str(model)
    straighten(loaded)
    fuse(loaded)
    vlm = Vlm(
        model=(loaded if split else loaded.to(device)).eval().requires_grad_(False),
        processor=processor,
        name=source.name,
        revision=source.revision,
        answers=answer_tokens(processor.tokenizer),
        style=style,
        image_cache=kept,
    )
    hold_images(vlm, memory_left(vlm.device).host // 2)
    kind = str(chosen).removeprefix("torch.")
    log.info("model %s: %d layers of width %d, %s on %s", vlm.name, vlm.n_layers, vlm.d_model, kind, vlm.device)
    return vlm


def hold_images(vlm: Vlm, max_bytes: int) -> None:
    """Set `vlm.images_held` to as many images as `max_bytes` of main memory hold, at least one."""
    a_token = vlm.d_model * vlm.tower_dtype.itemsize
    vlm.images_held = max(1, max_bytes // (vlm.model.config.mm_tokens_per_image * a_token))


def choose_device(device: str) -> str:
    """`auto` as cuda if there is a GPU, else cpu; of several processes each takes its own GPU.

    Raises InputError for a device that torch cannot use here, and as `interp.processes.team_on`.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        return str(team_on("cuda").device or "cuda")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: not usable here ({str(error).splitlines()[0]}).") from None
    return device


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' own bars and advice, which say nothing that a user of ours could act on."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
