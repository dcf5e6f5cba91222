"""An evaluation against a slow computation with transformers and plain loops."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from finetune_world import UNSEEN, awaken, make_world, plain_logits, plain_margin

from finetune.evaluation.arms import Arm, adapter_arm, base_arm
from finetune.evaluation.collect import SWAPS, swap_images, swaps_of
from finetune.evaluation.compare import subsets_of
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.measures import MEASURES
from finetune.evaluation.quadrants import QUADRANTS
from finetune.lora.modules import add_lora
from finetune.lora.seen_texts import text_hash
from interp.images.decode import BLANK_IMAGE, open_image
from interp.measurement.margins import measure
from interp.model.blank_images import BLANKS, gaussian_image
from interp.model.load import load_vlm
from interp.model.pixels import pixels_of
from interp.model.prompts import prompt_tokens
from interp.questions.files import load_questions
from interp.questions.generated_answers import begins_with_answer, parse_yes_no
from interp.questions.published_parser import parse_as_published
from interp.questions.tables import pair_table, prompt_table
from interp.questions.yes_no_form import asks_yes_or_no
from interp.runtime.errors import InputError
from interp.statistics import mean_interval, ratio_sign_flips
from interp.views.figures.evaluation import save_evaluation_figures

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
def adapted(world, questions):
    vlm = load_vlm(world.model, "cpu", "float32")
    model = add_lora(vlm, [0, 1, 2])
    model.eval()
    # Each version of torch draws another model; the adapter must answer yes to some wordings and no to others.
    prompts = prompt_table([q for q in questions if q.closed])
    for seed in range(20):
        awaken(model, seed, scale=1.0)
        yes = pd.Series(measure(vlm, prompts).margin.numpy() > 0).groupby(prompts["question"].to_numpy())
        if (yes.nunique() > 1).any():
            break
    # The answers of this world are up to three tokens long.
    generation = vlm.model.generation_config
    generation.max_new_tokens = None
    # A random model sometimes generates the image token, which the plain model would take for an image.
    generation.eos_token_id = [*generation.eos_token_id, vlm.model.config.image_token_id]
    return vlm, model


@pytest.fixture(scope="module")
def questions(world):
    return load_questions(world.questions, split="test")


def arms_of(model):
    return [base_arm(model), Arm("adapter")]


@pytest.fixture(scope="module")
def evaluation(adapted, questions):
    vlm, model = adapted
    return evaluate(vlm, arms_of(model), questions, {text_hash(t) for t in KNOWN_SAMPLE}, seed=3, new_tokens=3)


def logits_on(vlm, pixels, text):
    """First-answer-token logits of one prompt on given pixels, computed by transformers alone."""
    ids = torch.tensor(prompt_tokens(vlm.processor, [text]))
    types = (ids == vlm.model.config.image_token_id).long()
    return vlm.model(input_ids=ids, pixel_values=pixels[None], token_type_ids=types).logits[0, -1]


def spoken(vlm, image, text, tokens):
    """Greedy answer to one prompt, recomputed from the start for every token."""
    ids = torch.tensor(prompt_tokens(vlm.processor, [text]))
    pixels = pixels_of(vlm, [open_image(image)])
    ends = vlm.model.generation_config.eos_token_id
    said = []
    for _ in range(tokens):
        types = (ids == vlm.model.config.image_token_id).long()
        token = int(vlm.model(input_ids=ids, pixel_values=pixels, token_type_ids=types).logits[0, -1].argmax())
        if token in ends:
            break
        said.append(token)
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return vlm.processor.tokenizer.decode(said, skip_special_tokens=True).strip()


@pytest.fixture(scope="module")
def slow(adapted, questions):
    """Arm -> answers to each question, with one plain forward pass for every wording."""
    vlm, model = adapted
    tokenizer = vlm.processor.tokenizer
    plain = [pixels_of(vlm, [open_image(image)])[0] for image in sorted({q.image for q in questions})]
    low, high = plain[0].min() * 0 - 1, plain[0].min() * 0 + 1
    noise = low + torch.rand(plain[0].shape, generator=torch.Generator().manual_seed(3)) * (high - low)
    blanks = {
        "grey": pixels_of(vlm, [open_image(BLANK_IMAGE)])[0],
        "white": torch.ones_like(plain[0]),
        "noise": noise,
        "mean": torch.stack(plain).mean(0),
        "gaussian": pixels_of(vlm, [gaussian_image(3)])[0],
    }
    swaps = swaps_of(questions, prompt_table(questions), 3)
    others, opposites = iter(swaps.random), iter(swaps.opposite)

    def margin(pixels, text):
        return plain_margin(logits_on(vlm, pixels, text), tokenizer)

    def run(question, swaps, opposite):
        texts = [question.question, *(p.text for p in question.paraphrases)]
        logits = [plain_logits(vlm.model, vlm.processor, question.image, text) for text in texts]
        return {
            "question": question,
            "texts": texts,
            "margins": [plain_margin(x, tokenizer) for x in logits],
            "words": [tokenizer.decode([int(x.argmax())]).strip().lower() for x in logits],
            "said": [spoken(vlm, question.image, text, 3) for text in texts],
            "blank": {kind: margin(pixels, texts[0]) for kind, pixels in blanks.items()},
            "blanks": [margin(blanks["grey"], text) for text in texts],
            "swapped": [margin(pixels_of(vlm, [open_image(image)])[0], texts[0]) for image in swaps],
            "opposite": None if opposite is None else margin(pixels_of(vlm, [open_image(opposite)])[0], texts[0]),
        }

    with torch.no_grad():
        asked = [(q, next(others), next(opposites)) if q.closed else (q, [], None) for q in questions]
        after = [run(*each) for each in asked]
        with model.disable_adapter():
            before = [run(*each) for each in asked]
    return {"base": before, "adapter": after}


def slow_values(rows, tokenizer, wording_in, pair_in):
    """Measure -> [(patient, value)], by plain loops, for the measures that are means."""
    found = {name: [] for name, measure in MEASURES.items() if measure.statistic.__name__ == "mean_of_totals"}
    for row in rows:
        q, texts, margins = row["question"], row["texts"], row["margins"]
        answer = q.answer.lower()
        closed = answer in ("yes", "no")
        yes = [m > 0 for m in margins]
        first = tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"][:1]).strip().lower()

        def add(name, value, patient=q.patient):
            found[name].append((patient, float(value)))

        parsed, published = ([read(said) for said in row["said"]] for read in (parse_yes_no, parse_as_published))
        inside = [k for k, text in enumerate(texts) if wording_in(q, text)]
        pairs = [k for k in range(1, len(texts)) if pair_in(q, q.paraphrases[k - 1], texts[0], texts[k])]
        for k in inside:
            add("first_token_accuracy", row["words"][k] == first)
            add("sequence_accuracy", begins_with_answer(row["said"][k], answer, q.type))
            if closed:
                add("accuracy", yes[k] == (answer == "yes"))
                add("unparsed", parsed[k] is None)
                add("published_excluded", published[k] is None)
                if parsed[k] is not None:
                    add("parsed_accuracy", parsed[k] == answer)
                    add("parsed_agreement", parsed[k] == ("yes" if yes[k] else "no"))
        if not closed:
            continue
        if 0 in inside:
            add("original_accuracy", yes[0] == (answer == "yes"))
            same = {kind: (m > 0) == yes[0] for kind, m in row["blank"].items()}
            add("text_only_agreement", np.mean([same[kind] for kind in BLANKS]))
            for kind, stayed in same.items():
                add(f"text_only_agreement_{kind}", stayed)
            add("blank_margin", np.mean([abs(row["blank"][kind]) for kind in BLANKS]))
            add("swap_sensitivity", np.mean([(m > 0) != yes[0] for m in row["swapped"]]))
            if row["opposite"] is not None:
                there = row["opposite"] > 0
                add("opposite_swap_sensitivity", there != yes[0])
                add("paired_image_accuracy", yes[0] == (answer == "yes") and there == (answer == "no"))
                add("opposite_margin_shift", (margins[0] - row["opposite"]) * (1 if answer == "yes" else -1))
        if len(inside) > 1:
            differ = [yes[a] != yes[b] for i, a in enumerate(inside) for b in inside[i + 1 :]]
            add("symmetric_flip_rate", np.mean(differ))
        for k in pairs:
            add("pairwise_flip_rate", yes[0] != yes[k])
            add("margin_difference", abs(margins[0] - margins[k]))
            if parsed[0] is not None and parsed[k] is not None:
                add("parsed_flip_rate", parsed[0] != parsed[k])
        comparable = [k for k in pairs if published[0] is not None and published[k] is not None]
        if comparable:
            add("published_flip_rate", any(published[0] != published[k] for k in comparable))
        if pairs:
            consistent = all(yes[0] == yes[k] for k in pairs)
            reliant = (row["blank"]["grey"] > 0) != yes[0]
            grey = [m > 0 for m in row["blanks"]]
            add("question_flip_rate", not consistent)
            add("blank_flip_rate", any(grey[0] != grey[k] for k in pairs))
            add("ideal", consistent and reliant)
            add("fragile", not consistent and reliant)
            add("dangerous", consistent and not reliant)
            add("worst", not consistent and not reliant)
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


def numbers(interval):
    return interval.value, interval.low, interval.high


@pytest.mark.parametrize("subset", SUBSETS)
def test_numbers_equal_a_slow_direct_computation(evaluation, slow, adapted, subset):
    tokenizer = adapted[0].processor.tokenizer
    found = {c.measure: c for c in evaluation.comparisons if (c.kind, c.subset) == subset}
    before, after = (slow_values(slow[arm], tokenizer, *SUBSETS[subset]) for arm in ("base", "adapter"))
    shown = {name for name, measure in MEASURES.items() if measure.grouped or subset == ("all", "all")}
    means = {name for name, values in before.items() if values and after[name]} & shown
    assert {name for name in found if MEASURES[name].statistic.__name__ == "mean_of_totals"} == means
    for name in means:
        comparison = found[name]
        b, a = (np.array([value for _, value in arm[name]]) for arm in (before, after))
        patients = [patient for patient, _ in after[name]]
        assert (comparison.n, comparison.patients) == (len(a), len(set(patients))), name
        assert comparison.before.value == pytest.approx(b.mean(), abs=1e-5), name
        assert comparison.after.value == pytest.approx(a.mean(), abs=1e-5), name
        if [patient for patient, _ in before[name]] != patients or len(set(patients)) < 5:
            continue
        expected = tuple(mean_interval(b, patients, 3))
        if MEASURES[name].unit == "%" and b.mean() in (0, 1):
            sizes = np.unique(patients, return_counts=True)[1]
            reach = 0.025 ** ((sizes**2).sum() / sizes.sum() ** 2)
            expected = (0, 0, 1 - reach) if b.mean() == 0 else (1, reach, 1)
        assert numbers(comparison.before) == pytest.approx(expected, abs=1e-5), name
        # The permutations are drawn with another seed.
        change, p = ratio_sign_flips(a - b, np.ones(len(a)), patients, 3)
        assert (comparison.test, comparison.p) == ("permutation", pytest.approx(p, abs=0.03)), name
        if np.isfinite(change.low):
            width = max(change.high - change.low, 1e-4)
            assert numbers(comparison.difference) == pytest.approx(change, abs=0.25 * width), name


def test_certainty_by_quadrant_equals_a_loop_over_plain_forwards(evaluation, slow):
    for arm in ("base", "adapter"):
        cells = {}
        for row in slow[arm]:
            q, margins = row["question"], row["margins"]
            if not q.closed or len(margins) == 1 or row["opposite"] is None:
                continue
            yes = [m > 0 for m in margins]
            consistent, reliant = len(set(yes)) == 1, (row["opposite"] > 0) != yes[0]
            name = {(1, 1): "ideal", (0, 1): "fragile", (1, 0): "dangerous", (0, 0): "worst"}[consistent, reliant]
            p = 1 / (1 + np.exp(-margins[0]))
            entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
            cells.setdefault(name, []).append((yes[0] == (q.answer.lower() == "yes"), abs(margins[0]), entropy))
        found = next(each for each in evaluation.quadrants if (each.arm, each.reliance) == (arm, "opposite"))
        assert found.questions == sum(map(len, cells.values()))
        assert {name: means.questions for name, means in found.inside.items()} == {k: len(v) for k, v in cells.items()}
        for name, rows in cells.items():
            means = found.inside[name]
            assert found.shares[name].value == pytest.approx(len(rows) / found.questions, abs=1e-6)
            values = means.accuracy.value, means.margin.value, means.entropy.value
            assert values == pytest.approx(np.mean(rows, axis=0), abs=1e-4)


def test_detection_equals_plain_forwards(evaluation, slow):
    for arm in ("base", "adapter"):
        for probes in (0, 2):
            rows = [r for r in slow[arm] if r["question"].closed and len(r["margins"]) > 1 + probes]
            flips = np.array([any((m > 0) != (r["margins"][0] > 0) for m in r["margins"][1 + probes :]) for r in rows])
            found = next(each for each in evaluation.detection if (each.arm, each.probes) == (arm, probes))
            assert (found.questions, found.flip_rate.value) == (len(rows), pytest.approx(flips.mean(), abs=1e-5))
            scores = {"margin": [-abs(r["margins"][0]) for r in rows]}
            if probes:
                scores["dispersion"] = [np.std(r["margins"][: 1 + probes], ddof=1) for r in rows]
                scores["mean margin"] = [-abs(np.mean(r["margins"][: 1 + probes])) for r in rows]
            assert [each.name for each in found.detectors] == list(scores)
            for each in found.detectors:
                score = np.array(scores[each.name])
                wins = np.subtract.outer(score[flips], score[~flips])
                expected = ((wins > 0) + (wins == 0) / 2).mean() if wins.size else None
                assert each.auc.value == (None if expected is None else pytest.approx(expected, abs=1e-5))
                risks = np.cumsum(flips[np.argsort(score)]) / np.arange(1, len(score) + 1)
                assert each.risk_area == pytest.approx(risks.mean(), abs=1e-5)


def test_the_compared_numbers_are_not_all_zero(evaluation):
    flips = evaluation.find("adapter", "question_flip_rate")
    assert flips.after.value > 0
    assert flips.before.value != flips.after.value
    assert evaluation.find("adapter", "margin_difference").before.value > 0
    for name in ("swap_sensitivity", "text_only_agreement", "margin_dispersion", "margin_auc"):
        assert evaluation.find("adapter", name).difference.value != 0, name


def test_swapped_images_are_of_other_patients(questions):
    prompts = prompt_table(questions)
    originals = prompts[prompts["closed"] & (prompts["variant"] == 0)]
    others = swap_images(prompts, 0)
    assert others.shape == (len(originals), SWAPS)
    patient_of = dict(zip(prompts["image"], prompts["patient"], strict=True))
    for own, images in zip(originals["patient"], others, strict=True):
        assert own not in {patient_of[image] for image in images}
        assert len({patient_of[image] for image in images}) == SWAPS


def test_opposite_images_show_what_the_same_question_is_answered_otherwise_about(questions):
    prompts = prompt_table(questions)
    found = swaps_of(questions, prompts, 0).opposite
    closed = [q for q in questions if q.closed]
    assert len(found) == len(closed)
    assert any(found)
    for own, image in zip(closed, found, strict=True):
        wordings = {own.question.lower(), *(p.text.lower() for p in own.paraphrases)}
        about = [q for q in closed if wordings & {q.question.lower(), *(p.text.lower() for p in q.paraphrases)}]
        possible = {q.image for q in about if q.patient != own.patient and q.true_answer != own.true_answer}
        assert image in possible if possible else image is None


def test_a_single_patient_has_no_swaps(adapted, questions):
    vlm, model = adapted
    found = evaluate(vlm, arms_of(model), [q for q in questions if q.patient == questions[0].patient], new_tokens=0)
    measures = {c.measure for c in found.comparisons}
    assert not {m for m in measures if "swap" in m or "opposite" in m}
    assert {q.reliance for q in found.quadrants} == {"grey", "any"}
    assert "text_only_agreement" in measures
    assert not {m for m in measures if m.startswith(("parsed", "sequence", "unparsed", "published"))}
    assert found.verdicts["adapter"].label == "not improved"


def test_an_evaluation_leaves_the_adapter_enabled(evaluation, adapted, questions):
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
    assert content["verdict"] == " ".join(evaluation.sentences)
    assert {"kind", "subset", "measure", "n", "before", "before_low", "after_high", "p", "p_unpaired"} <= set(table)
    for end, name in (("before", "before"), ("low", "before_low")):
        values = [c["before"]["value" if end == "before" else end] for c in content["comparisons"]]
        scale = table["unit"].map({"%": 100, "logits": 1, "": 1})
        expected = scale * [np.nan if v is None else v for v in values]
        assert table[name].tolist() == pytest.approx(expected.tolist(), rel=1e-5, nan_ok=True)
    assert set(table.loc[table["measure"] == "accuracy", "unit"]) == {"%"}
    hidden = {t for words in UNSEEN.values() for t in words} | set(KNOWN_SAMPLE) | {"patient0", "0.png"}
    assert not any(text in evaluation.to_json() for text in hidden)


def test_hashes_ignore_only_case_and_surrounding_space(questions):
    assert text_hash(" Is it HERE?\n") == text_hash("is it here?")
    assert text_hash("is it here?") != text_hash("is  it here?")
    assert len(text_hash("a")) == 16
    prompts = prompt_table(questions)
    pairs = pair_table(prompts)
    assert "phrasings" not in {s.kind for s in subsets_of(prompts, pairs, None)}
    known = {text_hash(t.upper()) for t in prompts["text"]}
    by_name = {s.name: s for s in subsets_of(prompts, pairs, known)}
    assert by_name["seen"].prompts.all()
    assert "unseen" not in by_name


def test_open_questions_alone_are_not_judged(adapted, questions):
    vlm, model = adapted
    found = evaluate(vlm, arms_of(model), [q for q in questions if not q.closed], new_tokens=3)
    assert {c.measure for c in found.comparisons} == {"first_token_accuracy", "sequence_accuracy"}
    assert found.sentences[0].startswith("Not judged")
    assert found.quadrants == []


def test_questions_without_an_answer_count_for_flips_but_not_for_accuracy(adapted, questions):
    vlm, model = adapted
    unanswered = [
        q.model_copy(update={"answer": None}) if i % 2 and asks_yes_or_no(q.question) else q
        for i, q in enumerate(questions)
    ]
    left = [q for q in unanswered if q.answer is not None]
    assert len(left) < len(questions)
    found, known, whole = (
        {c.measure: c for c in evaluate(vlm, arms_of(model), asked, new_tokens=0).comparisons if c.kind == "all"}
        for asked in (unanswered, left, questions)
    )
    for name in ("question_flip_rate", "pairwise_flip_rate", "margin_difference", "text_only_agreement_grey"):
        assert (found[name].n, found[name].after.value) == (whole[name].n, whole[name].after.value)
    for name in ("accuracy", "original_accuracy", "first_token_accuracy", "balanced_accuracy", "margin_auc"):
        assert (found[name].n, found[name].after.value) == (known[name].n, known[name].after.value)


def test_an_evaluation_without_questions_or_second_arm_is_refused(adapted, questions):
    vlm, model = adapted
    with pytest.raises(InputError, match="no questions"):
        evaluate(vlm, arms_of(model), [])
    with pytest.raises(InputError, match="nothing to compare"):
        evaluate(vlm, [base_arm(model)], questions)


def test_an_adapter_of_the_vision_tower_uses_its_own_image_tokens(world, questions, tmp_path):
    """Arms share image tokens only if they share the vision tower."""
    from peft import LoraConfig, get_peft_model

    fresh = load_vlm(world.model, "cpu", "float32")
    config = LoraConfig(r=2, target_modules=r".*vision_tower.*q_proj", init_lora_weights=False)
    adapted = get_peft_model(fresh.model, config)
    adapted.save_pretrained(str(tmp_path / "tower"))
    prompts = prompt_table(questions)
    expected = measure(fresh, prompts).margin.double().numpy()

    vlm = load_vlm(world.model, "cpu", "float32")
    arms = [base_arm(), adapter_arm(vlm, tmp_path / "tower", "tower", None), Arm("base again")]
    found = evaluate(vlm, arms, questions, new_tokens=0)
    pairs = pair_table(prompts)
    pairs = pairs[prompts["closed"].to_numpy()[pairs["original"]]]
    shift = np.abs(expected[pairs["original"]] - expected[pairs["paraphrase"]]).mean()
    assert found.find("tower", "margin_difference").after.value == pytest.approx(shift, abs=1e-5)
    assert found.find("tower", "margin_difference").difference.value != 0
    again = [c.difference.value for c in found.comparisons if (c.reference, c.arm) == ("base", "base again")]
    assert {value for value in again if value is not None} == {0}


def test_figures_show_the_numbers_of_the_evaluation(evaluation, tmp_path):
    save_evaluation_figures(json.loads(evaluation.to_json()), tmp_path / "evaluation.png")
    assert (tmp_path / "evaluation.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    tables = [pd.read_csv(tmp_path / f"evaluation{part}.csv") for part in ("", "_reliability", "_quadrants")]
    changes, curves, quadrants = tables
    expected = [evaluation.find("adapter", name).difference.value for name in changes["measure"]]
    assert changes["value"].tolist() == pytest.approx(expected, rel=1e-5)
    assert curves["accuracy"].tolist() == pytest.approx([p.accuracy for p in evaluation.reliability], rel=1e-5)
    of = {(q.arm, q.reliance): q.shares for q in evaluation.quadrants}
    expected = [of[row.arm, row.reliance][row.quadrant].value for row in quadrants.itertuples()]
    assert quadrants["value"].tolist() == pytest.approx(expected, rel=1e-5)
    assert len(quadrants) == 2 * 2 * len(QUADRANTS)
    written = "".join(path.read_text() for path in tmp_path.iterdir() if path.suffix != ".png")
    assert not any(text in written for text in ("patient0", "0.png", *KNOWN_SAMPLE))
