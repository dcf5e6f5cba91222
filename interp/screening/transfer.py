"""`transfer_check`: do SAEs that were trained on one model describe another, on medical and on general prompts?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from interp.images.decode import NO_IMAGE
from interp.measurement.margins import text_residuals
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.runtime.errors import InputError
from interp.runtime.progress import track
from interp.saes.reconstruction import R2_NEEDED, Reconstruction, feature_drift, judge_transfer, reconstruct, summarize
from interp.saes.sae import check_sae, load_sae
from interp.storage.provenance import provenance, software

TRANSFER_COLUMNS = {
    "prompts": "kind of the prompts: questions (with their images), medical or general (text alone)",
    "layer": "decoder layer",
    "tokens": "text tokens measured",
    "r2": "explained share of the variance over all tokens",
    "r2_low": "lower end of its 95% interval, bootstrap over prompts",
    "r2_high": "upper end",
    "p": "one-sided p against R2 <= 0.95",
    "verdict": "pass, fail or unclear",
    "fvu": "1 - r2",
    "l0": "mean active features a token",
    "dead": "share of the features that are active on none of these tokens",
    "drift": "cosine distance of the features' mean activations from the reference model's; NaN without one",
    "shift": "the same distance from this model's on the general prompts",
}


@dataclass(frozen=True)
class TransferResult:
    """How well every SAE describes a model."""

    model: str
    """The model that was measured."""
    reference: str | None
    """The model that drift is measured from."""
    table: pd.DataFrame
    """One row a kind of prompts and layer, columns as in TRANSFER_COLUMNS."""
    seed: int
    """Of the bootstrap."""

    def failed(self, kind: str) -> list[int]:
        """The layers that fail on one kind of prompts."""
        rows = self.table[(self.table["prompts"] == kind) & (self.table["verdict"] == "fail")]
        return [int(layer) for layer in rows["layer"]]

    def to_json(self) -> str:
        """The whole result as JSON, indented; undefined numbers are null."""
        rows = json.loads(self.table.to_json(orient="records", double_precision=6))
        content = {"schema_version": 1, "model": self.model, "reference": self.reference, "r2_needed": R2_NEEDED}
        made = {"seed": self.seed, "software": software(), "provenance": provenance().model_dump()}
        return json.dumps(content | made | {"layers": rows}, indent=2) + "\n"


def text_prompts(path: Path, limit: int) -> pd.DataFrame:
    """A prompt table of the first `limit` lines of a text file, without images. Raises InputError if it has none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a text file with a prompt on every line.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    texts = [line for line in lines if line][:limit]
    if len(texts) < 2:
        raise InputError(f"{path}: {len(texts)} prompts, expected at least 2, one on every line.")
    return pd.DataFrame({"image": NO_IMAGE, "text": texts, "closed": False})


def question_prompts(questions: Sequence[Question], limit: int) -> pd.DataFrame:
    """A prompt table of the original wordings of the first `limit` questions, with their images."""
    asked = questions[:limit]
    if len(asked) < 2:
        raise InputError(f"{len(asked)} questions, expected at least 2.")
    return pd.DataFrame({"image": q.image, "text": q.question, "closed": q.closed} for q in asked)


def transfer_check(
    vlm: Vlm,
    sae_of: Mapping[int, Path],
    kinds: Mapping[str, pd.DataFrame],
    layers: Sequence[int],
    reference: Vlm | None = None,
    sae_dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> TransferResult:
    """Measure the SAE of every layer on every kind of prompts, at all text tokens but the first.

    `kinds` maps a name to a prompt table; one named `general` is what `shift` is measured from. Raises InputError if
    an SAE does not fit the model, or if `reference` is not of the model's size.
    """
    if reference is not None and (reference.n_layers, reference.d_model) != (vlm.n_layers, vlm.d_model):
        raise InputError(
            f"--reference {reference.name}: has {reference.n_layers} layers of width {reference.d_model}, but "
            f"{vlm.name} has {vlm.n_layers} of {vlm.d_model}. Give the model that the SAEs were trained on."
        )
    for layer in layers:
        check_sae(sae_of[layer], layer, vlm.d_model)
    measured = {name: text_residuals(vlm, prompts, layers) for name, prompts in kinds.items()}
    referred = {}
    if reference is not None:
        referred = {name: text_residuals(reference, prompts, layers)[0] for name, prompts in kinds.items()}
    rows = []
    for position, layer in enumerate(track(layers, "SAEs")):
        sae = load_sae(sae_of[layer], layer, vlm.d_model, vlm.device, sae_dtype)
        found = {name: reconstruct(sae, residuals[:, position]) for name, (residuals, _) in measured.items()}
        before = {name: reconstruct(sae, residuals[:, position]) for name, residuals in referred.items()}
        for name, (_, owner) in measured.items():
            rows.append(_row(name, layer, found, before.get(name), owner, seed))
    table = pd.DataFrame(rows, columns=list(TRANSFER_COLUMNS))
    return TransferResult(vlm.name, reference.name if reference else None, table, seed)


def _row(
    name: str,
    layer: int,
    found: Mapping[str, Reconstruction],
    before: Reconstruction | None,
    owner: torch.Tensor,
    seed: int,
) -> dict[str, object]:
    here = found[name]
    fit, judged = summarize(here), judge_transfer(here, owner.tolist(), seed)
    general = found.get("general")
    return {
        "prompts": name,
        "layer": layer,
        "tokens": len(owner),
        "r2": judged.r2.value,
        "r2_low": judged.r2.low,
        "r2_high": judged.r2.high,
        "p": judged.p,
        "verdict": judged.verdict,
        "fvu": fit.fvu,
        "l0": fit.l0,
        "dead": fit.dead,
        "drift": float("nan") if before is None else feature_drift(here, before),
        "shift": float("nan") if general is None else feature_drift(here, general),
    }
