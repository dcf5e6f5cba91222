"""The arms of an evaluation: the base, the base with an adapter, whole models, and each of these with clamps."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune.evaluation.settings import ClampIn
from finetune.lora.adapter_folder import AdapterRecord, changes_vision_encoder, load_adapter
from finetune.lora.foreign_config import read_config
from finetune.lora.settings import WITHOUT_EFFECT, TrainSettings
from interp.measurement.clamp_spec import Clamp
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.schemas.layer_list import layers_text
from interp.storage.manifest import read_manifest

if TYPE_CHECKING:
    from peft import PeftModel


REMOVED_SETTINGS = {"modules": "all", "allocation": "uniform"}
"""Training settings of earlier versions -> the values that correspond to training without them."""
NOT_OF_THE_RECIPE = ("base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode")
"""Fields of adapter_config.json that say where the base is and how the file was written, not what was trained."""


class Arm(NamedTuple):
    """One of the models that an evaluation compares; all of them share the base."""

    name: str
    """Name of the arm in tables; never a path."""
    enter: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Returns a context within which the model is this arm."""
    clamps: Sequence[Clamp] = ()
    """SAE features that are held at a value."""
    record: AdapterRecord | None = None
    """Origin of its adapter; None without an adapter, or with one that GateScope did not train."""
    trained: str = ""
    """What was trained, beyond the record: configuration of peft, and digest of the base's weights where recorded."""
    warnings: Sequence[str] = ()
    """What a reader of the arm's numbers must know, one sentence each."""


def base_arm(adapted: "PeftModel | None" = None) -> Arm:
    """Return the base as an arm; the adapter `adapted`, if the model holds one, is disabled in it."""
    return Arm("base") if adapted is None else Arm("base", adapted.disable_adapter)


def adapter_arm(vlm: Vlm, folder: Path, name: str, record: AdapterRecord | None, warnings: Sequence[str] = ()) -> Arm:
    """Return a saved adapter as an arm, which loads the adapter on entry.

    On exit the model consists of the very modules and tensors of before, whatever the adapter holds.
    """

    @contextmanager
    def enter() -> Iterator[None]:
        adapted, tokens = load_adapter(vlm, folder), vlm.image_tokens
        try:
            if changes_vision_encoder(adapted):
                # The cached image tokens are those of the base's vision tower.
                vlm.image_tokens = {}
            yield
        finally:
            vlm.image_tokens = tokens
            adapted.unload()

    return Arm(name, enter, record=record, trained=_trained(folder), warnings=warnings)


def _trained(folder: Path) -> str:
    """What a saved adapter consists of, for telling different recipes apart.

    Records alone do not: `finetune ablate` of earlier versions trained attention, MLPs and weighted ranks under
    settings that say nothing of it.
    """
    manifest = read_manifest(folder)
    # peft writes sets, in any order.
    config = {
        name: sorted(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else value
        for name, value in read_config(folder).items()
        if name not in NOT_OF_THE_RECIPE
    }
    return json.dumps([config, manifest and manifest.inputs.get("base_weights")], sort_keys=True, default=repr)


def model_arm(vlm: Vlm, load: Callable[[], Vlm], name: str) -> Arm:
    """Return a whole model, such as a merged or a fully tuned one, as an arm; `load` loads it on entry.

    While the arm is entered, both models are in memory.
    """
    own = ("model", "processor", "answers", "image_tokens")

    @contextmanager
    def enter() -> Iterator[None]:
        other, base = load(), {field: getattr(vlm, field) for field in own}
        try:
            for field in own:
                setattr(vlm, field, getattr(other, field))
            # The arm holds the model only as long as it is entered.
            del other
            yield
        finally:
            for field, value in base.items():
                setattr(vlm, field, value)

    return Arm(name, enter, warnings=[f"{name} is a whole model in place of an adapter."])


def clamp_arms(sets: Sequence[Sequence[Clamp]]) -> list[Arm]:
    """Return one arm for each set of clamps; names include the values where sets differ in these alone."""
    names = [",".join(f"{clamp.layer}:{clamp.feature}" for clamp in clamps) for clamps in sets]
    valued = [
        ",".join(f"{c.layer}:{c.feature}={'mean' if math.isnan(c.value) else format(c.value, 'g')}" for c in clamps)
        for clamps in sets
    ]
    return [
        Arm("clamp " + (full if names.count(name) > 1 else name), clamps=clamps)
        for name, full, clamps in zip(names, valued, sets, strict=True)
    ]


def clamped_arms(arms: Sequence[Arm], clamps: Sequence[Arm], clamp_in: ClampIn) -> list[Arm]:
    """The arms of `clamp_arms` in the base, and each of them in each of the other `arms`, as `clamp_in` says.

    Raises InputError if there are clamps for adapters but no adapter, or the other way round.
    """
    if clamp_in == "base":
        return list(clamps)
    if not clamps:
        raise InputError(f"--clamp-in {clamp_in}: no clamp is given. Name features with --clamp, or leave it out.")
    if not arms:
        raise InputError(f"--clamp-in {clamp_in}: there is no adapter to clamp features in. Give one, or leave it out.")
    inside = [
        arm._replace(name=f"{arm.name}{JOINT}{clamp.name}", clamps=clamp.clamps) for arm in arms for clamp in clamps
    ]
    return inside if clamp_in == "adapters" else [*clamps, *inside]


JOINT = " + "
"""Joins the name of an adapter and that of a clamp in it."""


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the last part of each of the different paths, with as many parents as make the names unique."""
    parts = [folder.absolute().parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def seed_pools(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Group adapters that differ only in their training seed: name of the pool -> names of its two or more arms.

    Adapters with the same clamps are grouped likewise. Those that share a seed form no pool, because one is a copy.
    """
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.record is not None:
            held = [tuple(clamp.record().items()) for clamp in arm.clamps]
            groups.setdefault(repr((_recipe(arm.record), arm.trained, held)), []).append(arm)
    pools = {}
    for members in groups.values():
        seeds = {repr(arm.record.settings.get("seed")) for arm in members if arm.record}
        if len(members) > 1 and len(seeds) == len(members):
            names = [arm.name for arm in members]
            adapters, clamps = zip(*(name.partition(JOINT)[::2] for name in names), strict=True)
            clamp = f"{JOINT}{clamps[0]}" if members[0].clamps else ""
            title = f"{_common(adapters) or _layers(members[0])}{clamp} ({len(members)} seeds)"
            pools[title if title not in pools else f"{title}, {names[0]} ..."] = names
    return pools


def _common(names: Sequence[str]) -> str:
    """Return the common prefix of the names without trailing numbers and separators."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike).rstrip("-_/. 0123456789")


def _layers(arm: Arm) -> str:
    return f"layers {layers_text(arm.record.layers)}" if arm.record else arm.name


def _recipe(record: AdapterRecord) -> str:
    """Return everything that determines an adapter except its seed."""
    # Older records lack later settings, whose defaults describe their training; those that have gone since matter only
    # where they were not at their defaults.
    given = asdict(TrainSettings()) | record.settings
    settings = sorted((name, value) for name, value in given.items() if (name, value) not in REMOVED_SETTINGS.items())
    settings = [(name, value) for name, value in settings if name not in ("seed", *WITHOUT_EFFECT)]
    about = (record.model, record.prompt, record.layers, record.data, record.steps, record.trainable_parameters)
    return repr((about, settings))


def known_texts(records: Sequence[AdapterRecord | None]) -> set[str] | None:
    """Return the hashes of the texts that any of the adapters was trained on.

    None if there is no adapter, or if the texts of one are unknown.
    """
    # A published adapter has no hashes, so the texts that it has seen are unknown rather than none.
    if not records or any(record is None or not record.text_hashes for record in records):
        return None
    return {text for record in records if record for text in record.text_hashes}
