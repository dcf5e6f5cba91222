"""Evaluating saved adapters and clamps: `finetune evaluate` as a function."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

from finetune.evaluation.adapter_warnings import adapter_warnings
from finetune.evaluation.arms import (
    adapter_arm,
    base_arm,
    clamp_arms,
    clamped_arms,
    known_texts,
    model_arm,
    names_of,
)
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.result import Evaluation
from finetune.evaluation.settings import ClampIn, EvaluationSettings
from finetune.lora.adapter_folder import shared_base
from finetune.lora.locate import locate_adapter
from interp.measurement.clamp_spec import ClampSpec, Where, load_clamps, parse_clamps
from interp.model.memory_jobs import measuring
from interp.model.spec import ModelSpec, given_model
from interp.questions.schema import Question
from interp.questions.spec import DataSpec, given_data
from interp.runtime.arguments import expect_one_of
from interp.runtime.errors import InputError
from interp.runtime.progress import notify
from interp.saes.locate import given_saes
from interp.storage.checksums import weights_fingerprint


def evaluate_saved(
    adapters: str | Path | Sequence[str | Path],
    data: DataSpec | str | Path | Sequence[Question],
    model: ModelSpec | str | Path = ModelSpec(),
    settings: EvaluationSettings = EvaluationSettings(),
    *,
    clamps: str | Sequence[str | Sequence[ClampSpec]] = (),
    sae_of: Mapping[int, Path] | str | Path = MappingProxyType({}),
    clamp_at: Where = "final",
    clamp_in: ClampIn = "base",
    features: Sequence[tuple[int, int]] = (),
) -> Evaluation:
    """Compare saved adapters, and `clamps` of features of the SAEs `sae_of` (layer -> folder), with their base model.

        >>> settings = finetune.EvaluationSettings(new_tokens=0)
        >>> evaluation = finetune.evaluate_saved("adapter", interp.DataSpec(limit=16), settings=settings)
        >>> list(evaluation.arms)
        ['base', 'adapter']

    Each adapter is an arm, and each set of `clamps`, one or several, as "17:3818=0" or parsed, in the base, in each
    adapter, or in both, as `clamp_in` says. `adapters` are one or several; each is a folder, a folder that holds a
    single one, or a hub id with or without a folder in it (`finetune.lora.locate`); a whole model in its place is an
    arm too. The questions are those of the test split of `data`: a JSON Lines file, a DataSpec, or loaded questions.
    `sae_of` may be a source of SAEs, too (`interp.locate_saes`). Unless `model` says otherwise, the base is the one
    that the adapters name, without an adapter the embedded world's model, and the prompt style is that of the training.
    The activations of `features`, (layer, feature) of the same SAEs, are tried as detectors of flips. Raises InputError
    for bad input, for adapters that do not fit the model or each other, and if there is nothing to compare.
    """
    data, model = given_data(data), given_model(model)
    adapters = [adapters] if isinstance(adapters, str | Path) else adapters
    expect_one_of("adapters", adapters, Sequence, "one or several folders or hub ids of adapters")
    clamps = [clamps] if isinstance(clamps, str) else clamps
    parsed = [parse_clamps(each) if isinstance(each, str) else each for each in clamps]
    sae_of = given_saes(sae_of, {spec.layer for specs in parsed for spec in specs} | {layer for layer, _ in features})
    located = [locate_adapter(given) for given in adapters]
    # The same folder may be given as itself, as the checkpoint in a folder, and by a link.
    if len({given.folder.resolve() for given in located}) < len(located):
        raise InputError("The same adapter is given twice. Give every adapter once.")
    names = names_of([Path(given) for given in adapters])
    folders = [given.folder for given in located if not given.is_model]
    if model.model is None and located and not folders:
        raise InputError(f"{adapters[0]}: a whole model names no base to compare it with. Give the base with --model.")
    base, style, records = shared_base(folders, model)
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
    vlm = base.load(style, measuring())
    # Hashing all weights takes seconds, so it is done once for all adapters.
    base_digest = cache(partial(weights_fingerprint, vlm.model))
    arms, record_of = [base_arm()], dict(zip(folders, records, strict=True))
    for name, given in zip(names, located, strict=True):
        if given.is_model:
            load = partial(replace(base, model=given.folder, revision=None).load, style)
            arms.append(model_arm(vlm, load, name))
        else:
            record = record_of[given.folder]
            warnings = adapter_warnings(vlm, str(base.model), base_digest, given.folder, name, record)
            arms.append(adapter_arm(vlm, given.folder, name, record, warnings))
    held = [load_clamps(specs, sae_of, vlm.d_model, vlm.device, clamp_at) for specs in parsed]
    arms += clamped_arms(arms[1:], clamp_arms(held), clamp_in)
    # Nobody knows which texts a whole model was trained on.
    known = known_texts([None if given.is_model else record_of[given.folder] for given in located])
    return evaluate(
        vlm,
        arms,
        asked,
        known,
        settings.seed,
        sae_of,
        settings.tolerance / 100,
        settings.new_tokens,
        features,
        settings.sentence_encoder,
    )
