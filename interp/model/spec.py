"""Which model to load, where to put it and how to prompt it: the settings that the commands share."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from interp.model.shape import LoadIn
from interp.paths import EMBEDDED, WORLD
from interp.runtime.errors import InputError
from interp.runtime.options import option

if TYPE_CHECKING:
    from interp.model.memory_jobs import Job
    from interp.model.prompts import PromptStyle
    from interp.model.vlm import Vlm

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Number format of a model, or auto for the one that suits the device (`interp.model.placement.choose_dtype`)."""


@dataclass(frozen=True)
class ModelSpec:
    """A model and the way it is loaded and prompted.

    >>> model = interp.ModelSpec("google/medgemma-4b-it", dtype="bfloat16", answer_instruction="Answer yes or no.")
    >>> model.prompt_style()
    PromptStyle(image_first=True, system=None, answer_instruction='Answer yes or no.', normalize=False)
    """

    model: str | Path | None = option(None, "Gemma 3 model with images: a folder or a hub id.", shown=EMBEDDED)
    revision: str | None = option(
        None, "Branch, tag or commit of the model's hub repository.", shown="main", advanced=True
    )
    device: str = option(
        "auto", "auto (a GPU if there is one), cpu, cuda, cuda:1, ..., or split: one model over all GPUs."
    )
    dtype: Dtype = option(
        "auto", "Number format of the model; auto is bfloat16 on a GPU that has it, and else float32."
    )
    load_in: LoadIn | None = option(
        None,
        "Quantize the decoder's projections to 4 or 8 bits while they are loaded: less memory, other margins. Needs "
        "bitsandbytes (pip install bitsandbytes).",
        shown="as saved",
    )
    max_memory: float | None = option(
        None,
        "Memory that the run may use on the GPU and in main memory, each [GiB]. What does not fit is computed again, "
        "read again or kept in a temporary file; a run that cannot fit says so before it starts.",
        min=0.5,
        shown="80% of what is free",
        advanced=True,
    )
    image_cache: str | Path | None = option(
        None,
        "Folder that keeps image tokens between runs. It then holds data derived from the images; protect it as you "
        "protect them.",
        shown="none",
        path=True,
        advanced=True,
    )
    image_first: bool | None = option(
        None,
        "Order of image and question. With the image first, the paraphrases of a question share its computation.",
        shown="image first",
        flags=("--image-first/--question-first",),
        advanced=True,
    )
    system: str | None = option(None, "System instruction.", shown="none", advanced=True)
    answer_instruction: str | None = option(
        None, "Text appended to every yes/no question, as 'Answer yes or no.'", shown="none", advanced=True
    )
    normalize: bool | None = option(
        None,
        "First rewrite every wording to one canonical form: a published baseline that reduces flips.",
        shown="as asked",
        flags=("--normalize/--as-asked",),
        advanced=True,
    )
    normal_form: Literal["gatescope", "psf-med"] | None = option(
        None,
        "Normalize to this form: 'Is there effusion?' (gatescope, as --normalize) or PSF-Med's own 'Is effusion "
        "present in this chest radiograph?' (psf-med).",
        shown="none, without --normalize",
        advanced=True,
    )

    def prompt_style(self, style: "PromptStyle | None" = None) -> "PromptStyle":
        """`style`, by default the usual one, with the changes that this specification makes.

        Raises InputError if it names a normal form for wordings that are to be asked as they are, and for a text that
        is not UTF-8.
        """
        # Here, because the command line reads the fields above and must start without torch.
        from interp.model.prompts import DEFAULT_STYLE

        style = DEFAULT_STYLE if style is None else style
        changes = {name: getattr(self, name) for name in style._fields}
        _check_utf8("--system", self.system)
        _check_utf8("--answer-instruction", self.answer_instruction)
        if self.normal_form is not None:
            if self.normalize is False:
                raise InputError(f"--normal-form {self.normal_form} rewrites wordings, but --as-asked keeps them.")
            changes["normalize"] = "psf-med" if self.normal_form == "psf-med" else True
        return style._replace(**{name: value for name, value in changes.items() if value is not None})

    def load(self, style: "PromptStyle | None" = None, job: "Job | None" = None, images: Iterable[str] = ()) -> "Vlm":
        """Load the model, to be prompted in `style` with the changes of this specification.

        Without a model, it is the embedded world's. `job` is what will be done with it, for which there must be enough
        memory, and `images` are those that it will encode first. Raises InputError as `interp.model.load.load_vlm`.
        """
        from interp.model.load import load_vlm

        return load_vlm(
            WORLD / "planted" if self.model is None else self.model,
            self.device,
            self.dtype,
            self.revision,
            self.prompt_style(style),
            self.image_cache,
            self.load_in,
            self.max_memory,
            job,
            images,
        )


def _check_utf8(option: str, text: str | None) -> None:
    """Raise InputError for a text with bytes that Python could not read, which it keeps as surrogates."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{option}: found bytes that are not UTF-8 after {error.start} characters, expected text. "
            "Type it again in a terminal that is set to UTF-8."
        ) from None


def given_model(model: "ModelSpec | str | Path") -> ModelSpec:
    """The parameter `model` of a function: a ModelSpec as it is, or that of a folder or hub id.

    Raises InputError for anything else.
    """
    if isinstance(model, ModelSpec):
        return model
    if isinstance(model, str | Path):
        return ModelSpec(model)
    raise InputError(f"model is of type {type(model).__name__}, expected a folder, a hub id, or a ModelSpec.")
