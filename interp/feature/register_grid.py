"""The register grid: the same question from formal to casual wording, and the feature's activation on each.

Only the frame around the name of a finding varies, never the name, so levels differ only in the register of the frame.
Frames of different levels that end in the same tokens show whether the final tokens alone explain the difference.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from interp.measurement.margins import measure
from interp.model.prompts import prompt_tokens
from interp.model.vlm import Vlm
from interp.questions.lexicon import TERMS, named_finding
from interp.runtime.errors import InputError, first_line
from interp.saes.sae import Sae
from interp.schemas.record import interval_of
from interp.schemas.study import Grid, LevelMean
from interp.statistics import Estimate, auc, mean_interval, resampled, spearman

SHIPPED = Path(__file__).with_name("register_grid.csv")
LEVELS = range(5)
"""Levels of register: 0 is the most formal, 4 the most casual."""
COLUMNS = ["level", "frame"]
IMAGES = 20
"""Most images on which the grid is asked."""
FINDINGS = 4
"""Most findings for which the grid asks."""
COMMON_FINDINGS = ("pleural effusion", "pneumothorax", "cardiomegaly", "consolidation")
"""Findings for which the grid asks if the questions name none of the lexicon."""
LAST_TOKENS = 3
"""Number of final tokens that the wordings of a token-controlled pair share."""


def read_grid(path: Path = SHIPPED) -> pd.DataFrame:
    """Read a grid, a CSV file with the columns level (one of LEVELS) and frame (text with {x} for the finding).

    Raises InputError if the file is absent or not such a table, or if it has fewer than two levels.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give --grid a CSV file with the columns {', '.join(COLUMNS)}.")
    try:
        grid = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except ValueError as error:
        reason = first_line(error)
        raise InputError(f"{path}: not a CSV file in UTF-8 ({reason}).") from None
    if list(grid.columns) != COLUMNS:
        raise InputError(
            f"{path}: found the columns {', '.join(map(str, grid.columns))}, expected {', '.join(COLUMNS)}. "
            "Quote frames that hold a comma."
        )
    known = {str(level) for level in LEVELS}
    for row, (level, frame) in enumerate(zip(grid["level"], grid["frame"], strict=True), start=2):
        if level not in known:
            raise InputError(
                f"{path}, row {row}: found level {level!r}, expected {LEVELS[0]} (formal) to {LEVELS[-1]} (casual)."
            )
        if "{x}" not in frame:
            raise InputError(f"{path}, row {row}: found frame {frame!r}, expected one with {{x}} for the finding.")
        if set("{}") & set(frame.replace("{x}", "")):
            raise InputError(f"{path}, row {row}: found frame {frame!r}, expected no braces but those of {{x}}.")
    if grid["level"].nunique() < 2:
        raise InputError(f"{path}: found {grid['level'].nunique()} levels, expected at least two to compare.")
    return grid.astype({"level": int})


def grid_findings(wordings: Sequence[str]) -> list[str]:
    """The findings that the wordings name most often, at most FINDINGS; COMMON_FINDINGS if they name none."""
    named = Counter(name for name in map(named_finding, wordings) if name != "other")
    return [name for name, _ in named.most_common(FINDINGS)] or list(COMMON_FINDINGS)


def grid_prompts(grid: pd.DataFrame, findings: Sequence[str], prompts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The prompt table of a grid: every frame with every finding, on at most IMAGES of the images of `prompts`.

    Its columns are image, patient, finding, level, frame, text and closed (True). The images are drawn at random, from
    as many patients as possible.
    """
    images = prompts.drop_duplicates("image")[["image", "patient"]].sample(frac=1, random_state=seed)
    images = images.assign(nth=images.groupby("patient").cumcount()).sort_values("nth", kind="stable").head(IMAGES)
    phrase = {term.name: term.canonical.phrase for term in TERMS}
    asked = images.drop(columns="nth").merge(pd.DataFrame({"finding": findings}), how="cross").merge(grid, how="cross")
    texts = [f.replace("{x}", phrase[x]) for f, x in zip(asked["frame"], asked["finding"], strict=True)]
    return asked.assign(text=[text[0].upper() + text[1:] for text in texts], closed=True)


def study_grid(vlm: Vlm, sae: Sae, feature: int, asked: pd.DataFrame, seed: int) -> tuple[Grid, pd.DataFrame]:
    """Measure one feature on the prompts of a grid (`grid_prompts`); intervals are bootstraps over patients.

    Returns the grid as in study.json, and a table with one row per level, frame and finding: level, frame, finding,
    prompts, mean_activation [activation units].
    """
    residuals = measure(vlm, asked, [sae.layer], description="register grid").residuals[:, 0]
    column = torch.tensor([feature], device=sae.w_enc.device)
    activation = sae.encode(residuals.to(sae.w_enc.device), column)[:, 0].cpu().double().numpy()
    level, patient = asked["level"].to_numpy(), asked["patient"].to_numpy()
    ends = (level == level.min()) | (level == level.max())
    formal, at_ends = (level == level.min())[ends], activation[ends]

    def auc_of(rows: NDArray[np.intp]) -> float:
        return float(auc(at_ends[rows], formal[rows])[0])

    def spearman_of(rows: NDArray[np.intp]) -> float:
        return float(spearman(level[rows], activation[rows]))

    pairs = controlled_pairs(vlm, asked)
    differences = activation[pairs[:, 0]] - activation[pairs[:, 1]]
    of_level = {int(k): level == k for k in np.unique(level)}
    cells = asked.assign(activation=activation).groupby(["level", "frame", "finding"], sort=False)["activation"]
    undefined = Estimate(np.nan, np.nan, np.nan)
    controlled = mean_interval(differences, patient[pairs[:, 0]].tolist(), seed) if len(pairs) else undefined
    grid = Grid(
        images=asked["image"].nunique(),
        findings=list(dict.fromkeys(asked["finding"])),
        levels=[
            LevelMean(
                level=k,
                prompts=int(rows.sum()),
                mean=interval_of(mean_interval(activation[rows], patient[rows].tolist(), seed)),
            )
            for k, rows in of_level.items()
        ],
        auc=interval_of(resampled(auc_of, patient[ends], seed)),
        spearman=interval_of(resampled(spearman_of, patient, seed)),
        controlled_pairs=len(pairs),
        controlled=interval_of(controlled),
    )
    return grid, cells.agg(prompts="size", mean_activation="mean").reset_index()


def controlled_pairs(vlm: Vlm, asked: pd.DataFrame) -> NDArray[np.int64]:
    """Rows (more formal, more casual) of `asked` whose texts end alike: int64 [pairs, 2].

    The two have the same image and finding, different levels, and the same last LAST_TOKENS tokens of the model before
    the suffix of the chat template. Pairs with equal tokens throughout, as normalization makes them, are left out.
    """
    texts = list(dict.fromkeys(asked["text"]))
    probes = prompt_tokens(vlm.processor, ["x", "y"], [True, True], vlm.style._replace(normalize=False))
    tail = _common_suffix(*probes)
    tokens = dict(zip(texts, prompt_tokens(vlm.processor, texts, [True] * len(texts), vlm.style), strict=True))
    found = []
    for _, same in asked.reset_index(drop=True).groupby(["image", "finding"], sort=False):
        rows = sorted(zip(same["level"], same.index, same["text"], strict=True), key=lambda row: row[0])
        for (level, i, text), (other_level, j, other) in combinations(rows, 2):
            a, b = tokens[text], tokens[other]
            span = tail + LAST_TOKENS
            if level < other_level and a != b and a[-span:] == b[-span:]:
                found.append((i, j))
    return np.array(found, np.int64).reshape(-1, 2)


def _common_suffix(a: list[int], b: list[int]) -> int:
    return next(k for k, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=False)) if x != y)
