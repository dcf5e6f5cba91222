"""What a feature stands for: tokens, wordings, places and pages, against plain and slow computations."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from finetune_world import make_world
from test_hub import COMMIT
from test_saes import random_sae

from interp.feature.content import (
    activating_wordings,
    feature_content,
    firing_by_group,
    firing_by_position,
    token_effects,
)
from interp.feature.pages import nearest_page
from interp.feature.weights import direct_effect
from interp.images.decode import open_image
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.saes.sae import Sae, save_sae
from interp.saes.source import sae_source
from interp.schemas.tested_features import FeatureEntry
from interp.search.page_links import with_pages
from interp.views.tables.feature_content import content_line

LAYER, FEATURE = 1, 7


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("content") / "world", patients=8)


@pytest.fixture(scope="module")
def vlm(world):
    return load_vlm(world.model, "cpu", "float32")


@pytest.fixture(scope="module")
def prompts(world):
    return prompt_table([q for q in load_questions(world.questions, split="test") if q.closed])


@pytest.fixture(scope="module")
def sae(vlm):
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(40, vlm.d_model, generator=generator)
    zero = torch.zeros(40)
    return Sae(LAYER, "mine", w.T.contiguous(), zero, w, torch.zeros(vlm.d_model), zero + 0.1)


def plain_states(vlm, prompt):
    """Every layer's residuals of one prompt, [tokens, d_model], and its token ids, by transformers alone."""
    message = [{"role": "user", "content": [{"type": "image", "image": open_image(prompt["image"])}]}]
    message[0]["content"].append({"type": "text", "text": prompt["text"]})
    inputs = vlm.processor.apply_chat_template(
        message, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    seen = []
    layer = vlm.model.model.language_model.layers[LAYER]
    handle = layer.register_forward_hook(lambda m, i, o: seen.append((o[0] if isinstance(o, tuple) else o)[-1]))
    with torch.no_grad():
        vlm.model(**inputs)
    handle.remove()
    residual = seen[0] if seen[0].ndim == 2 else seen[0][0]
    return residual, inputs["input_ids"][0]


def test_token_effects_are_the_logits_of_the_decoder_row(vlm, sae, prompts):
    last = measure(vlm, prompts, [vlm.n_layers - 1]).residuals[:, 0]
    found = token_effects(vlm, sae.w_dec[FEATURE], last)
    norm, unembedding = vlm.model.model.language_model.norm, vlm.model.lm_head.weight.detach()
    size = np.mean([np.sqrt(float((row.double() ** 2).mean()) + norm.eps) for row in last])
    row = [float(w) * (1 + float(g)) / size for w, g in zip(sae.w_dec[FEATURE], norm.weight, strict=True)]
    for token in (0, 5, len(found) - 1):
        assert float(found[token]) == pytest.approx(
            sum(a * float(b) for a, b in zip(row, unembedding[token], strict=True)), abs=1e-5
        )
    yes, no = (found[ids].double().mean() for ids in vlm.answers)
    assert float(yes - no) == pytest.approx(direct_effect(vlm, sae, FEATURE, last), abs=1e-6)


def test_content_lists_the_extreme_tokens_and_says_so(vlm, sae, prompts):
    measured = measure(vlm, prompts, [LAYER, vlm.n_layers - 1]).residuals
    activation = sae.encode(measured[:, 0])[:, FEATURE].double().numpy()
    content = feature_content(vlm, sae, FEATURE, prompts, activation, measured[:, 1], None, 0)
    effects = token_effects(vlm, sae.w_dec[FEATURE], measured[:, 1])
    assert content.promoted[0].logits == pytest.approx(float(effects.max()), abs=1e-5)
    assert content.suppressed[0].logits == pytest.approx(float(effects.min()), abs=1e-5)
    top = vlm.processor.tokenizer.convert_ids_to_tokens(int(effects.argmax())).replace("▁", " ")
    assert content.promoted[0].token == top
    assert not content.synthetic
    assert repr(top) in content_line(content, "1:7")


def test_firing_by_group_is_a_plain_mean(prompts):
    rng = np.random.default_rng(0)
    activation = np.maximum(rng.normal(size=len(prompts)), 0)
    found = {(each.grouping, each.group): each for each in firing_by_group(prompts, activation, 0)}
    for name in prompts["phenomenon"].dropna().unique():
        rows = (prompts["phenomenon"] == name).to_numpy()
        each = found["phenomenon", name]
        assert each.wordings == rows.sum()
        assert each.active.value == pytest.approx((activation[rows] > 0).mean(), abs=1e-5)
        assert each.mean.value == pytest.approx(activation[rows].mean(), rel=1e-4)
    assert found["phenomenon", "original wording"].wordings == (prompts["variant"] == 0).sum()


def test_firing_by_position_equals_plain_forwards(vlm, sae, prompts):
    some = prompts.iloc[:6].reset_index(drop=True)
    found = {each.group: each for each in firing_by_position(vlm, sae, FEATURE, some, 0)}
    by_distance: dict[int, list[float]] = {}
    for _, prompt in some.iterrows():
        residuals, ids = plain_states(vlm, prompt)
        activation = sae.encode(residuals)[:, FEATURE].tolist()
        for k, (value, token) in enumerate(zip(reversed(activation), reversed(ids.tolist()), strict=True)):
            if token == vlm.model.config.image_token_id:
                break
            by_distance.setdefault(k, []).append(value)
    final = next(each for name, each in found.items() if name.startswith("final"))
    assert final.mean.value == pytest.approx(np.mean(by_distance[0]), rel=1e-3, abs=1e-4)
    template = [name for name in found if name.startswith("−") and "," in name]
    assert template, "positions of the chat template are named by their tokens"
    for name in (name for name in found if name.startswith("−")):
        k = int(name[1:].split(",")[0])
        assert found[name].mean.value == pytest.approx(np.mean(by_distance[k]), rel=1e-3, abs=1e-4)
        assert found[name].active.value == pytest.approx(np.mean(np.array(by_distance[k]) > 0), abs=1e-5)


def test_the_most_and_least_activating_wordings_by_hand():
    table = pd.DataFrame(
        {
            "text": ["a?", "b?", "a?", "c?", "d?"],
            "image": ["1", "1", "2", "1", "1"],
            "register": ["formal", None, "formal", "casual", None],
            "question": [0, 0, 1, 0, 0],
            "variant": [0, 1, 0, 2, 3],
        }
    )
    found = activating_wordings(table, np.array([4.0, 9.0, 2.0, 0.0, 1.0]), count=2)
    assert found["text"].tolist() == ["b?", "a?", "c?", "d?"]
    assert found["end"].tolist() == ["most", "most", "least", "least"]
    assert found["mean_activation"].tolist() == [9.0, 3.0, 0.0, 1.0]
    assert found["images"].tolist() == [1, 2, 1, 1]


@pytest.fixture
def snapshot(tmp_path):
    """Both suites of Gemma Scope 2 for 4B, small, in a local folder; feature 4 of 16 is feature 6 of covered 17."""
    saes = {layer: random_sae(layer) for layer in (9, 16, 17)}
    rows = torch.randn(saes[17].w_dec.shape, generator=torch.Generator().manual_seed(4))
    rows[6] = 3 * saes[16].w_dec[4] + 0.001
    saes[17] = saes[17]._replace(w_dec=rows)
    save_sae(saes[16], tmp_path / "resid_post_all" / "layer_16_width_16k_l0_small", "gemma-v3-4b-it", torch.float32)
    for layer in (9, 17):
        save_sae(
            saes[layer], tmp_path / "resid_post" / f"layer_{layer}_width_16k_l0_medium", "gemma-v3-4b-it", torch.float32
        )
    return tmp_path, saes


def test_the_nearest_page_is_of_the_nearest_covered_layer_by_decoder_cosine(snapshot):
    root, saes = snapshot
    folder = root / "resid_post_all" / "layer_16_width_16k_l0_small"
    page = nearest_page(saes[16], 4, sae_source(16, folder), folder)
    assert (page.layer, page.feature) == (17, 6)
    assert page.address == "https://www.neuronpedia.org/gemma-3-4b-it/17-gemmascope-2-res-16k/6"
    assert page.cosine == pytest.approx(1, abs=1e-3)
    plain = torch.nn.functional.cosine_similarity(saes[17].w_dec, saes[16].w_dec[5][None])
    other = nearest_page(saes[16], 5, sae_source(16, folder), folder)
    assert (other.feature, other.cosine) == (int(plain.argmax()), pytest.approx(float(plain.max()), abs=1e-5))


def test_a_search_names_the_nearest_page_of_features_without_one_from_its_own_saes(snapshot):
    root, saes = snapshot
    folders = {16: root / "resid_post_all" / "layer_16_width_16k_l0_small"}
    folders |= {layer: root / "resid_post" / f"layer_{layer}_width_16k_l0_medium" for layer in (9, 17)}
    sources = [sae_source(layer, folder) for layer, folder in folders.items()]
    unmeasured = {name: None for name, field in FeatureEntry.model_fields.items() if field.is_required()}
    tested = [FeatureEntry(**unmeasured | {"layer": layer, "feature": 4}) for layer in (16, 9)]
    found = with_pages(tested, sources, folders, saes[16].w_dec.shape[1])
    folder = folders[16]
    assert found[0].nearest_page == nearest_page(saes[16], 4, sources[0], folder)
    assert found[1].nearest_page is None, "its own SAE has pages"
    assert sources[1].neuronpedia == "gemma-3-4b-it/9-gemmascope-2-res-16k"
    assert with_pages(tested[:1], sources[:1], folders, 8) == tested[:1], "no SAE of the search has pages"


def test_saes_of_ones_own_have_no_page(tmp_path):
    folder = tmp_path / "models--me--saes" / "snapshots" / COMMIT / "layer_3_width_16k_l0_small"
    save_sae(random_sae(3), folder, "mine")
    assert nearest_page(random_sae(3), 0, sae_source(3, folder), folder) is None


@pytest.mark.parametrize("include", [False, True])
def test_wordings_are_shown_and_written_only_when_asked_for(called, world, sae, tmp_path, include):
    save_sae(sae, tmp_path / "saes" / f"layer_{LAYER}_width_40_l0_x", "mine", torch.float32)
    asked = ["--model", world.model, "--saes", tmp_path / "saes", "--questions", world.questions, "--device", "cpu"]
    extra = ["--include-text"] if include else []
    code, said, error = called("interp", "test-feature", "1:7", *asked, "--out", tmp_path / "out", *extra)
    assert code == 0, error
    texts = {p.text for q in load_questions(world.questions, split="train") for p in q.paraphrases}
    written = "".join(p.read_text() for p in (tmp_path / "out").iterdir() if p.suffix in (".json", ".csv", ".svg"))
    assert any(text in said for text in texts) == include
    assert any(text in written for text in texts) == include
    assert (tmp_path / "out" / "wordings.csv").is_file() == include
    content = json.loads((tmp_path / "out" / "study.json").read_text())["content"]
    assert content["sae"]["digest"]
