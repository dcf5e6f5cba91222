"""A grounding study into a new folder, image by image, so that a killed study can be resumed."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.grounding.save import save_grounding
from finetune.grounding.settings import GroundingSettings
from finetune.grounding.study import GroundingStudy, Loaded, study
from interp.questions.tables import fingerprint
from interp.runtime.progress import notify
from interp.storage.atomic import refuse_used
from interp.storage.checkpoint import Checkpoint
from interp.storage.checksums import inputs_digests, weights_fingerprint
from interp.storage.working_folder import discard, finished, refuse_unfinished, working, working_folder


def study_into(
    out: Path, load: Callable[[], Loaded], settings: GroundingSettings, examples: int = 0, resume: bool = False
) -> GroundingStudy | None:
    """Make the `study` of what `load` returns, and write it to the new folder `out` (`save_grounding`).

    `out` appears only once it is complete. Until then a folder beside it (`interp.storage.working_folder`) holds the
    finished images; `resume` continues after them, and returns None if nothing is left to do. Raises InputError as
    `study` does, if `out` is not empty, and if another process is writing it.
    """
    if not resume:
        refuse_used(out)
    refuse_unfinished(out, resume)
    work = working_folder(out)
    with working(work):
        loaded = load()
        inputs = _inputs_of(loaded, settings)
        if resume and finished(out, inputs):
            notify(f"{out}: already complete, so nothing is left to do.")
            discard(work)
            return None
        refuse_used(out)
        checkpoint = Checkpoint(work, inputs)
        found = study(*loaded[:3], settings, loaded.feature, checkpoint)
        checkpoint.report_unused(checkpoint.used)
        save_grounding(found, out, examples, work, inputs)
        discard(work)
    return found


def _inputs_of(loaded: Loaded, settings: GroundingSettings) -> dict[str, Any]:
    """What must be the same for the observations of an earlier run to be used."""
    from peft.tuners.lora import LoraLayer

    vlm = loaded.vlm
    scales = {name: module.scaling for name, module in vlm.model.named_modules() if isinstance(module, LoraLayer)}
    return asdict(settings) | {
        "questions": fingerprint(loaded.questions),
        "weights": weights_fingerprint(vlm.model),
        "scales": sorted({scale for each in scales.values() for scale in each.values()}),
        "feature": f"{loaded.feature[0].id}:{loaded.feature[1]}" if loaded.feature else None,
        "prompt": vlm.style._asdict(),
        "arithmetic": vlm.arithmetic,
        "device": vlm.device.type,
        **inputs_digests(vlm.processor, [question.image for question in loaded.questions]),
    }
