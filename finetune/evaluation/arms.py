"""The arms of an evaluation: states of one model, namely the base, the base with an adapter, and with clamps."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune.lora.adapter_folder import AdapterRecord, changes_vision_encoder, load_adapter
from finetune.lora.settings import TrainSettings
from interp.measurement.clamp_spec import Clamp
from interp.model.vlm import Vlm
from interp.schemas.layer_list import layers_text

if TYPE_CHECKING:
    from peft import PeftModel


REMOVED_SETTINGS = {"modules": "all", "allocation": "uniform"}
"""Training settings of earlier versions -> the values that correspond to training without them."""


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

    return Arm(name, enter, record=record, warnings=warnings)


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


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the last part of each of the different paths, with as many parents as make the names unique."""
    parts = [folder.absolute().parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def seed_pools(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Group adapters that differ only in their training seed: name of the pool -> names of its two or more arms.

    Adapters that share a seed form no pool, because one of them is a copy.
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
    # Results do not depend on how a batch is divided.
    settings = [(name, value) for name, value in settings if name not in ("seed", "micro_batch_size")]
    return repr((record.model.id, record.prompt, record.layers, record.data, settings))


def known_texts(records: Sequence[AdapterRecord | None]) -> set[str] | None:
    """Return the hashes of the texts that any of the adapters was trained on.

    None if there is no adapter, or if the texts of one are unknown.
    """
    # A published adapter has no hashes, so the texts that it has seen are unknown rather than none.
    if not records or any(record is None or not record.text_hashes for record in records):
        return None
    return {text for record in records if record for text in record.text_hashes}
