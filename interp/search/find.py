"""`find_features`: from questions to the layers worth training, in one call.

Margins and residuals -> flips -> screen of every feature on one half of the patients -> layer profile on the other
half -> range, verdict and `layers.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from interp.causal.feature_patching import joined_probes, patch_jointly, probe_feature, probes_of, sample_pairs
from interp.causal.layer_patching import patch_layers, replay_of
from interp.measurement.sharded import measure_together
from interp.model.model_entry import model_entry
from interp.model.vlm import Vlm
from interp.profile.profile import DRAWS, commit_layer, layer_profile
from interp.profile.ranges import ranges_of
from interp.profile.verdict import judge
from interp.questions.polarity import inverting_operator
from interp.questions.schema import Question
from interp.questions.tables import fingerprint, pair_table, prompt_table
from interp.runtime.distributed import team_on
from interp.runtime.errors import InputError
from interp.runtime.memory import memory_left
from interp.runtime.progress import track
from interp.saes.locate import locate_saes
from interp.saes.reconstruction import R2_NEEDED
from interp.saes.sae import Sae, check_sae, encode_features, load_sae
from interp.schemas.layers import (
    SCHEMA_VERSION,
    DataEntry,
    Interval,
    Layers,
    ProfileEntry,
    PromptEntry,
    RangeEntry,
    Rule,
)
from interp.screening.attribution import margin_gradients
from interp.screening.candidates import choose_candidates, held_out_aucs
from interp.screening.feature_stats import adjust
from interp.screening.flips import Flips, find_flips
from interp.screening.layers import joined, screen_layers
from interp.search.feature_entries import feature_entries, with_tests
from interp.statistics import mean_interval
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint
from interp.storage.provenance import provenance, software

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEATURES_KEPT = 20


@dataclass(frozen=True)
class FindSettings:
    """What the search does; every field is recorded in layers.json."""

    rule: Rule = "write"
    """Which rule takes the range that is written as `layers`."""
    max_layers: int = 5
    """Most layers a range may hold."""
    bank_margin: float = 0.25
    """Least |m| [logits] on both sides of a pair of the flip bank; bfloat16 alone blurs some hundredths."""
    features_a_layer: int = 10
    """Features of a layer, chosen on one half of the patients, whose flip AUC is reported on the other."""
    min_flips: int = 10
    """Fewest banked flips on the held-out half from which anything is concluded."""
    sae_dtype: torch.dtype = torch.float32
    """Of the SAEs' matrices; bfloat16 halves their memory."""
    seed: int = 0
    """Seed of the halves, controls and bootstrap."""


@dataclass(frozen=True)
class FindResult:
    """What `find_features` found, and the data behind its figures."""

    artifact: Layers
    """The content of layers.json."""
    features: pd.DataFrame
    """Every feature that ever fires, columns as in `SCREEN_COLUMNS` plus held_out_auc."""
    flips: Flips
    """Every pair of a closed question."""
    top_activations: NDArray[np.float32]
    """[n prompts] activation of the top feature (first row of `artifact.features`) on every wording."""
    prompts: pd.DataFrame
    """The prompt table behind it all; holds question text, never written to a file."""

    def table(self) -> pd.DataFrame:
        """The layer profile as a data frame, one row a layer, estimates without their intervals."""
        rows = [entry.model_dump() for entry in self.artifact.profile]
        return pd.DataFrame([{k: v["value"] if isinstance(v, dict) else v for k, v in row.items()} for row in rows])

    def plot_profile(self, axes: "Sequence[Axes] | None" = None) -> "list[Axes]":
        """Draw the layer profile: flip AUC above, recovered shares below; `axes` are two, by default of a new figure.

        Like every `plot_`, it draws into axes given without pyplot, and shows a new figure by pyplot.
        """
        from interp.views.figures.profile import layer_profile
        from interp.views.notebook import shown

        figure = layer_profile(self.artifact, axes)
        return shown(figure) if axes is None else list(axes)

    def plot_margin(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the top feature's delta against the margin shift, a point a pair. Raises InputError for no feature."""
        from interp.views.figures.margin import delta_against_margin
        from interp.views.figures.search import delta_of
        from interp.views.notebook import plotted

        self._has_feature()
        return plotted(delta_against_margin, delta_of(self), ax)

    def plot_register(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the top feature's activation on formal and on casual wordings. Raises InputError for no feature."""
        from interp.views.figures.register import activation_by_register
        from interp.views.figures.search import activations_of
        from interp.views.notebook import plotted

        self._has_feature()
        return plotted(activation_by_register, activations_of(self), ax)

    def _has_feature(self) -> None:
        if not self.artifact.features:
            raise InputError("No feature was tested, so there is none to draw: no banked flips, or no feature moves.")

    def __repr__(self) -> str:
        """Model, verdict and range; no question."""
        from interp.views.terminal.search import range_line

        return f"<FindResult of {self.artifact.model.id}: {self.artifact.verdict}, {range_line(self.artifact)}>"

    def _repr_html_(self) -> str:
        from interp.views.notebook import page_html
        from interp.views.terminal.search import (
            asked_line,
            feature_table,
            flips_line,
            profile_table,
            range_line,
            ranges_line,
        )

        found = self.artifact
        lines = [f"{found.model.id}: {asked_line(found)}", flips_line(found), ranges_line(found)]
        verdict = f"{found.verdict}: {range_line(found)}; {found.reason}"
        return page_html(verdict, lines, [profile_table(found), feature_table(found)], found.warnings)


def find_features(
    vlm: Vlm,
    saes: Mapping[int, Path] | str | Path,
    questions: Sequence[Question],
    layers: Sequence[int] | None = None,
    settings: FindSettings = FindSettings(),
    split: str = "all",
    batch_tokens: int = 16384,
    max_memory: float | None = None,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> FindResult:
    """Find the features and the layers that make `vlm` flip on these questions.

    `saes` is where they are, as `interp.saes.locate.locate_saes` takes it, or what it gives, layer -> SAE folder, if of
    several SAEs of a layer others than its defaults are meant; `layers` are those to profile, by default all that have
    an SAE; `batch_tokens` bounds a forward pass, `max_memory` [GiB] what is kept between passes
    (`interp.runtime.memory`). Only closed questions with paraphrases count. Several processes
    (`interp.runtime.distributed`) share the
    work, and each returns the same. What is in the `checkpoint` is not computed again. Raises InputError if there
    are none, if an SAE does not fit the model, or if the checkpoint is damaged or of another search.
    """
    sae_of = saes if isinstance(saes, Mapping) else locate_saes(saes, layers=layers)
    chosen = sorted(sae_of) if layers is None else sorted(layers)
    if not chosen or chosen[-1] >= vlm.n_layers:
        raise InputError(f"SAEs for layers {chosen}, but the model has layers 0 to {vlm.n_layers - 1}.")
    widths = [check_sae(sae_of[layer], layer, vlm.d_model) for layer in chosen]
    asked = [q for q in questions if q.closed and q.same_meaning]
    if not asked:
        raise InputError("None of the questions is a yes/no question with paraphrases, so nothing can flip.")
    prompts, team = prompt_table(asked), team_on(vlm.device)
    # From here on every process has the residuals around its own layers alone.
    places = team.block(range(len(chosen)))
    own = [chosen[place] for place in places]
    margin, residuals = measure_together(vlm, prompts, chosen, batch_tokens, max_memory, team, checkpoint)
    flips = find_flips(prompts, pair_table(prompts), margin, settings.bank_margin)
    selecting = select_half(flips, settings.seed)
    choice, held_out = flips.take(selecting), flips.take(~selecting)
    banked, taught = held_out.take(held_out.banked), choice.take(choice.banked)

    room = memory_left(vlm.device, max_memory)
    size = 2 * max(widths) * vlm.d_model * settings.sae_dtype.itemsize

    # One at least; all layers of 16k features take 11 GB, in bfloat16 half of it.
    @lru_cache(max(1, room.device // 2 // size))
    def load(layer: int) -> Sae:
        return load_sae(sae_of[layer], layer, vlm.d_model, vlm.device, settings.sae_dtype)

    gradients = margin_gradients(replay_of(vlm, prompts, taught, team=team, checkpoint=checkpoint), chosen)[:, places]
    given = (choice, taught, held_out, banked, gradients, settings.features_a_layer, settings.seed)
    screened = joined(screen_layers(load, residuals, own, prompts, *given, checkpoint), team)
    screen = adjust(screened.features)

    replay = replay_of(vlm, prompts, banked, room.device // 4, team, checkpoint)
    patch = patch_layers(replay, banked, screened.state, screened.before, chosen, settings.seed, "layer patches")
    joint = patch_jointly(replay, banked, screened.joint, chosen, settings.seed)
    profile = layer_profile(chosen, screened.scores, held_out, banked, patch, joint, screened.fits, settings.seed)
    ranges = ranges_of(profile, settings.max_layers)
    taken = ranges[settings.rule]
    verdict, reason = judge(profile, banked, taken, settings.min_flips)

    candidates = choose_candidates(screen, FEATURES_KEPT)
    mine = [candidate for candidate in candidates if candidate[0] in own]
    unflipped = sample_pairs(held_out.take(~held_out.flipped), len(banked.pairs), settings.seed)
    other = replay_of(vlm, prompts, unflipped, room.device // 8, team, checkpoint)
    probes = joined_probes(probes_of(mine, banked, unflipped, residuals, screen, load), candidates, team)
    shown = track(probes if len(banked.pairs) else [], "patching features")
    tests = [probe_feature(probe, replay, banked, other, unflipped, settings.seed) for probe in shown]
    aucs = team.gather_values(list(held_out_aucs(mine, load, residuals, held_out).items()))
    screen = with_tests(screen, candidates, tests, {(layer, f): value for part in aucs for (layer, f), value in part})
    entries = feature_entries(screen, candidates, tests)
    top_activations = torch.zeros(len(prompts))
    if entries and entries[0].layer in own:
        top = torch.tensor([entries[0].feature])
        top_activations = encode_features(load(entries[0].layer), residuals.after(entries[0].layer), top)[:, 0]
    found = taken if verdict == "gate found" else None
    artifact = Layers(
        schema_version=SCHEMA_VERSION,
        verdict=verdict,
        reason=reason,
        layers=found.layers if found else [],
        peak=found.peak if found else None,
        rule=settings.rule,
        commit_layer=commit_layer(profile, len(banked.pairs)),
        ranges=[RangeEntry(rule=rule, **taken._asdict()) for rule, taken in ranges.items()],
        model=model_entry(vlm),
        prompt=PromptEntry(**vlm.style._asdict()),
        saes=screened.saes,
        data=_describe(asked, prompts, flips, margin, split, settings.seed),
        profile=profile,
        features=entries,
        warnings=warnings_of(asked, profile),
        settings=settings.__dict__ | {"layers": chosen, "sae_dtype": str(settings.sae_dtype).removeprefix("torch.")},
        seed=settings.seed,
        software=software(),
        provenance=provenance(),
    )
    return FindResult(artifact, screen, flips, team.all_reduce_sum(top_activations).numpy(), prompts)


def select_half(flips: Flips, seed: int) -> NDArray[np.bool_]:
    """Which pairs belong to the half that features are chosen on: half of the patients with and without flips, [n]."""
    flippy = flips.pairs.assign(flipped=flips.banked).groupby("patient")["flipped"].any()
    rng = np.random.default_rng([seed, 7])
    half: set[object] = set()
    for value in (True, False):
        patients = flippy.index[flippy == value].to_numpy(copy=True)
        rng.shuffle(patients)
        half |= set(patients[: (len(patients) + 1) // 2])
    return flips.pairs["patient"].isin(half).to_numpy()


def warnings_of(asked: Sequence[Question], profile: Sequence[ProfileEntry]) -> list[str]:
    """What a reader of the results has to know: SAEs that do not carry over, wordings that ask for the opposite."""
    failed = [str(p.layer) for p in profile if p.transfer == "fail"]
    unclear = [str(p.layer) for p in profile if p.transfer == "unclear"]
    said = []
    if failed:
        said.append(
            f"the SAEs of layers {', '.join(failed)} explain less than {R2_NEEDED:.0%} of the variance here (p < .05): "
            "what their features say there is a part of the story"
        )
    if unclear:
        layers = ", ".join(unclear)
        said.append(f"whether the SAEs of layers {layers} explain {R2_NEEDED:.0%} is unclear from these data")
    inverted = sum(inverting_operator(q.question, p.text) is not None for q in asked for p in q.same_meaning)
    if inverted:
        said.append(
            f"{inverted} paraphrases seem to ask for the opposite of their question, so their flips may be right "
            "answers; `interp import-questions --format jsonl` sets them apart"
        )
    return said


def _describe(
    asked: list[Question], prompts: pd.DataFrame, flips: Flips, margin: torch.Tensor, split: str, seed: int
) -> DataEntry:
    by_question = (
        flips.pairs.assign(flipped=flips.flipped).groupby("question").agg({"flipped": "any", "patient": "first"})
    )
    answered = prompts["answer"].notna().to_numpy()
    right = ((margin.numpy() > 0) == (prompts["answer"] == "yes").to_numpy())[answered].astype(float)
    return DataEntry(
        fingerprint=fingerprint(asked),
        split=split,
        questions=len(asked),
        pairs=len(flips.pairs),
        patients=prompts["patient"].nunique(),
        flips=int(flips.flipped.sum()),
        flip_bank=int(flips.banked.sum()),
        question_flip_rate=Interval.of(
            mean_interval(by_question["flipped"].to_numpy(float), by_question["patient"].tolist(), seed, DRAWS)
        ),
        pairwise_flip_rate=Interval.of(
            mean_interval(flips.flipped.astype(float), flips.pairs["patient"].tolist(), seed, DRAWS)
        ),
        accuracy=Interval.of(mean_interval(right, prompts["patient"][answered].tolist(), seed, DRAWS)),
    )
