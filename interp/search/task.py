"""A search that is under way: its inputs, and what every stage derives from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import pandas as pd

from interp.causal.layer_patching import PatchTarget, rerun_paraphrases
from interp.model.vlm import Vlm
from interp.questions.files import check_split
from interp.questions.schema import Question
from interp.questions.tables import prompt_table
from interp.runtime.distributed import Team, team_on
from interp.saes.sae_folder import check_sae
from interp.schemas.layer_list import check_layers
from interp.screening.flips import Flips, questions_that_can_flip
from interp.search.settings import FindSettings
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint


class Search(NamedTuple):
    """The inputs of a search."""

    vlm: Vlm
    """The model."""
    saes: Mapping[int, Path]
    """Layer -> folder of its SAE."""
    questions: Sequence[Question]
    """The questions of the split."""
    layers: Sequence[int]
    """The layers to profile."""
    settings: FindSettings
    """How features are chosen and the range is taken."""
    split: str
    """The split that all questions must be of: train or test; all for no such demand."""
    batch_tokens: int
    """Most tokens in a forward pass."""
    max_memory: float | None
    """Memory that may be used on the device, and in main memory [GiB]; None takes most of what is free."""


@dataclass(frozen=True, eq=False)
class Task:
    """What every stage of a search works with."""

    search: Search
    """The inputs."""
    layers: list[int]
    """The layers to profile, ascending."""
    questions: list[Question]
    """The closed questions that have paraphrases."""
    prompts: pd.DataFrame
    """The prompt table of `questions`."""
    d_sae: int
    """Width of the widest SAE."""
    team: Team
    """The processes that share the work."""
    checkpoint: Checkpoint
    """Where finished parts are kept for a later `--resume`."""

    @classmethod
    def of(cls, search: Search, checkpoint: Checkpoint = NO_CHECKPOINT) -> Self:
        """Check the inputs. Raises InputError as `interp.search.find.find_features` does."""
        vlm, layers = search.vlm, sorted(search.layers)
        check_split(search.split, search.questions)
        check_layers(layers, search.saes, vlm.n_layers)
        widths = [check_sae(search.saes[layer], layer, vlm.d_model) for layer in layers]
        questions = questions_that_can_flip(search.questions)
        prompts = prompt_table(questions)
        return cls(search, layers, questions, prompts, max(widths), team_on(vlm.device), checkpoint)

    @property
    def settings(self) -> FindSettings:
        """How features are chosen and the range is taken."""
        return self.search.settings

    @property
    def own_layers(self) -> list[int]:
        """The layers that this process screens."""
        return self.team.block(self.layers)

    def patch_target(self, flips: Flips, max_bytes: int = 0) -> PatchTarget:
        """Some pairs, ready to be patched; their runs keep up to `max_bytes` on the device between sweeps."""
        rerun = rerun_paraphrases(self.search.vlm, self.prompts, flips, max_bytes, self.team, self.checkpoint)
        return PatchTarget(flips, rerun)
