"""A reality world: a model with images on a given language model, whose weights and tokenizer stay what they are."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import interp.demo.build as build
import interp.demo.general_text as general_text
import interp.demo.world as world
from interp.demo.general_text import HELD_OUT, PASSAGE, general_documents, passages
from interp.demo.model import IMAGE_TOKENS, build_processor, train_tokenizer
from interp.demo.phrasings import FRAMES, all_texts, wordings
from interp.demo.real_language_model import check_round_trip, read_language_model
from interp.demo.sample_cases import ANSWERS
from interp.demo.training_data import some_wordings, with_plain_answers
from interp.model.load import load_vlm
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes

LAYERS, WIDTH = 3, 48
IMAGE_TOKEN = "<image_soft_token>"


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    """A random Gemma 3 language model as transformers saves it, whose tokenizer lacks one of the image tokens."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    folder = tmp_path_factory.mktemp("language_model")
    tokenizer = train_tokenizer(all_texts(), ANSWERS)
    tokenizer.save_pretrained(folder)
    # Gemma 3 270M knows where an image begins and ends, but has no placeholder for what is between.
    text = (folder / "tokenizer.json").read_text(encoding="utf-8").replace(IMAGE_TOKEN, "<unused0>")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for name in (*IMAGE_TOKENS, "model_specific_special_tokens"):
        config.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    shape = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=64,
        max_position_embeddings=1024,
    )
    Gemma3ForCausalLM(shape).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def short_recipe():
    with pytest.MonkeyPatch.context() as patch:
        size = {"features": 96, "mean_active": 8, "tokens": 300, "general_tokens": 300, "steps": 3, "batch": 64}
        short = {"training_patients": 60, "tower_steps": 2, "tuning_steps": 2, "gate_steps": 2, "patients": 4}
        recipe = build.REALITY._replace(saes=build.REALITY.saes._replace(**size), **short)
        patch.setattr(build, "REALITY", recipe)
        patch.setattr(build, "GENERAL_TOKENS", 200)
        patch.setattr(general_text, "DOCUMENTED", ("peft",))
        patch.setattr(general_text, "CHARACTERS", 60_000)
        patch.setattr(world, "PATIENTS", {"train": 12, "test": 12})
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory, language_model, short_recipe) -> Path:
    """A world without a gate."""
    out = tmp_path_factory.mktemp("worlds") / "real"
    build.build_world(out, None, 0.45, 0, device="cpu", language_model=language_model)
    return out


def text_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the language model of a saved model with images, by their name in a language model."""
    found = load_file(folder / "model.safetensors")
    inside = {name.replace("language_model.", "").removeprefix("model."): name for name in found}
    return {f"model.{name}": found[full] for name, full in inside.items() if "language_model" in full}


def test_the_base_holds_the_given_weights(built, language_model):
    given, base = load_file(language_model / "model.safetensors"), text_weights(built / "base")
    assert len(given) == len(base) == 1 + 1 + 13 * LAYERS
    for name, weight in given.items():
        assert torch.equal(base[name][: len(weight)], weight), name


def test_the_embeddings_grow_to_a_round_number_by_their_mean(built, language_model):
    given = load_file(language_model / "model.safetensors")["model.embed_tokens.weight"]
    grown = text_weights(built / "base")["model.embed_tokens.weight"]
    assert len(given) < len(grown) == -(-(len(given) + 1) // 64) * 64
    assert torch.equal(grown[len(given) :], given.float().mean(0).bfloat16().expand(len(grown) - len(given), -1))


def test_the_image_token_is_new_and_the_words_keep_their_ids(built, language_model):
    from transformers import AutoTokenizer

    vlm, given = load_vlm(built / "base", "cpu"), AutoTokenizer.from_pretrained(language_model)
    ours = vlm.processor.tokenizer
    assert given.convert_tokens_to_ids(IMAGE_TOKEN) == given.unk_token_id
    assert ours.image_token_id == vlm.model.config.image_token_id == len(given)
    assert {token: ours.get_vocab()[token] for token in given.get_vocab()} == given.get_vocab()
    for text in all_texts()[:20]:
        assert ours(text)["input_ids"] == given(text)["input_ids"]


def test_the_tuning_changes_every_projection_and_nothing_else_of_the_language_model(built):
    base, planted = text_weights(built / "base"), text_weights(built / "planted")
    changed = {name for name in base if not torch.equal(base[name], planted[name])}
    assert changed == {name for name in base if name.endswith("_proj.weight")}


def test_the_world_says_what_it_was_built_on_and_how_good_it_is(built, language_model):
    record = json.loads((built / "world.json").read_text())
    assert record["language_model"] == language_model.name
    assert record["gate_layers"] == []
    assert record["command"] == "interp demo build --no-gate --seed 0 --language-model LANGUAGE_MODEL"
    numbers = {"accuracy_seen", "accuracy_unseen", "question_flip_rate", "text_only_accuracy"}
    assert numbers <= set(record["models"]["planted"])
    assert [row["layer"] for row in record["saes"]] == list(range(LAYERS)) == sorted(locate_saes(built / "saes"))
    assert {"r2_general", "r2_planted", "r2_planted_text", "fvu_base"} <= set(record["saes"][0])


def test_a_gate_is_planted_after_the_tuning_into_its_layers_only(built, tmp_path, short_recipe):
    record = build.build_world(tmp_path / "gate", [1], 0.45, 0, base=built, device="cpu")
    natural, gated = text_weights(built / "planted"), text_weights(tmp_path / "gate" / "planted")
    changed = {name for name in natural if not torch.equal(natural[name], gated[name])}
    assert changed
    assert all(".layers.1." in name for name in changed)
    assert record["language_model"] == json.loads((built / "world.json").read_text())["language_model"]


def test_layers_that_the_language_model_lacks_are_refused(tmp_path, language_model, built):
    with pytest.raises(InputError, match="layers 0 to 2"):
        build.build_world(tmp_path / "w", [3], 0.45, 0, device="cpu", language_model=language_model)
    with pytest.raises(InputError, match="Leave --language-model out"):
        build.build_world(tmp_path / "w", [1], 0.45, 0, base=built, device="cpu", language_model=language_model)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_gemma_language_model_is_refused(tmp_path, built):
    with pytest.raises(InputError, match=r"expected a folder with config\.json, or a \.gguf file"):
        read_language_model(tmp_path)
    with pytest.raises(InputError, match=r"absent\.gguf"):
        read_language_model(tmp_path / "absent.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"broken\.gguf"):
        read_language_model(tmp_path / "broken.gguf")
    with pytest.raises(InputError, match="expected gemma3_text"):
        read_language_model(built / "base")


def test_a_processor_that_saving_breaks_is_refused_with_the_version(language_model, monkeypatch):
    import transformers

    processor = build_processor(read_language_model(language_model).tokenizer, 64)
    check_round_trip(processor)
    load = transformers.AutoProcessor.from_pretrained

    def characters(folder, **options):
        """Loading as transformers 5.17 does it: the merges are lost."""
        path = Path(folder) / "tokenizer.json"
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["model"]["merges"] = []
        path.write_text(json.dumps(raw), encoding="utf-8")
        return load(folder, **options)

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", characters)
    with pytest.raises(InputError, match=rf"transformers {transformers.__version__} changes this tokenizer"):
        check_round_trip(processor)


def test_passages_hold_the_documents_and_never_share_one_between_training_and_judging(built):
    tokenizer = load_vlm(built / "base", "cpu").processor.tokenizer
    documents = [f"Document {number}: " + "is there an effusion on the left side? " * 40 for number in range(60)]
    parts = passages(tokenizer, documents)
    assert all(piece[0] == tokenizer.bos_token_id and 2 < len(piece) <= 1 + PASSAGE for half in parts for piece in half)
    of_half = [{int(n) for p in half for n in _numbers(tokenizer.decode(p[1:]))} for half in parts]
    assert not of_half[0] & of_half[1]
    assert len(of_half[0] | of_half[1]) == 60
    assert 0 < len(of_half[1]) < 3 * 60 / HELD_OUT


def _numbers(text: str) -> list[str]:
    import re

    return re.findall(r"Document (\d+):", text)


def test_general_documents_are_different_texts_of_this_installation(monkeypatch):
    from pydoc_data.topics import topics

    monkeypatch.setattr(general_text, "DOCUMENTED", ("peft",))
    monkeypatch.setattr(general_text, "CHARACTERS", 10**9)
    found = general_documents()
    assert len(found) == len(set(found))
    assert found == general_documents()
    assert topics["lambda"].strip() in found
    monkeypatch.setattr(general_text, "CHARACTERS", 50_000)
    few = general_documents()
    assert few == found[: len(few)]
    assert 50_000 - general_text.LONGEST <= sum(map(len, few)) <= 50_000


def test_training_shows_a_share_of_the_wordings_and_one_style_of_answers(built, short_recipe):
    processor = load_vlm(built / "base", "cpu").processor
    data = build._training_data(processor, build.REALITY, 0, "cpu")
    some = some_wordings(data, 0.25, 3)
    for case, options in data.wordings.items():
        assert len(some.wordings[case]) == max(4, round(0.25 * len(options)))
        assert all(wording in options for wording in some.wordings[case])
    plain = with_plain_answers(data).answer_token
    assert plain["yes"] == plain["Yes"] == data.answer_token["Yes"] != data.answer_token["yes"]


def test_held_out_texts_are_those_of_the_held_out_frames():
    texts = world.held_out_texts()
    assert all(w.text in texts for type_ in FRAMES for w in wordings(type_, "effusion", held_out=True))
    assert not any(w.text in texts for type_ in FRAMES for w in wordings(type_, "effusion", held_out=False))
