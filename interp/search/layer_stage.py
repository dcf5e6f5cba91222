"""Stage 4 of a search: patches of whole layers, the range that is taken from them, its test, and the verdict."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.causal.answer_patching import patch_answers
from interp.causal.feature_patching import joint_effects
from interp.causal.layer_patching import PatchTarget, layer_noise, patch_layers
from interp.causal.register_patching import patch_register
from interp.causal.window_patching import patch_windows
from interp.measurement.suffix_rerun import SuffixRerun
from interp.profile.formality import formality
from interp.profile.profile import LayerEffects, blind_layers, layer_profile
from interp.profile.range_test import RangeTest, range_test
from interp.profile.ranges import LayerRange, RangeScores, ranges_of
from interp.profile.verdict import Verdict, judge
from interp.runtime.prefetch import map_beside
from interp.schemas.layers import FormalityEntry, ProfileEntry
from interp.schemas.rules import Rule
from interp.screening.flips import Halves, filled_bank
from interp.screening.layers import ScreenedLayers
from interp.search.difference_parts import ENOUGH, difference_parts
from interp.search.stages import Measured
from interp.search.task import Task


class PatchedLayers(NamedTuple):
    """Patches of whole layers, and the pairs that were patched."""

    target: PatchTarget
    """The held-out flip bank."""
    effects: LayerEffects
    """What the patches do."""
    residual: Tensor
    """float32 [bank, layers, d_model]: the original's residual after the layer minus the paraphrase's."""
    below: Tensor
    """float32 [bank, layers, d_model]: the same before the layer."""
    noise: Tensor
    """float32 [bank, layers, d_model]: random directions of any length, for controls."""


class Judgement(NamedTuple):
    """What the layer profile shows."""

    profile: list[ProfileEntry]
    """One entry per layer."""
    ranges: dict[Rule, LayerRange]
    """Rule -> the range that it takes."""
    tests: dict[Rule, RangeTest]
    """Rule -> what its range does on the held-out half."""
    formality: FormalityEntry | None
    """Whether what is turned into another answer is the register; None without formal and casual wordings."""
    verdict: Verdict
    """Whether the range of the chosen rule is a gate."""


def patch_whole_layers(task: Task, halves: Halves, measured: Measured) -> PatchedLayers:
    """Residual, direct-effect, answer and register patches of every layer."""
    layers, seed = task.layers, task.settings.seed
    vlm, chosen = task.search.vlm, filled_bank(halves.selection, ENOUGH)
    counts = [len(flips.pairs) for flips in (halves.held_out_bank, chosen)]
    draw = partial(layer_noise, layers=len(layers), d_model=vlm.d_model, seed=seed)
    with map_beside(draw, counts, len(counts) if vlm.device.type == "cuda" else 0) as drawn:
        parts = difference_parts(task, halves, measured, chosen)
        noise, noise_selected = drawn
    held_out = task.patch_target(halves.held_out_bank, measured.device_bytes // 4)
    selected = task.patch_target(parts.selected, measured.device_bytes // 8)
    other_images = SuffixRerun(vlm, parts.other_images, team=task.team, checkpoint=task.checkpoint)
    effects = LayerEffects(
        patches=patch_layers(held_out, parts.residual, parts.below, layers, seed, noise),
        answers=patch_answers(held_out, parts.residual, parts.directions, layers),
        selected=parts.selected,
        answers_selected=patch_answers(selected, parts.residual_selected, parts.directions, layers),
        patches_selected=patch_layers(
            selected, parts.residual_selected, parts.below_selected, layers, seed, noise_selected
        ),
        answers_by_image=patch_answers(
            PatchTarget(parts.by_image, other_images), parts.image, parts.directions, layers
        ),
        by_image=parts.by_image,
        register=None if parts.register is None else patch_register(held_out, parts.register, layers, seed, noise[0]),
        register_selected=None
        if parts.register_selected is None
        else patch_register(selected, parts.register_selected, layers, seed, noise_selected[0]),
    )
    return PatchedLayers(held_out, effects, parts.residual, parts.below, noise[0])


def judge_layers(task: Task, halves: Halves, screened: ScreenedLayers, patched: PatchedLayers) -> Judgement:
    """Joint feature patches, the layer profile, the ranges that rules take from it, their tests, and the verdict."""
    layers, settings, effects = task.layers, task.settings, patched.effects
    joint = joint_effects(patched.target, screened.feature_patch, layers, settings.seed, patched.noise)
    profile = layer_profile(layers, screened, joint, halves, effects, settings.seed)
    ranges = ranges_of(layers, range_scores(effects, profile), settings.max_layers)
    tests = test_ranges(task, halves, patched, ranges)
    claim = formality(layers, effects, halves.held_out_bank, settings.seed)
    bank, rule = halves.held_out_bank, settings.rule
    verdict = judge(profile, bank, ranges[rule], tests[rule], claim, settings.min_flips)
    return Judgement(profile, ranges, tests, claim, verdict)


def range_scores(effects: LayerEffects, profile: Sequence[ProfileEntry]) -> RangeScores:
    """What the rules take their ranges from."""
    answers, patches = effects.answers_selected, effects.patches_selected
    shift = np.abs(patches.shift).sum() or 1.0
    return RangeScores(
        answer=(answers.answer - answers.random).sum(0) / shift,
        residual=patches.along_shift(patches.residual - patches.random_residual).sum(0) / shift,
        write=patches.along_shift(patches.write - patches.random_write).sum(0) / shift,
        flip_auc=np.array([entry.flip_auc.value or 0.0 for entry in profile]),
        blind=blind_layers(effects.answers_by_image, effects.by_image),
    )


def test_ranges(
    task: Task, halves: Halves, patched: PatchedLayers, ranges: Mapping[Rule, LayerRange]
) -> dict[Rule, RangeTest]:
    """What every rule's range holds, restores and breaks on the held-out flip bank."""
    bank, seed, layers = halves.held_out_bank, task.settings.seed, task.layers
    originals = task.prompts.iloc[bank.pairs["original"].to_numpy(np.int64)]
    rerun = SuffixRerun(task.search.vlm, originals, team=task.team, checkpoint=task.checkpoint)
    windows, added = list(dict.fromkeys(ranges.values())), []
    for taken in windows:
        first, last = layers.index(taken.first), layers.index(taken.last)
        # Where layers below the range are not profiled, the window begins above the last one that is.
        below = patched.residual[:, first - 1] if first else patched.below[:, 0]
        added.append(patched.residual[:, last] - below)
    ends = [taken.last for taken in windows]
    found = patch_windows(patched.target, rerun, torch.stack(added, 1), ends, seed)
    effects = dict(zip(windows, found, strict=True))
    return {
        rule: range_test(taken, effects[taken], patched.effects, layers, bank, seed) for rule, taken in ranges.items()
    }
