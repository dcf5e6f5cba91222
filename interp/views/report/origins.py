"""The origins of the numbers: models, data, settings and versions; their limits; and how to cite them."""

from typing import Any, NamedTuple

from interp.schemas.layer_list import layers_text
from interp.schemas.layers import GateVerdict, Layers, ModelEntry, PromptEntry, hub_sources
from interp.storage.provenance import Provenance
from interp.views.numbers import NONE, sentence, spoken
from interp.views.overview import Facts
from interp.views.report.collect import Collected


class Source(NamedTuple):
    """A published work."""

    title: str
    """Title of the work."""
    where: str
    """Venue or identifier."""
    url: str
    """Address."""


OWN_TITLE = (
    "GateScope: finding and repairing the layers where a medical vision-language model changes its answer to a "
    "reworded question"
)
AUTHORS = "The GateScope authors"
SOURCES = (
    Source("PSF-Med", "arXiv 2602.21428", "https://arxiv.org/abs/2602.21428"),
    Source("Mechanistically Guided LoRA", "PMLR 333:703–720; arXiv 2603.00148", "https://arxiv.org/abs/2603.00148"),
    Source("Consistent but Dangerous", "arXiv 2603.20985", "https://arxiv.org/abs/2603.20985"),
    Source("Attention Without Grounding", "arXiv 2607.18577", "https://arxiv.org/abs/2607.18577"),
    Source(
        "medgemma-4b-targeted-lora-mimic-mt-12k",
        "model card, saillab",
        "https://huggingface.co/saillab/medgemma-4b-targeted-lora-mimic-mt-12k",
    ),
)
"""The works that GateScope builds on; CITATION.cff names them too."""
CAVEATS: dict[GateVerdict, str] = {
    "arrives from the question": "The layers found are where the final token learns of the difference; tokens of the "
    "question may have made the answer in these layers or below.",
    "as answers form": "The layers found are where all answers are made, so training them may change what the model "
    "sees as well as what it makes of the wording.",
    "spread over layers": "No short range makes the flips, so the layers named are all that do, not a gate.",
    "no gate found": "No gate was found, so these results name no layers worth training.",
    "too few flips": "There were too few flips to look for a gate, so these results name no layers worth training.",
}
"""Verdict without a gate -> what limits the results."""
LOCAL = "none, a local folder"
"""Stands for the revision of a local folder, which has none."""


class Origin(NamedTuple):
    """The origin of the numbers of one artifact."""

    title: str
    """Name of the artifact."""
    facts: Facts
    """Models, data, settings and versions, by name."""


def origins(found: Collected) -> list[Origin]:
    """One entry for each artifact, in the order of the page."""
    told = []
    if found.layers:
        told.append(Origin("Search", _search(found.layers)))
    for one in (each.study for each in found.studied):
        known = [("Model", one.model), ("Revision", one.revision or LOCAL), ("SAE", one.sae)]
        known += [("Data, fingerprint", f"{one.fingerprint} ({one.questions:,} questions)")]
        known += [("Seed", str(one.seed)), *_made(one.software, one.provenance)]
        told.append(Origin(f"Feature {one.name}", known))
    for each in found.trained:
        if record := each.record:
            data = f"{record.data} ({record.questions:,} questions)"
            known = [*_model(record.model), *_prompt(record.prompt), ("Data, fingerprint", data)]
            known += [*_settings(record.settings), *_made(record.software, record.provenance)]
            told.append(Origin(named("Training", each.name), known))
        if evaluation := each.evaluation:
            known = [("Model", evaluation.model)]
            known += [("Data, fingerprint", f"{evaluation.data} ({evaluation.questions:,} questions)")]
            known += [("Tolerance of the verdict", f"{100 * evaluation.tolerance:g} points")]
            known += [("Seed", str(evaluation.seed)), *_made(evaluation.software, evaluation.provenance)]
            told.append(Origin(named("Evaluation", each.name), known))
    for grounded in found.grounded:
        study = grounded.study
        known = [("Model", study.model), ("Data, fingerprint", f"{study.data} ({study.questions:,} questions)")]
        known += [("Feature", study.feature)] if study.feature else []
        known += [*_settings(study.settings), *_made(study.software, study.provenance)]
        told.append(Origin(named("Grounding", grounded.name), known))
    for name, ablation in found.ablated.items():
        data = f"{ablation.data.asked} ({ablation.data.questions:,} questions)"
        known = [*_model(ablation.model), ("Data, fingerprint", data)]
        known += [*_settings(ablation.settings), *_made(ablation.software, ablation.provenance)]
        told.append(Origin(named("Ablation", name), known))
    return told


def versions(found: Collected) -> list[str]:
    """The versions of GateScope that produced the numbers."""
    made = [found.layers.software] if found.layers else []
    made += [each.study.software for each in found.studied]
    for each in found.trained:
        made += [part.software for part in (each.record, each.evaluation) if part]
    made += [each.study.software for each in found.grounded] + [each.software for each in found.ablated.values()]
    return list(dict.fromkeys(software.get("gatescope", "unknown") for software in made)) or ["unknown"]


def caveats(found: Collected) -> list[str]:
    """The limits of the results, as the artifacts state them, one sentence each."""
    said = []
    if found.layers:
        said += [sentence(warning) for warning in found.layers.warnings]
        said += [CAVEATS[found.layers.verdict]] if found.layers.verdict in CAVEATS else []
    said += [sentence(f"feature {each.study.name}: {note}") for each in found.studied for note in each.study.notes]
    for name, evaluation in found.evaluations:
        where = f" ({name})" if name else ""
        for arm in evaluation.shown:
            verdict = evaluation.verdicts[arm]
            unclear = [spoken(axis.measure) for axis in verdict.axes if axis.state == "unclear"]
            if unclear:
                said.append(
                    f"{arm}{where}: there are too few questions to show whether these changed: {', '.join(unclear)}."
                )
            if verdict.label == "not judged":
                said.append(verdict.sentence)
        said += evaluation.collapsed.values()
        trained = [arm for arm in evaluation.shown if not evaluation.arms.get(arm) and arm not in evaluation.pools]
        if trained:
            said.append(
                f"One training seed each ({', '.join(trained)}){where}: the intervals are over patients alone, and "
                "another seed may give other results."
            )
    for grounded in found.grounded:
        fill = grounded.study.settings.get("maps", {}).get("fill", NONE)
        said.append(
            f"Grounding: removed parts of the image are filled ({fill}), and the fill itself can affect the answer. "
            f"{grounded.study.questions:,} questions; p values are not adjusted."
        )
    for ablation in found.ablated.values():
        if len(ablation.settings.get("seeds", [])) == 1:
            said.append("The ablation has one seed an arm, so its intervals are over patients alone.")
    return said


def named(what: str, name: str) -> str:
    """A heading for the content of a folder of that name."""
    return f"{what}: {name}" if name and name.lower() != what.lower() else what


def _search(found: Layers) -> Facts:
    data, saes = found.data, dict.fromkeys(found.saes.values())
    known = [*_model(found.model), *_prompt(found.prompt)]
    source = hub_sources(found.sae_sources)
    known += [("SAEs", ", ".join(saes)), *([("SAEs, source", source)] if source else [])]
    known += [("Data, fingerprint", f"{data.fingerprint} ({data.questions:,} questions)")]
    return [*known, *_settings(found.settings | {"seed": found.seed}), *_made(found.software, found.provenance)]


def _model(model: ModelEntry) -> Facts:
    return [("Model", model.id), ("Revision", model.revision or LOCAL), ("Arithmetic", model.dtype)]


def _prompt(prompt: PromptEntry) -> Facts:
    order = "image first" if prompt.image_first else "question first"
    said = [part for part in (prompt.system, prompt.answer_instruction) if part]
    instructions = "; ".join(f"“{part}”" for part in said) or "no instruction"
    return [("Prompt", f"{order}; {instructions}{'; wordings normalized' if prompt.normalize else ''}")]


def _settings(settings: dict[str, Any], prefix: str = "") -> Facts:
    known = []
    for name, value in settings.items():
        if isinstance(value, dict):
            known += _settings(value, f"{prefix}{spoken(name)}, ")
        else:
            known.append((f"{prefix}{spoken(name)}", _shown(value)))
    return known


def _shown(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        whole = value and all(isinstance(each, int) for each in value)
        return layers_text(value) if whole else ", ".join(map(_shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _made(software: dict[str, str], how: Provenance | None) -> Facts:
    """Versions, and the command, commit, device and start if they were recorded."""
    known = [("Versions", ", ".join(f"{name} {version}" for name, version in software.items()))]
    if how is not None:
        known += [("Code", f"commit {how.commit}")] if how.commit else []
        known += [("Command", how.command or "called from Python"), ("Device", how.device), ("Started", how.started)]
    return known
