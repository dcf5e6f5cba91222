"""`find_features`: from questions to the layers worth training, in one call and five stages."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.profile.places import writing_layers
from interp.questions.files import given_questions
from interp.questions.schema import Question
from interp.runtime.arguments import expect
from interp.saes.locate import given_saes
from interp.schemas.layer_list import check_layers, given_layers
from interp.search.artifact import describe_data, layers_artifact
from interp.search.family_stage import patch_families
from interp.search.gate import name_gate
from interp.search.layer_stage import judge_layers, patch_whole_layers
from interp.search.result import FindResult
from interp.search.settings import DEFAULT_SETTINGS, FindSettings
from interp.search.stages import (
    begin_screening,
    flips_and_halves,
    measure_prompts,
    patch_candidates,
    sae_inputs,
    screen,
    top_activations,
)
from interp.search.task import Search, Task
from interp.search.top_feature import recovery_by_pair
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint


def find_features(
    vlm: Vlm,
    saes: Mapping[int, Path] | str | Path = WORLD / "saes",
    questions: Sequence[Question] | str | Path = (),
    layers: str | Iterable[int] | None = None,
    settings: FindSettings = DEFAULT_SETTINGS,
    split: str = "all",
    batch_tokens: int = 16384,
    max_memory: float | None = None,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> FindResult:
    """Find the features and the layers that make `vlm` flip its answers to these questions.

        >>> result = interp.find_features(vlm, interp.WORLD / "saes", questions, layers="3-6", split="train")
        >>> result
        <FindResult of planted: ...>

    `questions` are loaded ones, or a JSON Lines file beside its images (`interp.load_questions`), of which `split` is
    read. Only yes/no questions with paraphrases are used. `saes` is a source for `interp.saes.locate.locate_saes`, by
    default the SAEs of the embedded world, or layer -> SAE folder, which chooses among several SAEs of a layer.
    `layers` are those to profile, numbers or a text as "15-19", by default all that have an SAE. `split` is a claim
    that is checked: "train" or "test" if all questions must be of that split, "all" for no such claim. `batch_tokens`
    bounds a forward pass, `max_memory` [GiB] what is kept between passes (`interp.runtime.memory`). Several processes
    (`interp.runtime.distributed`) share the work, and each returns the same result. What is in the `checkpoint` of an
    earlier run is not computed again.

    Raises InputError for an argument of a wrong type, if the model lacks a layer or a layer an SAE, if a question is
    not of the split, if no question can flip, if an SAE does not fit the model, or if the checkpoint is damaged or of
    another search.
    """
    expect("vlm", vlm, Vlm)
    asked = given_questions(questions, split)
    listed = given_layers(layers)
    if listed is not None:
        check_layers(listed, listed, vlm.n_layers)
    folders = given_saes(saes, listed)
    chosen = sorted(folders) if listed is None else listed
    return run_search(Search(vlm, folders, asked, chosen, settings, split, batch_tokens, max_memory), checkpoint)


def run_search(search: Search, checkpoint: Checkpoint = NO_CHECKPOINT) -> FindResult:
    """The five stages of `find_features`, which says what is raised."""
    task = Task.of(search, checkpoint)
    # 1. Run every prompt once. From here on, each process holds the residuals of its own layers only.
    measured = measure_prompts(task)
    # 2. Find the flips. Features are chosen on one half of the patients and tested on the other.
    flips, halves = flips_and_halves(task, measured.margin)
    # 3. Screen every feature of every SAE on the selection half, on a GPU beside the patches of whole layers.
    inputs = sae_inputs(task, measured)
    with begin_screening(task, halves, inputs, measured.device_bytes) as begun:
        # 4. Patch whole layers, take the range where the answer changes on the selection half, test it on the other.
        patched = patch_whole_layers(task, halves, measured)
        screened = screen(task, begun)
    judged = judge_layers(task, halves, screened, patched)
    # 5. Patch the best features one by one and a family of every layer, and place each: cause, mediator, echo ...
    writing = writing_layers({entry.layer: entry.net_write for entry in judged.profile})
    bank = patched.target
    tested = patch_candidates(task, halves, inputs, screened, bank, measured.device_bytes, writing)
    families = patch_families(screened, bank, writing, task.settings.seed)
    gate = name_gate(judged.verdict.verdict, tested, families, screened, bank, writing, task.settings)
    margin, saes = measured.margin, screened.saes
    data = describe_data(task, flips, margin)
    artifact = layers_artifact(task, data, halves, judged, tested.entries, families, gate, saes, margin)
    activations = top_activations(task, inputs, tested.entries)
    recovery = recovery_by_pair(task, inputs, tested.entries, activations, flips, bank)
    return FindResult(artifact, tested.screen, flips, activations, task.prompts, recovery)
