"""`verify`: is what the folder of a search says really of this model, these SAEs and these questions?

The files are compared with the manifest, model, SAEs and questions with the digests that the run recorded. Then a
sample of questions is measured again: `delta_margin.csv` has every pair's margin shift, and what the top feature does
in it, without saying which pair it is, so each pair of the sample must be found there. Everything else (layers, ranges,
recoveries) depends on all questions together, and only a search made again computes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp.measurement.margins import measure
from interp.model.load import DTYPES
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint, pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.saes.sae import load_sae
from interp.schemas.layers import Layers
from interp.screening.feature_stats import feature_delta
from interp.screening.flips import find_flips
from interp.search.find import FindSettings, find_features
from interp.search.run_folder import saes_digest
from interp.storage.checks import CLOSE, Check, files_check, near, same
from interp.storage.checksums import weights_fingerprint
from interp.storage.manifest import read_manifest

PAIRS = "delta_margin.csv"
COMPARED = ("data", "profile", "weights", "ranges", "features")
"""Parts of layers.json whose numbers a search made again must give."""
OF_DELTA = 0.02
"""Share of the largest delta that rounding in 16 bits may come to; a twentieth of that in float32."""


def verify_run(
    run: Path,
    artifact: Layers,
    vlm: Vlm,
    sae_of: Mapping[int, Path],
    questions: Sequence[Question],
    sample: int = 50,
    seed: int = 0,
    full: bool = False,
) -> list[Check]:
    """What the folder of a search claims in its `artifact`, beside what is found now.

    `vlm` is loaded in the arithmetic and asked with the prompt of the artifact, `questions` are those of its split.
    `sample` questions are drawn by `seed`; `full` makes the whole search again. Raises InputError if none of the
    questions can flip, and for damaged tables.
    """
    asked = [q for q in questions if q.closed and q.same_meaning]
    if not asked:
        raise InputError("None of the questions is a yes/no question with paraphrases, so none was searched.")
    checks = [*_identity(run, artifact, vlm, sae_of, questions, asked)]
    if all(check.holds for check in checks if check.what == "model, shape") and (run / PAIRS).is_file():
        checks += _pairs(run / PAIRS, artifact, vlm, sae_of, asked, sample, seed)
    return [*checks, *_again(run, artifact, vlm, sae_of, questions)] if full else checks


def _identity(
    run: Path,
    artifact: Layers,
    vlm: Vlm,
    sae_of: Mapping[int, Path],
    questions: Sequence[Question],
    asked: Sequence[Question],
) -> list[Check]:
    """Files, questions, model and SAEs; weights where the run recorded their digest."""
    files, manifest = files_check(run), read_manifest(run)
    checks = [] if files is None else [files]
    data, model = artifact.data, artifact.model
    checks.append(same("questions, digest", data.fingerprint, fingerprint(asked)))
    checks.append(same("model, shape", f"{model.n_layers} x {model.d_model}", f"{vlm.n_layers} x {vlm.d_model}"))
    inputs: dict[str, Any] = manifest.inputs if manifest else {}
    if "weights" in inputs:
        checks.append(same("model, digest of weights", inputs["weights"], weights_fingerprint(vlm.model)))
    layers = sorted(artifact.saes)
    absent = [layer for layer in layers if layer not in sae_of]
    if absent:
        return [*checks, Check("SAEs", f"layers {layers}", f"none for layers {absent}", False)]
    if "saes" in inputs:
        checks.append(same("SAEs, digest", inputs["saes"], saes_digest([sae_of[layer] for layer in layers])))
    named = {layer: sae_of[layer].resolve().name for layer in layers}
    return [
        *checks,
        Check("SAEs", f"{len(layers)} ids", "the same", True)
        if named == artifact.saes
        else Check("SAEs", str(artifact.saes), str(named), False),
    ]


def _pairs(
    path: Path,
    artifact: Layers,
    vlm: Vlm,
    sae_of: Mapping[int, Path],
    asked: Sequence[Question],
    sample: int,
    seed: int,
) -> list[Check]:
    """What the table of pairs adds up to, and a sample of its rows."""
    try:
        table = pd.read_csv(path)
        delta, shift, flipped = (
            table[name].to_numpy(kind) for name, kind in (("delta", float), ("shift", float), ("flipped", bool))
        )
        places = table[["layer", "feature"]].drop_duplicates().astype(int).to_numpy().tolist()
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0]}). Copy the folder anew.") from None
    checks = [same("pairs, by the table of pairs", artifact.data.pairs, len(table))]
    checks.append(same("flips, by the table of pairs", artifact.data.flips, int(flipped.sum())))
    top = [[artifact.features[0].layer, artifact.features[0].feature]] if artifact.features else []
    checks.append(same("top feature, by the table of pairs", top, places))
    if not top or places != top or top[0][0] not in sae_of:
        return checks
    drawn = np.random.default_rng(seed).permutation(len(asked))[:sample]
    prompts = prompt_table([asked[k] for k in sorted(drawn)])
    layer, feature = top[0]
    measured = measure(vlm, prompts, [layer], description="sample")
    bank_margin = artifact.settings.get("bank_margin", FindSettings.bank_margin)
    flips = find_flips(prompts, pair_table(prompts), measured.margin, bank_margin)
    dtype = DTYPES.get(str(artifact.settings.get("sae_dtype")), torch.float32)
    sae = load_sae(sae_of[layer], layer, vlm.d_model, vlm.device, dtype)
    again = feature_delta(sae, measured.residuals[:, 0], flips.pairs, torch.tensor([feature]))[:, 0].double().numpy()
    close = 2 * CLOSE[artifact.model.dtype]
    wide = OF_DELTA * np.abs(delta).max(initial=1e-9) * (0.05 if artifact.model.dtype == "float32" else 1)
    moved = flips.margin_after - flips.margin_before
    hits = matched(again, moved, delta, shift, wide, close)
    # How telling that is: as many rows, each with the shift of another.
    chance = matched(np.roll(again, len(again) // 2), moved, delta, shift, wide, close)
    checks.append(
        Check(
            f"pairs of {len(drawn)} questions drawn",
            f"{len(again)} in the table",
            f"{hits} found there ({chance} by chance)",
            hits == len(again),
            f"{close:g} logits, {wide:.2g} of activation",
        )
    )
    return checks


def matched(
    delta: np.ndarray, shift: np.ndarray, of_delta: np.ndarray, of_shift: np.ndarray, wide: float, close: float
) -> int:
    """How many points (delta, shift) [n] have a point of their own among others [m] within `wide` and `close`."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    near_by = (np.abs(delta[:, None] - of_delta) <= wide) & (np.abs(shift[:, None] - of_shift) <= close)
    return int((maximum_bipartite_matching(csr_matrix(near_by), perm_type="column") >= 0).sum())


def _again(
    run: Path, artifact: Layers, vlm: Vlm, sae_of: Mapping[int, Path], questions: Sequence[Question]
) -> list[Check]:
    """The whole search, made with the settings that were recorded."""
    manifest = read_manifest(run)
    batch_tokens = manifest.inputs.get("batch_tokens", 16384) if manifest else 16384
    told = dict(artifact.settings)
    try:
        layers, dtype = told.pop("layers"), DTYPES[told.pop("sae_dtype")]
        settings = FindSettings(**told, sae_dtype=dtype)
    except (KeyError, TypeError):
        raise InputError(
            f"{run}: the settings in layers.json are not those of a search by this version, so it can not be made "
            "again. Leave --full out."
        ) from None
    found = find_features(vlm, sae_of, questions, layers, settings, artifact.data.split, batch_tokens)
    checks = [same(name, getattr(artifact, name), getattr(found.artifact, name)) for name in ("verdict", "layers")]
    before, now = (each.model_dump(mode="json") for each in (artifact, found.artifact))
    tolerance = CLOSE[artifact.model.dtype]
    return checks + [near(f"layers.json, {part}", before[part], now[part], tolerance) for part in COMPARED]
