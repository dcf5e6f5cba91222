"""Evaluating saved adapters and clamps: `finetune evaluate` as a function."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from finetune.evaluation.arms import adapter_arm, base_arm, clamp_arms, known_texts, names_of
from finetune.evaluation.evaluate import Evaluation, evaluate
from finetune.lora.adapter_folder import shared_base
from finetune.lora.settings import NEW_TOKENS, TOLERANCE
from interp.measurement.clamp_spec import ClampSpec, Where, load_clamps
from interp.model.load import load_vlm
from interp.questions.files import Split, load_questions
from interp.runtime.progress import notify

if TYPE_CHECKING:
    pass


def evaluate_saved(
    adapters: Sequence[Path],
    questions: Path,
    model: str | None = None,
    images: Path | None = None,
    split: Split = "test",
    device: str = "auto",
    dtype: str = "auto",
    limit: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    prompt_changes: Mapping[str, Any] = MappingProxyType({}),
    clamps: Sequence[Sequence[ClampSpec]] = (),
    sae_of: Mapping[int, Path] = MappingProxyType({}),
    clamp_at: Where = "final",
    tolerance: float = TOLERANCE,
    new_tokens: int = NEW_TOKENS,
    image_cache: Path | None = None,
) -> Evaluation:
    """Compare the base with saved adapters, and with `clamps` of features of the SAEs `sae_of` (layer -> folder) in it.

    Each adapter and each set of clamps is an arm. `model` is by default the base that the adapters name, the prompt
    style the one they were trained with but for `prompt_changes`; `image_cache` is as of `load_vlm`. Raises InputError
    for bad input, for adapters that do not fit the model or each other, and if there is nothing to compare or no model.
    """
    adapters = [Path(folder) for folder in adapters]
    names = names_of(adapters)
    source, style, records = shared_base(adapters, model, prompt_changes)
    asked = load_questions(questions, images, split)[:limit]
    if split != "test" and records:
        notify(
            f"--split {split}: adapters may have been trained on these questions, so this is no held-out evaluation."
        )
    if revision is None and model is None:
        # That of the training, where they agree; the hub's main may have moved.
        recorded = {record.model.revision if record else None for record in records}
        revision = recorded.pop() if len(recorded) == 1 else None
    vlm = load_vlm(source, device, dtype, revision, style, image_cache)
    held = [load_clamps(specs, sae_of, vlm.d_model, vlm.device, clamp_at) for specs in clamps]
    arms = [base_arm(), *(adapter_arm(vlm, *saved) for saved in zip(adapters, names, records, strict=True))]
    arms += clamp_arms(held)
    return evaluate(vlm, arms, asked, known_texts(records), seed, sae_of, tolerance, new_tokens)
