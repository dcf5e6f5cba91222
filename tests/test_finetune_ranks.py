"""Ranks by layer and module: shared out by weight, and as plain peft saves and loads them."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from finetune_world import awaken, make_world, plain_logits

from finetune.lora.layers import Choice, ranks_of
from finetune.lora.modules import add_lora, lora_config, parameters_a_rank, target_pattern, trainable_parameters
from finetune.lora.ranks import parameters_of, uniform_ranks, weighted_ranks
from finetune.lora.settings import TrainSettings
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.runtime.errors import InputError
from interp.schemas.layers import ModuleWeight

WEIGHTS = [
    ModuleWeight(layer=0, module="mlp", weight=9.0),
    ModuleWeight(layer=1, module="attention", weight=1.0),
    ModuleWeight(layer=1, module="mlp", weight=3.0),
    ModuleWeight(layer=2, module="mlp", weight=0.0),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("ranks") / "world", patients=2)


def test_ranks_by_weight_are_the_closest_that_any_proportion_gives():
    """Against every proportion on a fine grid."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        places = [(layer, module) for layer in range(4) for module in ("attention", "mlp")]
        weights = dict(zip(places, rng.random(8) * (rng.random(8) < 0.8), strict=True))
        cost = dict(zip(places, rng.integers(50, 400, 8).tolist(), strict=True))
        budget = int(rng.integers(500, 20000))
        if not any(weights.values()):
            continue
        found = weighted_ranks(weights, cost, budget)
        values = np.array([weights[p] for p in places])
        grid = np.floor(np.outer(np.linspace(0.01, 600, 60001), values) + 0.5)
        grid = grid[grid.any(1)]
        best = np.abs(grid @ np.array([cost[p] for p in places]) - budget).min()
        assert abs(parameters_of(found, cost) - budget) <= best + 1e-9
        ranks = np.array([found.get(p, 0) for p in places])
        assert (grid == ranks).all(1).any(), "some proportion gives these ranks"
        assert all(rank >= 1 for rank in found.values())
    with pytest.raises(InputError, match="above zero"):
        weighted_ranks({(0, "mlp"): 0.0}, {(0, "mlp"): 5}, 100)


def test_the_ranks_of_a_run_are_those_of_its_settings(world):
    vlm = load_vlm(world.model, "cpu")
    a_rank = parameters_a_rank(vlm.model)
    choice = Choice([1, 2], "layers.json", WEIGHTS)
    assert ranks_of(vlm, choice, TrainSettings(rank=3)) == uniform_ranks([1, 2], 3)
    attention = ranks_of(vlm, choice, TrainSettings(rank=3, modules="attention"))
    assert attention == {(1, "attention"): 3, (2, "attention"): 3}
    weighted = ranks_of(vlm, choice, TrainSettings(rank=3, allocation="weighted"))
    # Layer 0 is not trained, layer 2 has no weight above zero; three to one in the MLP's favour.
    assert set(weighted) == {(1, "attention"), (1, "mlp")}
    assert weighted[1, "mlp"] / weighted[1, "attention"] == pytest.approx(3, rel=0.15)
    apart = abs(parameters_of(weighted, a_rank) - parameters_of(uniform_ranks([1, 2], 3), a_rank))
    assert apart < a_rank[1, "attention"] + 3 * a_rank[1, "mlp"]
    for layers, modules in (([2], "all"), ([1, 2], "attention")):
        settings = TrainSettings(allocation="weighted", modules=modules)
        if modules == "all":
            with pytest.raises(InputError, match="no weights"):
                ranks_of(vlm, Choice(layers, "--layers 2", WEIGHTS), settings)
        else:
            assert set(ranks_of(vlm, choice, settings)) == {(1, "attention")}
    with pytest.raises(InputError, match="modules"):
        TrainSettings(modules="embeddings")


def test_an_adapter_of_one_rank_is_configured_without_patterns():
    config = lora_config(uniform_ranks([4, 5], 16), 2.0)
    assert (config.r, config.lora_alpha, config.rank_pattern, config.alpha_pattern) == (16, 32, {}, {})
    only = lora_config(uniform_ranks([4], 8, "mlp"), 2.0)
    assert (only.r, only.rank_pattern) == (8, {})
    assert "self_attn" not in only.target_modules


def test_ranks_by_module_survive_plain_peft(world, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    ranks = {(0, "mlp"): 5, (1, "attention"): 2, (1, "mlp"): 5, (2, "attention"): 7}
    vlm = load_vlm(world.model, "cpu", "float32")
    adapted = add_lora(vlm, [0, 1, 2], 4, 6, 0.0, ranks=ranks)
    awaken(adapted)
    found = Counter()
    for name, p in adapted.named_parameters():
        if "lora_A" in name:
            *_, layer, path, _, _, _, _ = name.split(".")
            found[int(layer), "mlp" if path == "mlp" else "attention", p.shape[0]] += 1
    assert found == {(0, "mlp", 5): 3, (1, "attention", 2): 4, (1, "mlp", 5): 3, (2, "attention", 7): 4}
    scalings = {m.scaling["default"] for m in adapted.modules() if isinstance(getattr(m, "scaling", None), dict)}
    assert scalings == {1.5}, "alpha / rank is the same everywhere"
    adapted.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 5
    question = load_questions(world.questions)[0]
    expected = plain_logits(vlm.model, vlm.processor, question.image, question.question)
    again = AutoModelForImageTextToText.from_pretrained(world.model, dtype=torch.float32)
    plain = plain_logits(again, vlm.processor, question.image, question.question)
    loaded = PeftModel.from_pretrained(again, tmp_path)
    assert trainable_parameters(adapted) == parameters_of(ranks, parameters_a_rank(again))
    assert torch.equal(plain_logits(loaded, vlm.processor, question.image, question.question), expected)
    assert not torch.allclose(plain, expected)


def test_the_pattern_names_no_layer_of_another_module():
    import re

    pattern = re.compile(target_pattern([(1, "attention"), (11, "mlp"), (2, "mlp"), (2, "attention")]))
    names = [
        f"model.language_model.layers.{layer}.{path}"
        for layer in (1, 2, 11, 12)
        for path in ("self_attn.q_proj", "mlp.up_proj", "self_attn.q_norm", "mlp.q_proj")
    ]
    found = [name.removeprefix("model.language_model.layers.") for name in names if pattern.fullmatch(name)]
    assert [name for name in found if not name.endswith("mlp.q_proj")] == [
        "1.self_attn.q_proj",
        "2.self_attn.q_proj",
        "2.mlp.up_proj",
        "11.mlp.up_proj",
    ]
