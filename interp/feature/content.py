"""What a feature stands for: its tokens, the wordings that activate it, and where it is active."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.measurement.margins import text_residuals
from interp.model.prompts import prompt_tokens
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.questions.lexicon import named_finding
from interp.saes.sae import Sae, encode_features
from interp.schemas.feature_content import FeatureContent, Firing, Grouping, TokenEffect
from interp.schemas.layers import SaeEntry
from interp.schemas.record import interval_of
from interp.statistics import FloatArray, mean_interval, share_interval
from interp.storage.json_files import significant

TOKENS = 10
"""Number of tokens that are listed as promoted, and as suppressed."""
WORDINGS = 10
"""Number of wordings that are listed as activating the feature most, and least."""
SAMPLE = 64
"""Most wordings in which every position is read."""
POSITIONS = 8
"""Number of positions before the end of the prompt that are groups of their own."""
VOCABULARY_PART = 32768
"""Most rows of the unembedding that are read as float at once."""


def feature_content(
    vlm: Vlm,
    sae: Sae,
    feature: int,
    prompts: pd.DataFrame,
    activation: FloatArray,
    last: Tensor,
    source: SaeEntry | None,
    seed: int,
) -> FeatureContent:
    """What a feature of `sae` stands for, from its weights and its `activation` [n prompts] at the final tokens.

    `last` [n prompts, d_model] are the final-token residuals of the last layer, whose mean RMS scales the effects on
    tokens. Intervals are bootstraps over patients.
    """
    logits = token_effects(vlm, sae.w_dec[feature], last)
    promoted, suppressed = (logits.topk(min(TOKENS, len(logits)), largest=most) for most in (True, False))
    return FeatureContent(
        synthetic=all(Path(image).is_relative_to(WORLD) for image in prompts["image"]),
        sae=source,
        promoted=_tokens(vlm, *promoted),
        suppressed=_tokens(vlm, *suppressed),
        firing=[*firing_by_group(prompts, activation, seed), *firing_by_position(vlm, sae, feature, prompts, seed)],
    )


def token_effects(vlm: Vlm, direction: Tensor, last: Tensor) -> Tensor:
    """What one unit of a direction [d_model] adds to every logit through the output layer: float32 [vocabulary].

    It is direction * (1 + norm weight) / mean RMS of `last`, times the unembedding (the logit lens of a decoder row).
    Rows of the unembedding that no token has are left out.
    """
    norm, unembedding = vlm.model.model.language_model.norm, vlm.model.lm_head.weight
    # As in transformers.models.gemma3.modeling_gemma3.Gemma3RMSNorm: eps inside the root, weight stored minus one.
    rms = last.double().pow(2).mean(-1).add(norm.eps).sqrt().mean()
    scaled = (direction.double().cpu() * (1 + norm.weight.double().cpu()) / rms).float().to(unembedding.device)
    parts = [part.float() @ scaled for part in unembedding.detach().split(VOCABULARY_PART)]
    return torch.cat(parts)[: len(vlm.processor.tokenizer)].cpu()


def _tokens(vlm: Vlm, values: Tensor, ids: Tensor) -> list[TokenEffect]:
    names = vlm.processor.tokenizer.convert_ids_to_tokens(ids.tolist())
    return [
        TokenEffect(token=str(name).replace("▁", " "), logits=significant(value))
        for name, value in zip(names, values.tolist(), strict=True)
    ]


def firing_by_group(prompts: pd.DataFrame, activation: FloatArray, seed: int) -> list[Firing]:
    """The activation at the final token by register, phenomenon and finding; the largest groups of each come first."""
    original = prompts[prompts["variant"] == 0].set_index("question")["text"].map(named_finding)
    groupings: dict[Grouping, NDArray[np.object_]] = {
        "register": prompts["register"].fillna("untagged").to_numpy(object),
        "phenomenon": np.where(prompts["variant"] == 0, "original wording", prompts["phenomenon"].fillna("untagged")),
        "finding": original.loc[prompts["question"]].to_numpy(object),
    }
    patients = prompts["patient"].to_numpy(object)
    return [
        _firing(grouping, str(group), activation[member == group], patients[member == group], seed)
        for grouping, member in groupings.items()
        for group in pd.Series(member).value_counts().index
    ]


def firing_by_position(vlm: Vlm, sae: Sae, feature: int, prompts: pd.DataFrame, seed: int) -> list[Firing]:
    """The activation at the last POSITIONS tokens, from the end, and at the earlier ones, in at most SAMPLE wordings.

    Positions of the chat template are named by their token. What all prompts begin with is left out.
    """
    drawn = np.random.default_rng([seed, 29]).permutation(len(prompts))[:SAMPLE]
    sample = prompts.iloc[np.sort(drawn)].reset_index(drop=True)
    residuals, owner = text_residuals(vlm, sample, [sae.layer])
    activation = encode_features(sae, residuals[:, 0], torch.tensor([feature]))[:, 0].double().numpy()
    rows = pd.DataFrame({"owner": owner.numpy(), "activation": activation})
    from_end = rows.groupby("owner").cumcount(ascending=False).to_numpy()
    patients = sample["patient"].to_numpy(object)[rows["owner"]]
    names = template_tokens(vlm)
    return [
        _firing("position", names.get(k, f"−{k}"), activation[from_end == k], patients[from_end == k], seed)
        for k in range(POSITIONS)
        if (from_end == k).any()
    ] + [
        _firing("position", "earlier", activation[rows], patients[rows], seed)
        for rows in [from_end >= POSITIONS]
        if rows.any()
    ]


def template_tokens(vlm: Vlm) -> Mapping[int, str]:
    """Distance from the end of the prompt -> name, for the final token and those that the chat template appends."""
    first, second = prompt_tokens(vlm.processor, ["x", "y"], [True, True], vlm.style._replace(normalize=False))
    tail = next(k for k, (a, b) in enumerate(zip(reversed(first), reversed(second), strict=False)) if a != b)
    names = vlm.processor.tokenizer.convert_ids_to_tokens(first[len(first) - tail :])[::-1]
    return {k: f"{f'−{k}' if k else 'final'}, {name!r}" for k, name in enumerate(names)}


def _firing(grouping: Grouping, group: str, values: FloatArray, patients: NDArray[np.object_], seed: int) -> Firing:
    known = patients.tolist()
    return Firing(
        grouping=grouping,
        group=group,
        wordings=len(values),
        patients=len(set(known)),
        active=interval_of(share_interval(values > 0, known, seed)),
        mean=interval_of(mean_interval(values, known, seed)),
    )


def activating_wordings(prompts: pd.DataFrame, activation: FloatArray, count: int = WORDINGS) -> pd.DataFrame:
    """The different wordings with the largest and the smallest mean activation over their images.

    Columns: end (most or least), text, images, mean_activation [activation units], register, finding. It holds question
    text, so that it is shown and written only where that was asked for.
    """
    table = prompts.assign(activation=activation, register=prompts["register"].fillna("untagged"))
    found = table.groupby("text", sort=False).agg(
        images=("image", "nunique"), mean_activation=("activation", "mean"), register=("register", "first")
    )
    ranked = found.sort_values("mean_activation", ascending=False, kind="stable").reset_index()
    most = ranked.head(count).assign(end="most")
    least = ranked.iloc[len(most) :].tail(count).iloc[::-1].assign(end="least")
    shown = pd.concat([most, least], ignore_index=True)
    shown["finding"] = [named_finding(text) for text in shown["text"]]
    return shown[["end", "text", "images", "mean_activation", "register", "finding"]]
