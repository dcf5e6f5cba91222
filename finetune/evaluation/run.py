"""Evaluating saved adapters and clamps: `finetune evaluate` as a function."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from finetune.evaluation.arms import adapter_arm, base_arm, clamp_arms, known_texts, names_of
from finetune.evaluation.evaluate import Evaluation, evaluate
from finetune.evaluation.settings import EvaluationSettings
from finetune.lora.adapter_folder import shared_base
from interp.measurement.clamp_spec import ClampSpec, Where, load_clamps
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.progress import notify


def evaluate_saved(
    adapters: Sequence[Path],
    data: DataSpec,
    model: ModelSpec = ModelSpec(),
    settings: EvaluationSettings = EvaluationSettings(),
    *,
    clamps: Sequence[Sequence[ClampSpec]] = (),
    sae_of: Mapping[int, Path] = MappingProxyType({}),
    clamp_at: Where = "final",
) -> Evaluation:
    """Compare saved adapters, and `clamps` of features of the SAEs `sae_of` (layer -> folder), with their base model.

    Each adapter and each set of clamps is an arm. The questions are those of `data.test_split`. Unless `model` says
    otherwise, the base is the one that the adapters name, without an adapter the embedded world's model, and the prompt
    style is that of the training. Raises InputError for bad input, for adapters that do not fit the model or each
    other, and if there is nothing to compare.
    """
    adapters = [Path(folder) for folder in adapters]
    names = names_of(adapters)
    base, style, records = shared_base(adapters, model)
    asked = data.load_test()
    if data.test_split != "test" and records:
        notify(
            f"--split {data.test_split}: the adapters may have been trained on these questions, so this evaluation is "
            "not held out."
        )
    if model.revision is None and model.model is None:
        # That of the training, if the adapters agree: the main branch of the hub repository may have moved on.
        recorded = {record.model.revision if record else None for record in records}
        base = replace(base, revision=recorded.pop() if len(recorded) == 1 else None)
    vlm = base.load(style)
    held = [load_clamps(specs, sae_of, vlm.d_model, vlm.device, clamp_at) for specs in clamps]
    arms = [base_arm(), *(adapter_arm(vlm, *saved) for saved in zip(adapters, names, records, strict=True))]
    arms += clamp_arms(held)
    return evaluate(
        vlm, arms, asked, known_texts(records), settings.seed, sae_of, settings.tolerance, settings.new_tokens
    )
