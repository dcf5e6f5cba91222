"""`verify`: whether the folder of a search is really of this model, these SAEs and these questions.

The files are compared with the manifest; model, SAEs and questions with the digests that the run recorded. Then a
sample of questions is measured again. `delta_margin.csv` holds the margin shift of every pair and the top feature's
delta, without saying which pair a row is of, so every pair of the sample must be found there. Everything else (layers,
ranges, recoveries) depends on all questions together: only a repetition of the whole search computes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch

from interp.measurement.margins import measure
from interp.model.placement import DTYPES
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint, pair_table, prompt_table
from interp.runtime.errors import InputError, first_line
from interp.saes.sae import load_sae
from interp.saes.source import sae_source
from interp.schemas.layers import SCHEMA_VERSION, Layers, hub_sources
from interp.screening.feature_stats import feature_delta
from interp.screening.flips import find_flips, questions_that_can_flip
from interp.search.find import find_features
from interp.search.run_folder import LAYERS, saes_digest
from interp.search.settings import FindSettings
from interp.storage.checks import CLOSE, Check, files_check, near, same
from interp.storage.checksums import weights_fingerprint
from interp.storage.json_files import read_object
from interp.storage.manifest import read_manifest

PAIRS = "delta_margin.csv"
COMPARED = ("data", "profile", "ranges", "features", "families", "gate", "formality", "commit_layer")
"""Parts of layers.json whose numbers a repeated search must give."""
DELTA_TOLERANCE = 0.02
"""Rounding error of a delta in 16 bits, as a share of the largest delta; it is a twentieth of that in float32."""


class SavedRun(NamedTuple):
    """A search on disk, and the model, SAEs and questions that it is compared with."""

    folder: Path
    """Folder of the search."""
    artifact: Layers
    """Its layers.json."""
    vlm: Vlm
    """The model, loaded with the data type and the prompt of the artifact."""
    sae_of: Mapping[int, Path]
    """Layer -> folder of its SAE."""
    questions: Sequence[Question]
    """The questions of the artifact's split."""


def verify_run(saved: SavedRun, sample: int = 50, seed: int = 0, full: bool = False) -> list[Check]:
    """Compare what the folder of a search claims with what is found now.

    `sample` questions are drawn by `seed` and measured again; `full` repeats the whole search. Raises InputError if
    none of the questions can flip, and for damaged tables.
    """
    asked = questions_that_can_flip(saved.questions)
    checks = _identity(saved, asked)
    if all(check.holds for check in checks if check.what == "model, shape") and (saved.folder / PAIRS).is_file():
        checks += _sampled_pairs(saved, asked, sample, seed)
    return [*checks, *_repeated(saved)] if full else checks


def _identity(saved: SavedRun, asked: Sequence[Question]) -> list[Check]:
    """Checks of files, questions, model and SAEs; of the weights if the run recorded their digest."""
    files, manifest = files_check(saved.folder), read_manifest(saved.folder)
    checks = [] if files is None else [files]
    data, model, vlm = saved.artifact.data, saved.artifact.model, saved.vlm
    checks.append(same("questions, digest", data.fingerprint, fingerprint(asked)))
    checks.append(same("model, shape", f"{model.n_layers} x {model.d_model}", f"{vlm.n_layers} x {vlm.d_model}"))
    inputs: dict[str, Any] = manifest.inputs if manifest else {}
    if "weights" in inputs:
        checks.append(same("model, digest of weights", inputs["weights"], weights_fingerprint(vlm.model)))
    return [*checks, *_sae_checks(saved, inputs)]


def _sae_checks(saved: SavedRun, inputs: Mapping[str, Any]) -> list[Check]:
    recorded, sae_of = saved.artifact.saes, saved.sae_of
    layers = sorted(recorded)
    absent = [layer for layer in layers if layer not in sae_of]
    if absent:
        return [Check("SAEs", f"layers {layers}", f"none for layers {absent}", False)]
    checks = _sae_source_checks(saved)
    if "saes" in inputs and not checks:
        checks.append(same("SAEs, digest", inputs["saes"], saes_digest([sae_of[layer] for layer in layers])))
    named = {layer: sae_of[layer].resolve().name for layer in layers}
    if named == recorded:
        return [*checks, Check("SAEs", f"{len(layers)} ids", "the same", True)]
    return [*checks, Check("SAEs", str(recorded), str(named), False)]


def _sae_source_checks(saved: SavedRun) -> list[Check]:
    """Checks of each SAE's digest, and of repository and commit if they are from the hub; none in older files."""
    recorded = saved.artifact.sae_sources
    if not recorded:
        return []
    found = [sae_source(entry.layer, saved.sae_of[entry.layer]) for entry in recorded]
    pairs = zip(recorded, found, strict=True)
    others = [str(before.layer) for before, now in pairs if before.digest != now.digest]
    said = f"others for layers {', '.join(others)}" if others else "the same"
    checks = [Check("SAEs, digest", f"{len(recorded)} digests", said, not others)]
    claimed, now = hub_sources(recorded), hub_sources(found)
    if claimed:
        # A copy in a local folder has no commit; its digests say whether it is the same.
        checks.append(Check("SAEs, revision", claimed, now or "a local folder", now in (claimed, "")))
    return checks


class _PairTable(NamedTuple):
    """delta_margin.csv: the top feature's delta and the margin shift of every pair, in no order."""

    delta: np.ndarray
    """[pairs] [activation units]."""
    shift: np.ndarray
    """[pairs] [logits]."""
    flipped: np.ndarray
    """[pairs]."""
    features: list[list[int]]
    """Layer and feature of the rows, without repetition."""

    @classmethod
    def read(cls, path: Path) -> Self:
        try:
            table = pd.read_csv(path)
            return cls(
                delta=table["delta"].to_numpy(float),
                shift=table["shift"].to_numpy(float),
                flipped=table["flipped"].to_numpy(bool),
                features=table[["layer", "feature"]].drop_duplicates().astype(int).to_numpy().tolist(),
            )
        except (ValueError, KeyError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: damaged ({first_line(error)}). Copy the folder anew.") from None


def _sampled_pairs(saved: SavedRun, asked: Sequence[Question], sample: int, seed: int) -> list[Check]:
    """Checks of the counts in the table of pairs, and of the pairs of some questions, measured again."""
    artifact, table = saved.artifact, _PairTable.read(saved.folder / PAIRS)
    checks = [
        same("pairs, by the table of pairs", artifact.data.pairs, len(table.delta)),
        same("flips, by the table of pairs", artifact.data.flips, int(table.flipped.sum())),
    ]
    top = [[artifact.features[0].layer, artifact.features[0].feature]] if artifact.features else []
    checks.append(same("top feature, by the table of pairs", top, table.features))
    if not top or table.features != top or top[0][0] not in saved.sae_of:
        return checks
    drawn = np.random.default_rng(seed).permutation(len(asked))[:sample]
    delta, shift = _measured_pairs(saved, [asked[k] for k in sorted(drawn)])
    close = 2 * CLOSE[artifact.model.dtype]
    largest = np.abs(table.delta).max(initial=1e-9)
    of_delta = DELTA_TOLERANCE * largest * (0.05 if artifact.model.dtype == "float32" else 1)
    hits = matched(delta, shift, table.delta, table.shift, of_delta, close)
    # How many would be found by chance: as many rows, each with the shift of another pair.
    chance = matched(np.roll(delta, len(delta) // 2), shift, table.delta, table.shift, of_delta, close)
    return [
        *checks,
        Check(
            f"pairs of {len(drawn)} questions drawn",
            f"{len(delta)} in the table",
            f"{hits} found there ({chance} by chance)",
            hits == len(delta),
            f"{close:g} logits, {of_delta:.2g} of activation",
        ),
    ]


def _measured_pairs(saved: SavedRun, asked: Sequence[Question]) -> tuple[np.ndarray, np.ndarray]:
    """The top feature's delta and the margin shift [logits] of every pair of some questions: [pairs] each."""
    artifact, vlm = saved.artifact, saved.vlm
    top = artifact.features[0]
    prompts = prompt_table(asked)
    measured = measure(vlm, prompts, [top.layer], description="sample")
    bank_margin = artifact.settings.get("bank_margin", FindSettings.bank_margin)
    flips = find_flips(prompts, pair_table(prompts), measured.margin, bank_margin)
    dtype = DTYPES.get(str(artifact.settings.get("sae_dtype")), torch.float32)
    sae = load_sae(saved.sae_of[top.layer], top.layer, vlm.d_model, vlm.device, dtype)
    delta = feature_delta(sae, measured.residuals[:, 0], flips.pairs, torch.tensor([top.feature]))[:, 0]
    return delta.double().numpy(), flips.margin_after - flips.margin_before


def matched(
    delta: np.ndarray, shift: np.ndarray, all_delta: np.ndarray, all_shift: np.ndarray, of_delta: float, of_shift: float
) -> int:
    """How many points (delta, shift) [n] can be matched one to one with points of `all_delta` and `all_shift` [m].

    Matched points differ by at most `of_delta` and `of_shift`.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    close = (np.abs(delta[:, None] - all_delta) <= of_delta) & (np.abs(shift[:, None] - all_shift) <= of_shift)
    return int((maximum_bipartite_matching(csr_matrix(close), perm_type="column") >= 0).sum())


def _repeated(saved: SavedRun) -> list[Check]:
    """Checks of a search that is repeated with the recorded settings."""
    artifact, manifest = saved.artifact, read_manifest(saved.folder)
    batch_tokens = manifest.inputs.get("batch_tokens", 16384) if manifest else 16384
    recorded = dict(artifact.settings)
    try:
        layers = recorded.pop("layers")
        settings = FindSettings(**recorded)
    except (KeyError, TypeError):
        raise InputError(
            f"{saved.folder}: the settings in layers.json are not those of a search by this version, so it cannot be "
            "repeated. Leave --full out."
        ) from None
    found = find_features(saved.vlm, saved.sae_of, saved.questions, layers, settings, artifact.data.split, batch_tokens)
    version = read_object(saved.folder / LAYERS)["schema_version"]
    compared: tuple[str, ...] = COMPARED
    if version == SCHEMA_VERSION:
        checks = [same(name, getattr(artifact, name), getattr(found.artifact, name)) for name in ("verdict", "layers")]
    else:
        # Both are taken and tested otherwise since then.
        compared = tuple(part for part in COMPARED if part != "ranges")
        changed = f"not compared: version {SCHEMA_VERSION} defines them otherwise"
        checks = [Check("verdict, layers, ranges", f"those of schema version {version}", changed, True)]
    # Older versions wrote fewer fields; those that they did not write are not compared.
    before = _by_rule(artifact, exclude_unset=True)
    if "families" not in before and artifact.gate is None:
        # Searches that tested no families could not name one.
        before.pop("gate", None)
    now = _shared(_by_rule(found.artifact), before)
    tolerance = CLOSE[artifact.model.dtype]
    return checks + [
        near(f"layers.json, {part}", before[part], now[part], tolerance) for part in compared if part in before
    ]


def _by_rule(artifact: Layers, exclude_unset: bool = False) -> dict[str, Any]:
    """The content of a layers.json, with its ranges by rule."""
    # Versions before 0.3 recorded the split that the caller named; the digest of the questions says more.
    content = artifact.model_dump(mode="json", exclude={"data": {"split"}}, exclude_unset=exclude_unset)
    return content | {"ranges": {taken["rule"]: taken for taken in content["ranges"]}}


def _shared(now: Any, before: Any) -> Any:
    """JSON content without the fields that `before` lacks."""
    if isinstance(now, dict) and isinstance(before, dict):
        return {name: _shared(inside, before[name]) for name, inside in now.items() if name in before}
    if isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        return [_shared(*both) for both in zip(now, before, strict=True)]
    return now
