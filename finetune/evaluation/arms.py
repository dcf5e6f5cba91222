"""The arms of an evaluation: the base, adapters in it, clamps on it. An arm is what the model is while it is asked."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune.lora.adapter_folder import AdapterRecord, changes_sight, load_adapter
from finetune.lora.settings import TrainSettings
from interp.measurement.clamp_spec import Clamp
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.schemas.layer_list import layers_text

if TYPE_CHECKING:
    from peft import PeftModel


class Arm(NamedTuple):
    """One of the models that are compared; all of them are the same base with something in it."""

    name: str
    """As tables call it; no path."""
    enter: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Makes the model that arm, for the time of the context."""
    clamps: Sequence[Clamp] = ()
    """SAE features held at a value in it."""
    record: AdapterRecord | None = None
    """Where its adapter came from, None for no adapter or one that was not made here."""


def base_arm(adapted: "PeftModel | None" = None) -> Arm:
    """The base; with the model's own adapter, if it holds one, switched off."""
    return Arm("base") if adapted is None else Arm("base", adapted.disable_adapter)


def adapter_arm(vlm: Vlm, folder: Path, name: str, record: AdapterRecord | None) -> Arm:
    """A saved adapter, loaded when it is asked and taken out of the model again after it."""

    @contextmanager
    def enter() -> Iterator[None]:
        adapted, features = load_adapter(vlm, folder), vlm.image_tokens
        if changes_sight(adapted):
            # Its image tokens are others.
            vlm.image_tokens = {}
        try:
            yield
        finally:
            vlm.image_tokens = features
            adapted.unload()

    return Arm(name, enter, record=record)


def clamp_arms(sets: Sequence[Sequence[Clamp]]) -> list[Arm]:
    """The base with some features held at a value, an arm a set; values are in the names of those that need them."""
    names = [",".join(f"{clamp.layer}:{clamp.feature}" for clamp in clamps) for clamps in sets]
    valued = [
        ",".join(f"{c.layer}:{c.feature}={'mean' if math.isnan(c.value) else format(c.value, 'g')}" for c in clamps)
        for clamps in sets
    ]
    return [
        Arm("clamp " + (full if names.count(name) > 1 else name), clamps=clamps)
        for name, full, clamps in zip(names, valued, sets, strict=True)
    ]


def names_of(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many parts before it as it takes to tell them apart.

    Raises InputError for a folder that is named twice.
    """
    parts = [folder.absolute().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise InputError("The same adapter is named twice. Name every adapter once.")
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def seed_pools(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Adapters that differ in nothing but the seed of their training, two or more: name of the pool -> names of arms.

    Two of the same seed are no pool: one of them is a copy.
    """
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.record is not None:
            groups.setdefault(_recipe(arm.record), []).append(arm)
    pools = {}
    for members in groups.values():
        seeds = {repr(arm.record.settings.get("seed")) for arm in members if arm.record}
        if len(members) > 1 and len(seeds) == len(members):
            names = [arm.name for arm in members]
            title = f"{_common(names) or _layers(members[0])} ({len(members)} seeds)"
            pools[title if title not in pools else f"{title}, {names[0]} ..."] = names
    return pools


def _common(names: Sequence[str]) -> str:
    """What the names begin with, without numbers and separators at its end."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike).rstrip("-_/. 0123456789")


def _layers(arm: Arm) -> str:
    return f"layers {layers_text(arm.record.layers)}" if arm.record else arm.name


def _recipe(record: AdapterRecord) -> str:
    # Older records lack settings that came later, whose defaults are what they were trained with.
    given = asdict(TrainSettings()) | record.settings
    # How a batch is cut changes nothing.
    settings = {name: value for name, value in sorted(given.items()) if name not in ("seed", "micro_batch_size")}
    return repr((record.model.id, record.prompt, record.layers, record.data, settings))


def known_texts(records: Sequence[AdapterRecord | None]) -> set[str] | None:
    """Hashes of the texts that any of some adapters was trained on; None if there is none or one's are unknown."""
    # A published adapter comes without its hashes: what it has seen is unknown, not nothing.
    if not records or any(record is None or not record.text_hashes for record in records):
        return None
    return {text for record in records if record for text in record.text_hashes}
