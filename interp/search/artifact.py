"""Builds the content of layers.json from the results of the stages of a search."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from interp.causal.register_patching import FEWEST_PAIRS, register_signs
from interp.model.model_entry import model_entry
from interp.profile.profile import DRAWS, commit_layer
from interp.questions.answers import single_answer
from interp.questions.files import common_split
from interp.questions.polarity import inverting_operator
from interp.questions.schema import Question
from interp.questions.tables import fingerprint
from interp.saes.reconstruction import R2_NEEDED
from interp.saes.source import sae_source
from interp.schemas.layers import DataEntry, GateEntry, Layers, ProfileEntry, PromptEntry, RangeEntry
from interp.schemas.record import Interval
from interp.schemas.tested_features import FamilyEntry, FeatureEntry
from interp.screening.flips import Flips, Halves
from interp.search.layer_stage import Judgement
from interp.search.page_links import with_pages
from interp.search.task import Task
from interp.statistics import share_interval
from interp.storage.provenance import provenance, software


def layers_artifact(
    task: Task,
    data: DataEntry,
    halves: Halves,
    judged: Judgement,
    features: list[FeatureEntry],
    families: list[FamilyEntry],
    gate: GateEntry | None,
    saes: dict[int, str],
    margin: Tensor,
) -> Layers:
    """The content of layers.json; `margin` float32 [n] are those of the task's prompts [logits]."""
    settings, concluded = task.settings, judged.verdict
    taken = judged.ranges[settings.rule]
    sources = [sae_source(layer, task.search.saes[layer]) for layer in sorted(saes)]
    return Layers(
        verdict=concluded.verdict,
        reason=concluded.reason,
        layers=concluded.layers,
        peak=taken.peak if concluded.layers == taken.layers else None,
        rule=settings.rule,
        commit_layer=commit_layer(judged.profile, len(halves.held_out_bank.pairs)),
        ranges=[
            RangeEntry(rule=rule, **taken._asdict(), **judged.tests[rule]._asdict())
            for rule, taken in judged.ranges.items()
        ],
        model=model_entry(task.search.vlm),
        prompt=PromptEntry(**task.search.vlm.style._asdict()),
        saes=saes,
        sae_sources=sources,
        data=data,
        profile=judged.profile,
        features=with_pages(features, sources, task.search.saes, task.search.vlm.d_model),
        families=families,
        gate=gate,
        formality=judged.formality,
        warnings=[
            *collapse_warnings(task.prompts, margin),
            *warnings_of(task.questions, judged.profile),
            *register_warnings(halves),
        ],
        settings=settings.__dict__ | {"layers": task.layers},
        seed=settings.seed,
        software=software(),
        provenance=provenance(),
    )


def describe_data(task: Task, flips: Flips, margin: Tensor) -> DataEntry:
    """Counts and rates of the questions; intervals are bootstraps over patients."""
    prompts, seed = task.prompts, task.settings.seed
    by_question = (
        flips.pairs.assign(flipped=flips.flipped).groupby("question").agg({"flipped": "any", "patient": "first"})
    )
    answered = prompts["answer"].notna().to_numpy()
    right = ((margin.numpy() > 0) == (prompts["answer"] == "yes").to_numpy())[answered].astype(float)

    def share(values: "pd.Series[bool]", patients: "pd.Series[str]") -> Interval:
        return Interval.of(share_interval(values.to_numpy(float), patients.tolist(), seed, draws=DRAWS))

    return DataEntry(
        fingerprint=fingerprint(task.questions),
        split=common_split(task.search.questions),
        questions=len(task.questions),
        pairs=len(flips.pairs),
        patients=prompts["patient"].nunique(),
        flips=int(flips.flipped.sum()),
        flip_bank=int(flips.banked.sum()),
        question_flip_rate=share(by_question["flipped"], by_question["patient"]),
        pairwise_flip_rate=share(pd.Series(flips.flipped), flips.pairs["patient"]),
        accuracy=share(pd.Series(right), prompts["patient"][answered]),
    )


def collapse_warnings(prompts: pd.DataFrame, margin: Tensor) -> list[str]:
    """A sentence if the model gives one answer to all wordings [n], unless all known answers are the same."""
    answer = single_answer(margin.numpy() > 0)
    if answer is None or prompts["answer"].nunique() == 1:
        return []
    return [f"the model answers {answer} to all {len(margin)} wordings, so that nothing flips says nothing about it"]


def register_warnings(halves: Halves) -> list[str]:
    """A sentence if the pairs of a formal and a casual wording are too few for a register direction."""
    tagged = np.count_nonzero(register_signs(halves.selection.pairs))
    if not 0 < tagged < FEWEST_PAIRS:
        return []
    counted = "1 pair of the selection half has" if tagged == 1 else f"{tagged} pairs of the selection half have"
    return [
        f"only {counted} a formal and a casual wording, and a register direction takes {FEWEST_PAIRS}, so whether the "
        "register makes the flips is unknown"
    ]


def warnings_of(questions: Sequence[Question], profile: Sequence[ProfileEntry]) -> list[str]:
    """Sentences on what limits the results: SAEs that do not fit this model, and paraphrases that seem inverted."""
    failed = [p.layer for p in profile if p.transfer == "fail"]
    unclear = [p.layer for p in profile if p.transfer == "unclear"]
    found = []
    if failed:
        one = len(failed) == 1
        found.append(
            f"the {_saes_of(failed)} {'explains' if one else 'explain'} less than {R2_NEEDED:.0%} of the variance here "
            f"(p < .05), so {'its' if one else 'their'} features tell only part of the story"
        )
    if unclear:
        verb = "explains" if len(unclear) == 1 else "explain"
        found.append(f"whether the {_saes_of(unclear)} {verb} {R2_NEEDED:.0%} is unclear from these data")
    inverted = sum(inverting_operator(q.question, p.text) is not None for q in questions for p in q.same_meaning)
    if inverted:
        found.append(
            f"{inverted} paraphrases seem to ask for the opposite of their question, so their flips may be right "
            "answers; `interp import-questions --format jsonl` sets them apart"
        )
    return found


def _saes_of(layers: Sequence[int]) -> str:
    return f"SAE of layer {layers[0]}" if len(layers) == 1 else f"SAEs of layers {', '.join(map(str, layers))}"
