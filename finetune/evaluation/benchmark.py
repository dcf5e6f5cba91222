"""Measuring models of any family: `finetune benchmark` as a function."""

from collections.abc import Sequence
from pathlib import Path

from finetune.evaluation.answers import Answers
from finetune.evaluation.arms import names_of
from finetune.evaluation.assess import AskedArms, assess, question_tables
from finetune.evaluation.collect import collect_answers, swaps_of
from finetune.evaluation.plain_engine import load_plain_engine
from finetune.evaluation.result import Evaluation
from finetune.evaluation.settings import EvaluationSettings
from interp.model.blank_images import ALL_BLANKS
from interp.model.spec import ModelSpec
from interp.questions.schema import Question
from interp.questions.spec import DataSpec, given_data
from interp.questions.wording_similarity import pair_similarity
from interp.runtime.errors import InputError
from interp.runtime.progress import spinner

BATCH_SIZE = 8
"""Number of prompts in a batch of a model of unknown size."""


def benchmark(
    models: str | Path | Sequence[str | Path],
    data: DataSpec | str | Path | Sequence[Question],
    spec: ModelSpec = ModelSpec(),
    settings: EvaluationSettings = EvaluationSettings(),
    batch_size: int = BATCH_SIZE,
) -> Evaluation:
    """Measure any vision-language models of `AutoModelForImageTextToText` on the questions of `data.test_split`.

        >>> settings = finetune.EvaluationSettings(new_tokens=0)
        >>> alone = finetune.benchmark(interp.WORLD / "planted", interp.DataSpec(limit=6), settings=settings)
        >>> list(alone.arms)
        ['planted']

    The measures are those of `evaluate`, computed by plain batched generation. Each of `models`, one or several folders
    or hub ids, is an arm, and the others are compared with the first; a single one is measured alone. `data` is a JSON
    Lines file, a DataSpec, or loaded questions. `spec` gives device, dtype,
    revision and prompt style; its own model is not used. One model is in memory at a time. Raises InputError for bad
    input, and for models that cannot be loaded or asked.
    """
    data, models = given_data(data), [models] if isinstance(models, str | Path) else models
    if not models:
        raise InputError("Give at least one model to measure, a folder or a hub id.")
    if len({Path(model).resolve() for model in models}) < len(models):
        raise InputError("The same model is given twice. Give every model once.")
    questions = data.load_test()
    tables = question_tables(questions)
    prompts, pairs = tables
    encoder = settings.sentence_encoder
    similarity = None if encoder is None else pair_similarity(prompts, pairs, encoder)
    swaps = swaps_of(questions, prompts, settings.seed)
    answers: dict[str, Answers] = {}
    names = names_of([Path(model) for model in models])
    for name, model in zip(names, models, strict=True):
        engine = load_plain_engine(model, spec, batch_size)
        engine.prepare_blanks(list(prompts["image"]), settings.seed)
        answers[name] = collect_answers(engine, prompts, swaps, settings.new_tokens, name, ALL_BLANKS)
        # Before the next model is loaded.
        del engine
    with spinner("intervals and tests"):
        asked = AskedArms(model=names[0], answers=answers)
        return assess(questions, tables, asked, None, similarity, settings.tolerance / 100, settings.seed)
