"""evaluation.json, which `finetune` writes: the base, adapters and clamps measured on the same questions."""

from typing import Any, Literal

from pydantic import Field, computed_field, model_validator

from interp.schemas.record import Interval, Record
from interp.storage.provenance import Provenance

State = Literal["better", "kept", "lost", "unclear"]
VerdictLabel = Literal["improved", "improved but less grounded", "not improved", "worse", "not judged"]


class Axis(Record):
    """What the interval of one measure says for the verdict."""

    axis: str = Field(description="what the measure stands for: consistency, accuracy or looking")
    measure: str = Field(description="name of the measure")
    state: State = Field(
        description="better or lost: a change is shown; kept: a loss beyond the tolerance is ruled out; else unclear"
    )
    needed: int | None = Field(
        description="number of units that would settle an unclear state at 80% power; null if none is known to"
    )


class Verdict(Record):
    """The verdict on one arm against the base."""

    label: VerdictLabel = Field(description="the verdict in a few words")
    sentence: str = Field(description="the verdict and its grounds, for people")
    axes: list[Axis] = Field(description="the measures that decided")
    warnings: list[str] = Field(
        default_factory=list, description="what a reader must know of the arm: another base, no record of its training"
    )


class Comparison(Record):
    """One measure in one group of questions, one arm against another."""

    kind: str = Field(description="kind of the group: all, phrasings, type, finding, register, registers or phenomenon")
    subset: str = Field(description="name of the group")
    measure: str = Field(description="name of the measure")
    reference: str = Field(description="arm that is compared with, usually the base")
    arm: str = Field(description="arm or pool that is judged")
    n: int = Field(description="number of units measured in the arm: questions, pairs or wordings")
    patients: int = Field(description="number of patients, or of images where patients are unknown")
    before: Interval = Field(description="the measure in the reference")
    after: Interval = Field(description="the measure in the arm")
    difference: Interval = Field(description="arm - reference, paired")
    effect_size: float | None = Field(description="Cohen's h of the two shares; null for what is not a share")
    test: str = Field(
        description="the paired test: permutation (over patients) or t (over patients, seeds); older files: mcnemar"
    )
    p: float | None = Field(description="two-sided p value of the paired test")
    p_unpaired: float | None = Field(
        description="p value of the two-proportion z test; null where units are not yes-or-no outcomes of questions"
    )


class Measured(Record):
    """One measure of an arm that is compared with nothing, in one group of questions."""

    arm: str = Field(description="name of the arm")
    kind: str = Field(description="kind of the group, as of a comparison")
    subset: str = Field(description="name of the group")
    measure: str = Field(description="name of the measure")
    n: int = Field(description="number of units measured: questions, pairs or wordings")
    patients: int = Field(description="number of patients, or of images where patients are unknown")
    value: Interval = Field(description="the measure")


class QuadrantMeans(Record):
    """How right and how sure one arm is in one quadrant, in the original wordings."""

    questions: int = Field(description="number of questions in the quadrant")
    accuracy: Interval = Field(description="share of right answers, of questions whose true answer is known")
    margin: Interval = Field(description="mean |margin| [logits]")
    entropy: Interval = Field(description="mean entropy of the answer among yes and no [bits]; 1 at even odds")


class Quadrants(Record):
    """How many of one arm's questions are consistent or not, and rely on the image or not."""

    arm: str = Field(description="name of the arm")
    reliance: str = Field(
        description="what shows that an answer relies on the image: grey, any (blank or swap), or opposite (the image "
        "of another patient with the opposite answer; questions without one are left out)"
    )
    questions: int = Field(description="number of closed questions with paraphrases")
    shares: dict[str, Interval] = Field(description="quadrant -> share of the questions")
    moves: list[list[int]] = Field(
        description="[4, 4] numbers of questions, from each quadrant in the base (row) to each in the arm (column)"
    )
    p: float | None = Field(description="p value that the shares equal those of the base, Stuart-Maxwell test")
    inside: dict[str, QuadrantMeans] = Field(
        default_factory=dict,
        description="quadrant -> its accuracy and certainty, without empty ones; {} in older files",
    )

    @model_validator(mode="after")
    def _square(self) -> "Quadrants":
        if {len(self.moves), *map(len, self.moves)} != {len(self.shares)}:
            raise ValueError(f"moves is not a square of the {len(self.shares)} quadrants")
        return self


class FlipsByCount(Record):
    """How the question-level flip rate of one arm depends on the number of paraphrases."""

    arm: str = Field(description="name of the arm")
    paraphrases: int = Field(description="number of paraphrases")
    questions: int = Field(description="number of closed questions with exactly this many")
    flip_rate: Interval = Field(description="share of these with at least one flip, as PSF-Med reports it")
    at_least: int = Field(description="number of closed questions with this many or more")
    drawn_flip_rate: Interval = Field(
        description="expected share of these with a flip among this many of their paraphrases, drawn at random"
    )


class FlipBank(Record):
    """PSF-Med's FlipBank of one arm: flips of unambiguous answers between similar wordings."""

    arm: str = Field(description="name of the arm")
    pairs: int = Field(description="number of pairs whose generated answers both say yes or no unambiguously")
    flips: int = Field(description="number of these with different answers")
    encoder: str | None = Field(description="name of the sentence encoder; null without one")
    least_similarity: float | None = Field(
        description="similarity above which wordings are alike; null without encoder"
    )
    similarity: float | None = Field(
        description="median similarity of the wordings of these flips; null without encoder"
    )
    banked: int = Field(description="number of flips between wordings that are alike; without encoder all flips")
    questions: int = Field(description="number of questions with such a flip")
    patients: int = Field(description="number of patients with one")


class CoveragePoint(Record):
    """One point of a risk-coverage curve: what is answered if the most doubtful questions are withheld."""

    coverage: float = Field(description="share of the questions that are answered")
    flip_rate: float | None = Field(description="share of these that flip")
    accuracy: float | None = Field(description="share of right answers among these, in the original wording")


class FlipDetector(Record):
    """How well one detector foretells which questions flip."""

    name: str = Field(
        description="what it looks at. margin: |margin| of the original wording; dispersion: standard deviation of the "
        "margin over wordings; mean margin: |mean margin| over wordings; features: activation of SAE features, fitted "
        "on other patients; features and margin: both"
    )
    passes: int = Field(description="number of forward passes that it needs for a question")
    auc: Interval = Field(description="area under the ROC curve for flips; .5 is chance")
    risk_area: float | None = Field(description="area under the curve of flips over coverage; less is better")
    curve: list[CoveragePoint] = Field(description="the risk-coverage curve")


class Abstention(Record):
    """What is gained if questions with a small |margin| are withheld; thresholds are set on other patients."""

    aim: float = Field(description="share of the questions that the threshold aims to answer")
    threshold: float | None = Field(description="least |margin| that is answered, from all patients [logits]")
    answered: Interval = Field(description="share of the questions that are answered")
    flip_rate: Interval = Field(description="share of the answered questions that flip")
    accuracy: Interval = Field(description="share of right answers among them, in the original wording")
    flips_withheld: Interval = Field(description="share of the questions that flip which are withheld")
    errors_withheld: Interval = Field(description="share of the wrong answers which are withheld")


class FlipDetection(Record):
    """How well the flips of one arm can be foretold."""

    arm: str = Field(description="name of the arm")
    probes: int = Field(
        description="number of paraphrases that a detector may read; flips are those of the others, if any differs "
        "from the original"
    )
    questions: int = Field(description="number of closed questions with more paraphrases than `probes`")
    patients: int = Field(description="number of patients, or of images where patients are unknown")
    flip_rate: Interval = Field(description="share of these questions that flip")
    detectors: list[FlipDetector] = Field(description="the detectors; one that is fitted needs enough flips")
    abstention: list[Abstention] = Field(description="the gain of withholding by |margin|; only without probes")


class ReliabilityBin(Record):
    """One point of a reliability curve (Guo et al., arXiv 1706.04599)."""

    arm: str = Field(description="name of the arm")
    low: float = Field(description="lower end of the bin of confidence")
    n: int = Field(description="number of wordings in the bin, of closed questions with a known answer")
    confidence: float = Field(description="mean confidence in the bin, sigmoid |margin|")
    accuracy: float = Field(description="share of right answers in the bin")
    interval: Interval | None = Field(
        default=None,
        description="the same share with its 95% interval over patients; null in files of older versions",
    )


class ClampControl(Record):
    """Other features clamped in place of the clamped ones, matched by how active they are."""

    features: list[str] = Field(description="LAYER:FEATURE of each control feature")
    question_flip_rate: float | None = Field(description="share of closed questions with a flipped paraphrase")
    accuracy: float | None = Field(description="share of right answers over all wordings of closed questions")


class Evaluation(Record):
    """The whole content of evaluation.json. It contains no question, path or patient."""

    schema_version: int = Field(default=2, description="version of this schema")
    verdicts: dict[str, Verdict] = Field(description="arm or pool other than the base -> its verdict")
    tolerance: float = Field(description="loss of accuracy or image reliance that a verdict calls kept, a share")
    arms: dict[str, list[dict[str, Any]]] = Field(
        description="arm -> the features clamped in it; the first is the base"
    )
    pools: dict[str, list[str]] = Field(description="pool -> its arms, which differ in the seed of the training only")
    controls: dict[str, list[ClampControl]] = Field(description="arm with clamps -> its controls")
    collapsed: dict[str, str] = Field(
        default_factory=dict, description="arm that gives one answer to all closed questions -> a sentence on it"
    )
    model: str = Field(description="hub id of the base model, or name of the local folder")
    questions: int = Field(description="number of questions")
    patients: int = Field(description="number of patients, or of images where patients are unknown")
    data: str = Field(description="hash of the questions")
    seed: int = Field(description="seed of bootstrap, permutations, noise images and swapped images")
    software: dict[str, str] = Field(description="package -> version")
    provenance: Provenance | None = Field(
        default=None, description="command, commit, device and start; null where not recorded"
    )
    quadrants: list[Quadrants] = Field(description="one entry per arm and kind of reliance")
    quadrant_order: list[str] = Field(description="names of the quadrants, best first, in the order of `moves`")
    reliability: list[ReliabilityBin] = Field(description="the points of every arm's reliability curve")
    by_count: list[FlipsByCount] = Field(
        default_factory=list, description="flips by number of paraphrases, one entry per arm and number"
    )
    flip_banks: list[FlipBank] = Field(
        default_factory=list, description="PSF-Med's FlipBank of every arm; empty if no answers were generated"
    )
    detection: list[FlipDetection] = Field(
        default_factory=list, description="how well flips can be foretold, one entry per arm and number of probes"
    )
    detector_features: list[str] = Field(
        default_factory=list, description="LAYER:FEATURE of the SAE features whose activation is tried as a detector"
    )
    comparisons: list[Comparison] = Field(description="one entry per measure, group and pair of arms")
    measured: list[Measured] = Field(
        default_factory=list,
        description="one entry per measure and group of a single arm, which is compared with nothing",
    )

    @model_validator(mode="after")
    def _known(self) -> "Evaluation":
        if not self.arms:
            raise ValueError("arms is empty, but its first entry is the base")
        if unknown := [name for members in self.pools.values() for name in members if name not in self.arms]:
            raise ValueError(f"pools name {unknown[0]!r}, which is not an arm")
        if any(set(found.shares) != set(self.quadrant_order) for found in self.quadrants):
            raise ValueError("quadrants are not those of quadrant_order")
        return self

    @computed_field(description="the verdicts on the arms shown and warnings about collapsed arms, for people")
    def verdict(self) -> str:
        """The verdicts on the arms shown and warnings about collapsed arms, as one text."""
        return " ".join(self.sentences)

    @property
    def base(self) -> str:
        """Name of the base, the first arm."""
        return next(iter(self.arms))

    @property
    def shown(self) -> list[str]:
        """Arms and pools that stand beside the base in tables: pools in place of their arms."""
        pooled = {name for members in self.pools.values() for name in members}
        return [name for name in self.verdicts if name not in pooled]

    @property
    def sentences(self) -> list[str]:
        """The verdicts on the arms shown, each with its warnings, and warnings about collapsed arms."""
        found = [self.verdicts[name] for name in self.shown]
        return [*(said for each in found for said in (each.sentence, *each.warnings)), *self.collapsed.values()]

    def against_base(self) -> dict[tuple[str, str, str, str], Comparison]:
        """(arm or pool, measure, kind of group, group) -> the comparison with the base."""
        return {(c.arm, c.measure, c.kind, c.subset): c for c in self.comparisons if c.reference == self.base}

    def value_of(self, arm: str, measure: str) -> Interval | None:
        """A measure of one arm over all questions, compared with others or not; None if it was not measured."""
        for c in self.comparisons:
            if (c.kind, c.measure, c.reference) == ("all", measure, self.base) and arm in (c.arm, self.base):
                return c.after if arm == c.arm else c.before
        found = (m for m in self.measured if (m.arm, m.kind, m.measure) == (arm, "all", measure))
        return next((m.value for m in found), None)
