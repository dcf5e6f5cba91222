"""PSF-Med's own definitions, by hand, by loops over enumerated draws, and by single forwards of a sentence encoder."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from test_finetune_measures import answered, asked, value

from finetune.evaluation.flip_bank import flip_bank, flip_banks
from finetune.evaluation.flips_by_count import any_flip_chance, flips_by_count
from finetune.evaluation.measures import MEASURES
from finetune.evaluation.settings import EvaluationSettings
from interp.model.blank_images import gaussian_image
from interp.questions.published_parser import parse_as_published
from interp.questions.tables import pair_table
from interp.questions.wording_similarity import WordingSimilarity, _pooling, pair_similarity, wording_similarity
from interp.runtime.errors import InputError


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes.", "yes"),
        ("**No**, the lungs are clear.", "no"),
        ("I think yes", "yes"),
        ("The heart is normal in size.", "no"),
        ("Lungs are clear", "no"),
        ("The heart is abnormal.", None),
        ("Yes, there is no effusion", "yes"),
        ("No, but yes elsewhere", "no"),
        ("There is an effusion; no or yes", None),
        ("y", "yes"),
        ("N", "no"),
        ("nodule", None),
        ("N/A", None),
        ("N/A - no image available", "no"),
        ("None", None),
        ("yesterday", None),
        ("", None),
        ("?!", None),
    ],
)
def test_the_published_parser(text, answer):
    assert parse_as_published(text) == answer


def said(table, words, parsed=None):
    """Answers with these generated ones as the published parser reads them, and as ours does."""
    answers = answered(table, np.ones(len(words)))
    generated = np.ones(len(words))
    return answers._replace(
        published=np.array(words, object), parsed=np.array(parsed or words, object), right_sequence=generated
    )


def test_published_flips_exclude_what_cannot_be_parsed():
    four = asked(["yes"] * 4, paraphrases=2)
    words = ["yes", "yes", "no", "no", "no", None, None, "yes", "no", "yes", None, None]
    # The first question flips, the second does not; the third's original and the fourth's paraphrases are excluded.
    answers = said(four, words)
    assert value("published_flip_rate", four, answers) == 0.5
    assert len(MEASURES["published_flip_rate"].units(four, answers).columns) == 2
    assert value("published_excluded", four, answers) == pytest.approx(4 / 12)
    silent = answered(four, np.ones(12))
    for name in ("published_flip_rate", "published_excluded", "text_only_agreement_gaussian"):
        assert len(MEASURES[name].units(four, silent).columns) == 0


def test_agreement_on_gaussian_noise_by_hand():
    three = asked(["yes", "no", "yes"], paraphrases=0)
    answers = answered(three, [1, -1, 2])
    answers.blank_margin["gaussian"] = np.array([3.0, 4, -1])
    assert value("text_only_agreement_gaussian", three, answers) == pytest.approx(1 / 3)
    # It is no part of the mean over our blanks.
    assert value("text_only_agreement", three, answers) == 1


def test_the_gaussian_image_is_noise_of_128_and_64_within_the_range():
    pixels = np.asarray(gaussian_image(0)).astype(float)
    assert pixels.shape == (224, 224, 3)
    # Clipping a normal of mean 128 and deviation 64 to 0 to 255 leaves a deviation of 61.2.
    assert pixels.mean() == pytest.approx(128, abs=1)
    assert pixels.std() == pytest.approx(61.2, abs=0.6)
    assert np.mean((pixels == 0) | (pixels == 255)) == pytest.approx(2 * 0.0231, abs=0.005)
    assert (np.asarray(gaussian_image(0)) == pixels).all()
    assert (np.asarray(gaussian_image(1)) != pixels).any()


def test_flips_by_number_of_paraphrases():
    many = asked(["yes"] * 4, paraphrases=3)
    # Two questions keep two paraphrases, two keep three.
    keep = many.prompts["question"].ge(2) | many.prompts["variant"].lt(3)
    prompts = many.prompts[keep].reset_index(drop=True)
    margin = np.array([1, -1, 1, 1, 1, 1, 1, 1, -1, -1, 1, 1, 1, 1], float)
    two, three = flips_by_count(pair_table(prompts), margin, "arm", 0)
    assert (two.paraphrases, two.questions, two.flip_rate.value, two.at_least) == (2, 2, 0.5, 4)
    assert (three.paraphrases, three.questions, three.flip_rate.value, three.at_least) == (3, 2, 0.5, 2)
    # With two of three paraphrases, two of which flip, a flip is sure.
    assert two.drawn_flip_rate.value == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert three.drawn_flip_rate.value == three.flip_rate.value
    assert flips_by_count(pair_table(prompts).iloc[:0], margin, "arm", 0) == []


@pytest.mark.parametrize(("n", "flips", "drawn"), [(5, 0, 3), (5, 1, 3), (5, 2, 2), (4, 4, 1), (3, 1, 3)])
def test_the_chance_of_a_flip_among_drawn_paraphrases_by_enumeration(n, flips, drawn):
    draws = list(combinations(range(n), drawn))
    expected = np.mean([any(k < flips for k in draw) for draw in draws])
    assert any_flip_chance(np.array([n]), np.array([flips]), drawn)[0] == pytest.approx(expected)


def test_the_flip_bank_by_hand():
    three = asked(["yes"] * 3, paraphrases=2)
    parsed = ["yes", "no", "no", "no", None, "yes", "yes", "yes", "yes"]
    answers = said(three, parsed, parsed)
    found = flip_bank(three.pairs, answers, None, "arm")
    assert (found.pairs, found.flips, found.banked, found.questions, found.patients) == (5, 3, 3, 2, 2)
    assert (found.encoder, found.similarity) == (None, None)
    alike = WordingSimilarity("tiny", np.array([0.99, 0.95, 0.5, 0.97, 0.1, 1.0]))
    found = flip_bank(three.pairs, answers, alike, "arm")
    # Of the three flips, .99 and .97 lie above .95.
    assert (found.flips, found.banked, found.questions, found.similarity) == (3, 2, 2, 0.97)
    assert (found.encoder, found.least_similarity) == ("tiny", 0.95)
    silent = answered(three, np.ones(9))
    assert [bank.arm for bank in flip_banks(three.pairs, {"a": answers, "b": silent}, None)] == ["a"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny BERT with random weights, as transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *["is", "there", "any", "effusion", "fluid", "a", "nodule", "?"]]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


TEXTS = ["is there effusion ?", "any fluid ?", "is there a nodule ?", "effusion"]


def embedded_alone(folder, text, pooling):
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0]
    return (states.mean(0) if pooling == "mean" else states[0]).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_similarity_is_the_cosine_of_embeddings_of_single_texts(encoder, tmp_path, pooling):
    folder = encoder
    if pooling == "cls":
        folder = tmp_path / "cls"
        folder.mkdir()
        for path in encoder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "1_Pooling").mkdir()
        modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "word_embedding_dimension": 16}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    before, after = [TEXTS[0], TEXTS[0], TEXTS[1], TEXTS[3]], [TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[2]]
    found = wording_similarity(folder, before, after)
    for k, (a, b) in enumerate(zip(before, after, strict=True)):
        x, y = embedded_alone(folder, a, pooling), embedded_alone(folder, b, pooling)
        assert found[k] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-5)
    assert found[1] == pytest.approx(1)


def test_similarity_of_pairs_follows_their_rows(encoder):
    two = asked(["yes", "no"])
    prompts = two.prompts.assign(text=TEXTS)
    found = pair_similarity(prompts, two.pairs, encoder)
    assert found.encoder == "tiny"
    np.testing.assert_allclose(found.cosine, wording_similarity(encoder, [TEXTS[0], TEXTS[2]], [TEXTS[1], TEXTS[3]]))


def test_encoders_that_cannot_be_used_are_named(encoder, tmp_path):
    with pytest.raises(InputError, match="could not be loaded"):
        wording_similarity(tmp_path, ["a"], ["b"])
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(InputError, match="pools by max_tokens"):
        wording_similarity(tmp_path, ["a"], ["b"])
    with pytest.raises(InputError, match="no such folder"):
        wording_similarity(tmp_path / "absent", ["a"], ["b"])


def test_no_pair_of_wordings_has_no_similarity(tmp_path):
    assert wording_similarity(tmp_path, [], []).shape == (0,)


def test_modules_that_change_the_embedding_are_refused(tmp_path):
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    modules = [{"idx": k, "type": f"sentence_transformers.models.{kind}"} for k, kind in enumerate(kinds)]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(InputError, match=r"modules\.json: the encoder has a module Dense"):
        _pooling(tmp_path)


def test_an_encoder_without_answers_in_words_is_refused(tmp_path):
    with pytest.raises(InputError, match="Give --new-tokens above 0"):
        EvaluationSettings(new_tokens=0, sentence_encoder=tmp_path)
