import json

import numpy as np
import pytest
import torch
from finetune_world import UNSEEN, awaken, make_world, plain_logits, plain_margin

from finetune.compare import Arm, Comparison, compare, subsets_of
from finetune.evaluate import evaluate
from finetune.lora import add_lora
from finetune.texts import text_hash
from finetune.verdict import judge, verdict
from interp.answers import asks_yes_or_no
from interp.errors import InputError
from interp.images import BLANK_IMAGE
from interp.questions import load_questions, pair_table, prompt_table
from interp.statistics import Estimate, mcnemar_p, mean_interval, sign_flip_p
from interp.vlm import load_vlm

KNOWN_SAMPLE = [
    "Is there an opacity?",
    "Can you see an opacity here?",
    "Is this abnormal?",
    "Which projection is this?",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("evaluate") / "world", patients=12)


@pytest.fixture(scope="module")
def adapted(world):
    vlm = load_vlm(world.model, "cpu", "float32")
    model = add_lora(vlm, [0, 1, 2])
    awaken(model, scale=1.0)
    model.eval()
    return vlm, model


@pytest.fixture(scope="module")
def questions(world):
    return load_questions(world.questions, split="test")


@pytest.fixture(scope="module")
def evaluation(adapted, questions):
    return evaluate(*adapted, questions, {text_hash(t) for t in KNOWN_SAMPLE}, seed=3)


@pytest.fixture(scope="module")
def slow(adapted, questions):
    """Every wording of every question, one plain forward each: {arm: [(question, texts, margins, words, blank)]}."""
    vlm, model = adapted
    tokenizer = vlm.processor.tokenizer

    def run(question):
        texts = [question.question, *(p.text for p in question.paraphrases)]
        logits = [plain_logits(vlm.model, vlm.processor, question.image, text) for text in texts]
        blank = plain_logits(vlm.model, vlm.processor, BLANK_IMAGE, question.question)
        words = [tokenizer.decode([int(x.argmax())]).strip().lower() for x in logits]
        return question, texts, [plain_margin(x, tokenizer) for x in logits], words, plain_margin(blank, tokenizer)

    with torch.no_grad():
        after = [run(q) for q in questions]
        with model.disable_adapter():
            before = [run(q) for q in questions]
    return {"base": before, "adapter": after}


def slow_values(rows, tokenizer, wording_in, pair_in):
    """Measure -> [(patient, value)] by plain loops."""
    found = {name: [] for name in ("question_flip_rate", "pairwise_flip_rate", "margin_difference", "accuracy")}
    found |= {name: [] for name in ("original_accuracy", "first_token_accuracy", "text_only_agreement")}
    for q, texts, margins, words, blank in rows:
        closed = q.answer.lower() in ("yes", "no")
        first = tokenizer.decode(tokenizer(q.answer.lower(), add_special_tokens=False)["input_ids"][:1]).strip().lower()
        flips = []
        for k, text in enumerate(texts):
            if wording_in(q, text):
                found["first_token_accuracy"].append((q.patient, float(words[k] == first)))
                if closed:
                    right = float((margins[k] > 0) == (q.answer.lower() == "yes"))
                    found["accuracy"].append((q.patient, right))
                    if k == 0:
                        found["original_accuracy"].append((q.patient, right))
                        found["text_only_agreement"].append((q.patient, float((blank > 0) == (margins[0] > 0))))
            if k and closed and pair_in(q, q.paraphrases[k - 1], texts[0], text):
                flips.append(float((margins[0] > 0) != (margins[k] > 0)))
                found["pairwise_flip_rate"].append((q.patient, flips[-1]))
                found["margin_difference"].append((q.patient, abs(margins[0] - margins[k])))
        if flips:
            found["question_flip_rate"].append((q.patient, max(flips)))
    return found


def seen(text):
    return text in KNOWN_SAMPLE


SUBSETS = {
    ("all", "all"): (lambda q, t: True, lambda q, p, a, b: True),
    ("phrasings", "seen"): (lambda q, t: seen(t), lambda q, p, a, b: seen(a) and seen(b)),
    ("phrasings", "unseen"): (lambda q, t: not seen(t), lambda q, p, a, b: not (seen(a) and seen(b))),
    ("type", "presence"): (lambda q, t: q.type == "presence", lambda q, p, a, b: q.type == "presence"),
    ("type", "level"): (lambda q, t: q.type == "level", lambda q, p, a, b: q.type == "level"),
    ("phenomenon", "negation_pattern"): (lambda q, t: False, lambda q, p, a, b: p.phenomenon == "negation_pattern"),
}


@pytest.mark.parametrize("subset", SUBSETS)
def test_numbers_equal_a_slow_direct_computation(evaluation, slow, adapted, subset):
    tokenizer = adapted[0].processor.tokenizer
    found = {c.measure: c for c in evaluation.comparisons if (c.kind, c.subset) == subset}
    before, after = (slow_values(slow[arm], tokenizer, *SUBSETS[subset]) for arm in ("base", "adapter"))
    assert set(found) == {name for name, values in before.items() if values}
    for name, comparison in found.items():
        patients = [patient for patient, _ in before[name]]
        b, a = (np.array([value for _, value in arm[name]]) for arm in (before, after))
        assert (comparison.n, comparison.patients) == (len(b), len(set(patients))), name
        assert comparison.base.value == pytest.approx(b.mean(), abs=1e-5), name
        assert comparison.adapter.value == pytest.approx(a.mean(), abs=1e-5), name
        assert comparison.difference == pytest.approx(mean_interval(a - b, patients, 3), abs=1e-5), name
        assert comparison.base == pytest.approx(mean_interval(b, patients, 3), abs=1e-5), name
        if name in ("question_flip_rate", "original_accuracy"):
            expected = ("mcnemar", mcnemar_p(b > 0, a > 0))
        else:
            expected = ("sign-flip", sign_flip_p(a - b, patients, 3))
        assert (comparison.test, comparison.p) == (expected[0], pytest.approx(expected[1], abs=1e-3)), name


def test_the_comparison_is_not_of_zeros(evaluation):
    overall = {c.measure: c for c in evaluation.comparisons if c.kind == "all"}
    assert overall["question_flip_rate"].adapter.value > 0
    assert overall["question_flip_rate"].base.value != overall["question_flip_rate"].adapter.value
    assert overall["margin_difference"].base.value > 0


def test_evaluating_leaves_the_adapter_on(evaluation, adapted, questions):
    vlm, model = adapted
    q = questions[0]
    with_adapter = plain_logits(vlm.model, vlm.processor, q.image, q.question)
    with model.disable_adapter():
        without = plain_logits(vlm.model, vlm.processor, q.image, q.question)
    assert not torch.allclose(with_adapter, without, atol=1e-3)


def test_table_and_json_hold_every_comparison(evaluation):
    table = evaluation.table()
    content = json.loads(evaluation.to_json())
    assert len(table) == len(content["comparisons"]) == len(evaluation.comparisons)
    assert content["verdict"] == evaluation.verdict
    assert {"kind", "subset", "measure", "n", "base", "base_low", "adapter_high", "difference", "test", "p"} <= set(
        table
    )
    assert table["base"].tolist() == pytest.approx([c["base"]["value"] for c in content["comparisons"]], abs=1e-6)
    texts = {t for words in UNSEEN.values() for t in words} | set(KNOWN_SAMPLE)
    assert not any(text in evaluation.to_json() for text in texts)


def test_hashes_ignore_case_and_outer_blanks_only(questions):
    assert text_hash(" Is it HERE?\n") == text_hash("is it here?")
    assert text_hash("is it here?") != text_hash("is  it here?")
    assert len(text_hash("a")) == 16
    prompts = prompt_table(questions)
    pairs = pair_table(prompts)
    assert "phrasings" not in {s.kind for s in subsets_of(prompts, pairs, None)}
    known = {text_hash(t.upper()) for t in prompts["text"]}
    by_name = {s.name: s for s in subsets_of(prompts, pairs, known)}
    assert by_name["seen"].prompts.all()
    assert not by_name["unseen"].pairs.any()


def test_open_questions_alone_are_not_judged(adapted, questions):
    found = evaluate(*adapted, [q for q in questions if not q.closed])
    assert {c.measure for c in found.comparisons} == {"first_token_accuracy"}
    assert found.verdict.startswith("Not judged")


def test_questions_without_an_answer_flip_but_are_not_accurate(adapted, questions):
    unanswered = [
        q.model_copy(update={"answer": None}) if i % 2 and asks_yes_or_no(q.question) else q
        for i, q in enumerate(questions)
    ]
    left = [q for q in unanswered if q.answer is not None]
    assert len(left) < len(questions)
    found, known, whole = (
        {c.measure: c for c in evaluate(*adapted, asked).comparisons if c.kind == "all"}
        for asked in (unanswered, left, questions)
    )
    for measure in ("question_flip_rate", "pairwise_flip_rate", "margin_difference", "text_only_agreement"):
        assert (found[measure].n, found[measure].adapter.value) == (whole[measure].n, whole[measure].adapter.value)
    for measure in ("accuracy", "original_accuracy", "first_token_accuracy"):
        assert (found[measure].n, found[measure].adapter.value) == (known[measure].n, known[measure].adapter.value)


def test_no_questions_are_refused(adapted):
    with pytest.raises(InputError, match="No questions"):
        evaluate(*adapted, [])


@pytest.mark.parametrize(
    ("flips", "accuracy", "agreement", "expected"),
    [
        (-1, 0, 0, "improved"),
        (-1, 1, -1, "improved"),
        (-1, 0, 1, "improved but less grounded"),
        (-1, 1, 1, "improved but less grounded"),
        (-1, -1, 0, "more consistent but less accurate"),
        (-1, -1, 1, "more consistent but less accurate and less grounded"),
        (0, 1, -1, "no improvement shown"),
        (0, 0, 0, "no improvement shown"),
        (0, -1, 0, "worse"),
        (1, 1, 0, "worse"),
    ],
)
def test_the_rule_of_the_verdict(flips, accuracy, agreement, expected):
    assert judge(flips, accuracy, agreement) == expected


def comparison(measure, before, after, p, half_width):
    change = after - before
    interval = Estimate(change, change - half_width, change + half_width)
    values = Estimate(before, before, before), Estimate(after, after, after)
    return Comparison("all", "all", measure, 100, 50, *values, interval, "sign-flip", p)


def verdict_of(flips, accuracy, agreement):
    names = ("question_flip_rate", "accuracy", "text_only_agreement")
    values = zip(names, (flips, accuracy, agreement), strict=True)
    return verdict((comparison(name, *value) for name, value in values), "adapter")


def test_the_verdict_needs_test_and_interval():
    same, lower = (0.8, 0.8, 1.0, 0.05), (0.2, 0.05, 0.001, 0.05)
    assert verdict_of(lower, same, (0.5, 0.5, 1.0, 0.05)).startswith(
        "Improved: with the adapter, flips fell (20.0% to 5.0%, p = 0.001)"
    )
    assert verdict_of((0.2, 0.05, 0.2, 0.05), same, same).startswith("No improvement shown")
    assert verdict_of((0.2, 0.05, 0.001, 0.2), same, same).startswith("No improvement shown")
    assert verdict_of(lower, same, (0.5, 0.7, 0.001, 0.05)).startswith("Improved but less grounded")


def test_a_model_that_ignores_the_image_is_not_called_better():
    """Perfectly consistent, as accurate as before, and answering from the text: flips alone would praise it."""
    rng = np.random.default_rng(0)
    n = 200
    lines = [
        {"id": str(i), "image": f"{i}.png", "type": "presence", "question": f"q{i % 7}", "answer": "yes"}
        for i in range(n)
    ]
    from interp.questions import Question

    prompts = prompt_table(Question.model_validate(line | {"paraphrases": [{"text": "p"}]}) for line in lines)
    pairs = pair_table(prompts)
    looking = np.where(rng.random(2 * n) < 0.8, 2.0, -2.0)
    blank = np.where((prompts["variant"] == 0).to_numpy(), 2.0, np.nan)
    base = Arm(looking, looking > 0, blank)
    constant = Arm(np.full(2 * n, 2.0), np.ones(2 * n, bool), blank)
    found = verdict(compare(prompts, pairs, base, constant, subsets_of(prompts, pairs, None), seed=0), "adapter")
    assert found.startswith("Improved but less grounded"), found
