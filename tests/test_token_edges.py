"""Edges from tokens, against plain transformers: its own attention weights, norms and hooks."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_edges import FEATURE, LAYER, flips, plain, prompts, saes, vlm  # noqa: F401
from test_engine import plain_inputs
from test_find_features import plain_margin

from interp.causal.token_edges import KINDS, LISTED, brought, token_edges
from interp.images.decode import open_image


@pytest.fixture(scope="module")
def edges(vlm, prompts, flips, saes):  # noqa: F811
    return token_edges(vlm, prompts, flips, saes[LAYER], FEATURE, seed=0)


def common(lists):
    """How many tokens all lists begin with."""
    return next(k for k, tokens in enumerate(zip(*lists, strict=False)) if len(set(tokens)) > 1)


def test_the_kinds_add_up_to_what_a_layer_adds_before_its_mlp(vlm, prompts, flips):  # noqa: F811
    rows = prompts.iloc[flips.pairs["paraphrase"].to_numpy()[:3]].reset_index(drop=True)
    found = brought(vlm, rows, [0, 3, 5])
    for i, row in rows.iterrows():
        added = {}

        def watch(module, inputs, output, into=added):
            into[len(into)] = output[0, -1]

        handles = [layer.post_attention_layernorm.register_forward_hook(watch) for layer in vlm.layers]
        with torch.no_grad():
            vlm.model(**plain_inputs(vlm, open_image(row["image"]), row["text"]))
        for handle in handles:
            handle.remove()
        for k, layer in enumerate([0, 3, 5]):
            torch.testing.assert_close(found[i, k].sum(0), added[layer], atol=1e-4, rtol=1e-4)


def test_a_kinds_part_by_hand(vlm, prompts, flips):  # noqa: F811
    """One layer's attention output, token by token, from transformers' eager attention weights."""
    layer = 3
    row = prompts.iloc[flips.pairs["original"].to_numpy()[1]]
    rows = prompts.iloc[[*flips.pairs["original"].to_numpy(), *flips.pairs["paraphrase"].to_numpy()]]
    found = brought(vlm, rows.reset_index(drop=True), [layer])[1, 0]
    every = [
        plain_inputs(vlm, open_image(each["image"]), each["text"])["input_ids"][0].tolist()
        for _, each in rows.iterrows()
    ]
    start, tail = common(every), common([ids[::-1] for ids in every])
    inputs = plain_inputs(vlm, open_image(row["image"]), row["text"])
    block, values = vlm.layers[layer].self_attn, []
    handle = block.v_proj.register_forward_hook(lambda module, given, output: values.append(output[0]))
    decoder = vlm.model.model.language_model
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    with torch.no_grad():
        weights = vlm.model(**inputs, output_attentions=True).attentions[layer][0, :, -1]
    decoder.set_attn_implementation(before)
    handle.remove()
    heads, width = len(weights), block.head_dim
    groups = heads // (values[0].shape[1] // width)
    ids = inputs["input_ids"][0].tolist()
    parts = torch.zeros(3, vlm.d_model)
    for t, token in enumerate(ids):
        kind = 0 if token == vlm.model.config.image_token_id else 1 if start <= t < len(ids) - tail else 2
        for h in range(heads):
            value = values[0][t, (h // groups) * width : (h // groups + 1) * width]
            parts[kind] += weights[h, t] * (block.o_proj.weight[:, h * width : (h + 1) * width] @ value)
    norm = vlm.layers[layer].post_attention_layernorm
    whole = parts.sum(0)
    parts = parts / (whole.pow(2).mean() + norm.eps).sqrt() * (1 + norm.weight)
    torch.testing.assert_close(found, parts, atol=1e-4, rtol=1e-4)


def test_an_edge_is_an_exact_patch(vlm, prompts, flips, saes, plain, edges):  # noqa: F811
    assert len(edges) == LISTED
    assert [abs(e.undone.value) for e in edges] == sorted((abs(e.undone.value) for e in edges), reverse=True)
    edge = next(each for each in edges if each.layer < LAYER)
    sides = [prompts.iloc[flips.pairs[k].to_numpy()].reset_index(drop=True) for k in ("original", "paraphrase")]
    kind = KINDS.index(edge.tokens)
    before, after = brought(vlm, pd.concat(sides, ignore_index=True), [edge.layer])[:, 0, kind].chunk(2)
    back, whole = 0.0, 0.0
    for i, (q, p) in enumerate(plain):
        f_q, f_p = (float(saes[LAYER].encode(x[LAYER])[FEATURE]) for x in (q, p))
        patched = p[edge.layer] + before[i] - after[i]
        _, seen = plain_margin(vlm, sides[1].iloc[i], edge.layer, patched)
        back += (float(saes[LAYER].encode(seen[LAYER])[FEATURE]) - f_p) * np.sign(f_q - f_p)
        whole += abs(f_q - f_p)
    assert edge.undone.value == pytest.approx(back / whole, abs=1e-3)


def test_the_register_comes_from_the_wording(edges):
    """3:139 follows the register, and only the wording's tokens differ between a pair's prompts."""
    assert edges[0].tokens == "wording"
    assert edges[0].undone.value > 0.5
    assert all(abs(edge.undone.value) < 0.05 for edge in edges if edge.tokens == "image")


def test_a_feature_that_does_not_move_has_none(vlm, prompts, flips, saes):  # noqa: F811
    assert token_edges(vlm, prompts, flips, saes[2], 2, seed=0) == []
