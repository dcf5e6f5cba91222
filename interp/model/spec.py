"""Which model to load, where to put it and how to prompt it: the settings that the commands share."""

from dataclasses import dataclass
from pathlib import Path

from interp.model.load import load_vlm
from interp.model.prompts import DEFAULT_STYLE, PromptStyle
from interp.model.vlm import Vlm
from interp.paths import WORLD


@dataclass(frozen=True)
class ModelSpec:
    """A model and the way it is loaded and prompted."""

    model: str | Path | None = None
    """Folder or hub id; None means the caller's default, which `load` takes to be the embedded world's model."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository; None means its main branch."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, cuda:1, ..., or split for one model over all GPUs."""
    dtype: str = "auto"
    """Number format of the weights: auto (float32 on a CPU, bfloat16 on a GPU), float32, bfloat16 or float16."""
    image_cache: Path | None = None
    """Folder that keeps image tokens between runs; None keeps none."""
    image_first: bool | None = None
    """Whether the image precedes the question; None keeps the order of the prompt style that is changed."""
    system: str | None = None
    """System instruction; None keeps that of the prompt style."""
    answer_instruction: str | None = None
    """Text appended to every yes/no question; None keeps that of the prompt style."""
    normalize: bool | None = None
    """Whether every wording is first rewritten to one canonical form; None keeps the prompt style's choice."""

    def prompt_style(self, style: PromptStyle = DEFAULT_STYLE) -> PromptStyle:
        """`style` with the changes that this specification makes."""
        changes = {name: getattr(self, name) for name in PromptStyle._fields}
        return style._replace(**{name: value for name, value in changes.items() if value is not None})

    def load(self, style: PromptStyle = DEFAULT_STYLE) -> Vlm:
        """Load the model, to be prompted in `style` with the changes of this specification.

        Raises InputError as `interp.model.load.load_vlm`.
        """
        model = WORLD / "planted" if self.model is None else self.model
        return load_vlm(model, self.device, self.dtype, self.revision, self.prompt_style(style), self.image_cache)
