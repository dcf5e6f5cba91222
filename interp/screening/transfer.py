"""`transfer_check`: whether SAEs that were trained on one model describe another, on several kinds of prompts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from interp.images.decode import NO_IMAGE
from interp.measurement.margins import text_residuals
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.runtime.arguments import expect, expect_each, expect_one_of
from interp.runtime.errors import InputError
from interp.runtime.progress import track
from interp.saes.locate import given_saes
from interp.saes.reconstruction import R2_NEEDED, Reconstruction, feature_drift, judge_transfer, reconstruct, summarize
from interp.saes.sae import load_sae
from interp.saes.sae_folder import check_sae
from interp.schemas.layer_list import check_layers, given_layers
from interp.schemas.transfer import Transfer, TransferEntry
from interp.storage.provenance import provenance, software

LIMIT = 100
"""Number of prompts that are taken from questions and text files, unless another is given."""
COLUMNS = ("image", "text", "closed", "patient")
"""Columns of a prompt table that are used."""


class TransferResult(Transfer):
    """How well every SAE describes a model. Numbers are rounded to six decimals, as in its JSON."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per kind of prompts and layer, one column per field of `interp.schemas.transfer.TransferEntry`."""
        return pd.DataFrame([entry.model_dump() for entry in self.layers], columns=list(TransferEntry.model_fields))


def text_prompts(path: Path, limit: int) -> pd.DataFrame:
    """A prompt table, without images, of the first `limit` lines of a text file that are not empty.

    Raises InputError if the file is absent, not UTF-8, or has fewer than two such lines.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a text file with a prompt on every line.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    texts = [line for line in lines if line][:limit]
    if len(texts) < 2:
        raise InputError(f"{path}: {len(texts)} prompts, expected at least 2, one on every line.")
    # A line has no patient, so it stands for itself.
    return pd.DataFrame({"image": NO_IMAGE, "text": texts, "closed": False, "patient": range(len(texts))})


def question_prompts(questions: Sequence[Question], limit: int) -> pd.DataFrame:
    """A prompt table of the original wordings of the first `limit` questions, with their images.

    Raises InputError for fewer than two questions.
    """
    asked = questions[:limit]
    if len(asked) < 2:
        raise InputError(f"{len(asked)} questions, expected at least 2.")
    return pd.DataFrame({"image": q.image, "text": q.question, "closed": q.closed, "patient": q.group} for q in asked)


def transfer_check(
    vlm: Vlm,
    saes: Mapping[int, Path] | str | Path,
    kinds: Mapping[str, pd.DataFrame | Sequence[Question] | str | Path],
    layers: str | Iterable[int] | None = None,
    reference: Vlm | None = None,
    sae_dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> TransferResult:
    """Measure the SAE of every layer on every kind of prompts, at all text tokens but the first.

        >>> fit = interp.transfer_check(vlm, interp.WORLD / "saes", {"questions": questions[:20]}, layers=[5])
        >>> fit.table[["prompts", "layer", "verdict"]].values.tolist()
        [['questions', 5, ...]]

    `saes` is layer -> SAE folder or a source of SAEs, and `layers` are by default all that have an SAE. `kinds` maps
    the name of a kind to questions, of which the original wordings are asked; to a text file with a prompt a line; or
    to a prompt table, whose column `patient` names what prompts may have in common: tests and intervals count patients.
    Of questions and text files, the first LIMIT prompts are taken. `shift` is measured from the kind named `general`,
    and `drift` from `reference`, the model that the SAEs were trained on. Raises InputError if an SAE does not fit the
    model, if `reference` is of another size, and for `kinds` that are empty or hold anything else.
    """
    expect("vlm", vlm, Vlm)
    if reference is not None:
        expect("reference", reference, Vlm)
    named = "a dict of names to questions, text files or prompt tables, as {'questions': questions}"
    expect_one_of("kinds", kinds, Mapping, named)
    if not kinds:
        raise InputError(f"kinds is empty, expected {named}.")
    listed = given_layers(layers)
    sae_of = given_saes(saes, listed)
    chosen = sorted(sae_of) if listed is None else listed
    check_layers(chosen, list(sae_of), vlm.n_layers)
    tables = {name: _given_prompts(name, prompts) for name, prompts in kinds.items()}
    if reference is not None and (reference.n_layers, reference.d_model) != (vlm.n_layers, vlm.d_model):
        raise InputError(
            f"--reference {reference.name}: has {reference.n_layers} layers of width {reference.d_model}, but "
            f"{vlm.name} has {vlm.n_layers} of {vlm.d_model}. Give the model that the SAEs were trained on."
        )
    for layer in chosen:
        check_sae(sae_of[layer], layer, vlm.d_model)
    measured = {name: text_residuals(vlm, prompts, chosen) for name, prompts in tables.items()}
    referred = {}
    if reference is not None:
        referred = {name: text_residuals(reference, prompts, chosen)[0] for name, prompts in tables.items()}
    rows = []
    for position, layer in enumerate(track(chosen, "SAEs")):
        sae = load_sae(sae_of[layer], layer, vlm.d_model, vlm.device, sae_dtype)
        found = {name: reconstruct(sae, residuals[:, position]) for name, (residuals, _) in measured.items()}
        before = {name: reconstruct(sae, residuals[:, position]) for name, residuals in referred.items()}
        for name, (_, owner) in measured.items():
            patients = tables[name]["patient"].to_numpy()[owner.numpy()]
            rows.append(_row(name, layer, found, before.get(name), patients.tolist()))
    return TransferResult(
        model=vlm.name,
        reference=reference.name if reference else None,
        r2_needed=R2_NEEDED,
        seed=seed,
        software=software(),
        provenance=provenance(),
        layers=json.loads(pd.DataFrame(rows).to_json(orient="records", double_precision=6)),
    )


def _given_prompts(name: str, prompts: pd.DataFrame | Sequence[Question] | str | Path) -> pd.DataFrame:
    if isinstance(prompts, str | Path):
        return text_prompts(Path(prompts), LIMIT)
    if not isinstance(prompts, pd.DataFrame):
        expect_each(f"kinds[{name!r}]", prompts, Question)
        return question_prompts(prompts, LIMIT)
    if absent := [column for column in COLUMNS if column not in prompts]:
        raise InputError(f"kinds[{name!r}] has no column {absent[0]!r}, expected {', '.join(COLUMNS)}.")
    return prompts


def _row(
    name: str,
    layer: int,
    found: Mapping[str, Reconstruction],
    before: Reconstruction | None,
    patients: Sequence[object],
) -> dict[str, object]:
    here = found[name]
    fit, judged = summarize(here), judge_transfer(here, patients)
    general = found.get("general")
    return {
        "prompts": name,
        "layer": layer,
        "tokens": len(patients),
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
