"""Clamped models give the results of plain hooks on transformers, of sae-lens and of TransformerLens."""

import math

import pytest
import torch
from finetune_world import plain_margin

from interp.causal.layer_patching import patch_effect, rerun_paraphrases
from interp.images.decode import open_image
from interp.measurement.clamp_spec import ClampSpec, load_clamps, parse_clamps
from interp.measurement.clamps import clamped, fill_mean_values, matched_clamps
from interp.measurement.margins import measure, text_residuals
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.load import load_vlm
from interp.model.packing import common_prefix
from interp.model.prompts import DEFAULT_STYLE, prompt_tokens
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae
from interp.screening.flips import find_flips

GATE = "4:110,4:283"
"""The features of the shipped world whose patches recover most, net of their controls."""
SEVERAL = "0:3,1:7=1.5,1:11,3:2"
CASES = {
    "final": [("final", "2:5")],
    "all": [("all", "1:7")],
    "a value": [("final", "0:3=6.5")],
    "two at one layer": [("all", "1:7,1:11=2")],
    "several layers": [("all", SEVERAL)],
    "several layers, final": [("final", "1:2=-1,1:7,2:5,3:2=4")],
    "both places": [("final", "1:7=3"), ("all", "1:11=2")],
}


@pytest.fixture(scope="module", params=[True, False], ids=["image first", "question first"])
def vlm(request, tiny_model):
    return load_vlm(tiny_model, "cpu", "float32", style=DEFAULT_STYLE._replace(image_first=request.param))


@pytest.fixture
def prompts(own_data):
    return prompt_table(load_questions(own_data / "questions.jsonl")).iloc[:9].reset_index(drop=True)


def clamps_of(tiny_saes, text, where, d_model=32):
    return load_clamps(parse_clamps(text), locate_saes(tiny_saes), d_model, "cpu", where)


def plain_inputs(vlm, row):
    content = [{"type": "image", "image": open_image(row["image"])}, {"type": "text", "text": row["text"]}]
    message = {"role": "user", "content": content if vlm.style.image_first else content[::-1]}
    return vlm.processor.apply_chat_template(
        [message], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )


def plain_run(vlm, row, change=None):
    """Margin and every layer's output [layers, S, d_model] of one prompt, from hooks on the plain model.

    `change`(layer, x [S, d_model], token ids [S]) returns the output to use instead of x.
    """
    inputs = plain_inputs(vlm, row)
    outputs = {}

    def hook(layer):
        def watch(module, args, output):
            if change is not None:
                output = change(layer, output[0], inputs["input_ids"][0])[None]
            outputs[layer] = output[0]
            return output

        return watch

    handles = [module.register_forward_hook(hook(i)) for i, module in enumerate(vlm.layers)]
    with torch.no_grad():
        logits = vlm.model(**inputs).logits[0, -1]
    for handle in handles:
        handle.remove()
    return plain_margin(logits, vlm.processor.tokenizer), torch.stack([outputs[i] for i in range(vlm.n_layers)])


def slowly(vlm, tiny_saes, text, where, seen=None):
    """The formula, token by token and feature by feature; activations are appended to `seen`."""
    saes = {layer: load_sae(path, layer, vlm.d_model) for layer, path in locate_saes(tiny_saes).items()}

    def change(layer, x, ids):
        changed, last = x.clone(), len(ids) - 1
        places = [p for p in range(1, len(ids)) if ids[p] != vlm.model.config.image_token_id]
        for place in places if where == "all" else [last]:
            for _, i, value in (spec for spec in parse_clamps(text) if spec.layer == layer):
                sae = saes[layer]
                z = float(x[place] @ sae.w_enc[:, i] + sae.b_enc[i])
                f = z if z > max(0.0, float(sae.threshold[i])) else 0.0
                changed[place] -= (f - value) * sae.w_dec[i]
                if seen is not None:
                    seen.append(f)
        return changed

    return change


@pytest.mark.parametrize("case", CASES)
def test_clamped_margins_and_residuals_equal_plain_hooks(case, vlm, prompts, tiny_saes):
    layers = range(vlm.n_layers)
    free = measure(vlm, prompts, layers)
    with clamped(vlm, [clamp for where, text in CASES[case] for clamp in clamps_of(tiny_saes, text, where)]):
        held = measure(vlm, prompts, layers, batch_tokens=400)
    seen = []
    parts = [slowly(vlm, tiny_saes, text, where, seen) for where, text in CASES[case]]
    for i, row in prompts.iterrows():
        margin, outputs = plain_run(vlm, row, lambda *met: met[1] + sum(part(*met) - met[1] for part in parts))
        assert held.margin[i] == pytest.approx(margin, abs=1e-4)
        torch.testing.assert_close(held.residuals[i], outputs[:, -1], atol=1e-4, rtol=1e-4)
    assert any(seen), "a feature that is never active makes no test"
    assert (held.margin - free.margin).abs().max() > 1e-3


@pytest.mark.parametrize("where", ["final", "all"])
def test_residuals_of_text_tokens_equal_plain_hooks(where, vlm, prompts, tiny_saes):
    layers = [1, 3]
    with clamped(vlm, clamps_of(tiny_saes, SEVERAL, where)):
        residuals, owners = text_residuals(vlm, prompts, layers, batch_tokens=300)
    start = common_prefix(prompt_tokens(vlm.processor, list(prompts["text"]), style=vlm.style))
    image_token = vlm.model.config.image_token_id
    for i, row in prompts.iterrows():
        ids = plain_inputs(vlm, row)["input_ids"][0]
        places = [p for p in range(start, len(ids)) if ids[p] != image_token]
        _, outputs = plain_run(vlm, row, slowly(vlm, tiny_saes, SEVERAL, where))
        theirs = outputs[layers][:, places].transpose(0, 1)
        torch.testing.assert_close(residuals[owners == i], theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("where", ["final", "all"])
def test_image_tokens_and_the_first_token_are_never_changed(where, vlm, prompts, tiny_saes):
    caught = []
    with clamped(vlm, clamps_of(tiny_saes, "1:7=50", where)):
        change = vlm.output_hooks[1]

        def watched(x, batch):
            changed = change(x, batch)
            caught.append(((x != changed).any(-1), batch))
            return changed

        vlm.output_hooks[1] = watched
        measure(vlm, prompts, batch_tokens=400)
    for touched, batch in caught:
        expected = (batch.input_ids != vlm.model.config.image_token_id) & (batch.segment >= 0)
        expected &= batch.input_ids != vlm.processor.tokenizer.bos_token_id
        if where == "final":
            expected = torch.zeros_like(expected)
            expected[batch.final[:, 0], batch.final[:, 1]] = True
        assert torch.equal(touched, expected)


def test_neither_packing_nor_the_order_of_clamps_matters(vlm, prompts, tiny_saes):
    clamps = clamps_of(tiny_saes, SEVERAL, "all")
    with clamped(vlm, clamps):
        packed = measure(vlm, prompts).margin
        shuffled = prompts.sample(frac=1, random_state=1)
        other = measure(vlm, shuffled, batch_tokens=64).margin
        alone = torch.cat([measure(vlm, prompts.iloc[[i]]).margin for i in range(len(prompts))])
        twice = prompts.iloc[[0, 0, 0]]
        copies = SuffixRerun(vlm, twice).margins([0, 2], torch.zeros(3, 2, vlm.d_model))
    with clamped(vlm, clamps[::-1]):
        reversed_order = measure(vlm, prompts).margin
    torch.testing.assert_close(other, packed[list(shuffled.index)], atol=1e-4, rtol=0)
    torch.testing.assert_close(alone, packed, atol=1e-4, rtol=0)
    torch.testing.assert_close(copies, packed[0].expand(3, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(reversed_order, packed, atol=1e-4, rtol=0)


def test_an_edit_is_applied_after_the_clamp(vlm, prompts, tiny_saes):
    delta = torch.randn(1, vlm.d_model, generator=torch.Generator().manual_seed(0)) * 3
    with clamped(vlm, clamps_of(tiny_saes, "2:5", "final")):
        edited = SuffixRerun(vlm, prompts.iloc[[1]]).margins([2, 1], delta.expand(1, 2, -1))
    clamp = slowly(vlm, tiny_saes, "2:5", "final")
    for k, place in enumerate((2, 1)):

        def change(layer, x, ids, place=place):
            x = clamp(layer, x, ids)
            if layer == place:
                x[-1] += delta[0]
            return x

        margin, _ = plain_run(vlm, prompts.iloc[1], change)
        assert edited[0, k] == pytest.approx(margin, abs=1e-4)


def test_bfloat16_residuals_are_changed_in_float32(tiny_model, prompts, tiny_saes):
    vlm = load_vlm(tiny_model, "cpu", "bfloat16")
    clamps = clamps_of(tiny_saes, "2:5,2:7=3", "final")
    free = measure(vlm, prompts, [2]).residuals[:, 0]
    with clamped(vlm, clamps):
        held = measure(vlm, prompts, [2]).residuals[:, 0]
    sae = load_sae(locate_saes(tiny_saes)[2], 2, 32)
    f = sae.encode(free, torch.tensor([5, 7]))
    exact = free + (torch.tensor([0.0, 3.0]) - f) @ sae.w_dec[[5, 7]]
    # One rounding to bfloat16, which has 8 significant bits.
    torch.testing.assert_close(held, exact, atol=1e-6, rtol=2**-8)
    assert not torch.equal(held, free)


def test_clamps_end_with_the_context_and_affect_no_other_run(vlm, prompts, tiny_saes):
    free = measure(vlm, prompts).margin
    inputs = plain_inputs(vlm, prompts.iloc[0])
    with torch.no_grad():
        logits = vlm.model(**inputs).logits
        with clamped(vlm, clamps_of(tiny_saes, "1:7=50", "all")):
            assert torch.equal(vlm.model(**inputs).logits, logits), "training sees no clamp"
            outer = measure(vlm, prompts).margin
            with clamped(vlm, []):
                assert torch.equal(measure(vlm, prompts).margin, free)
            assert torch.equal(measure(vlm, prompts).margin, outer)
            assert not torch.equal(outer, free)
    with pytest.raises(KeyError), clamped(vlm, clamps_of(tiny_saes, "1:7=50", "all")):
        raise KeyError
    assert torch.equal(measure(vlm, prompts).margin, free)
    assert vlm.output_hooks == {}


@pytest.mark.parametrize("where", ["final", "all"])
def test_means_are_over_the_tokens_where_the_clamp_holds(where, vlm, prompts, tiny_saes):
    clamps = fill_mean_values(vlm, prompts, clamps_of(tiny_saes, "1:7=mean,2:5=4", where))
    seen = []
    start = common_prefix(prompt_tokens(vlm.processor, list(prompts["text"]), style=vlm.style))
    sae = load_sae(locate_saes(tiny_saes)[1], 1, 32)
    for _, row in prompts.iterrows():
        ids = plain_inputs(vlm, row)["input_ids"][0]
        text = [p for p in range(start, len(ids)) if ids[p] != vlm.model.config.image_token_id]
        _, outputs = plain_run(vlm, row)
        seen.append(sae.encode(outputs[1, text if where == "all" else [len(ids) - 1]])[:, 7])
    assert clamps[0].value == pytest.approx(float(torch.cat(seen).mean()), abs=1e-5)
    assert clamps[1].value == 4
    with clamped(vlm, clamps_of(tiny_saes, "1:7=mean", where)), pytest.raises(InputError, match="not finite"):
        measure(vlm, prompts)


def test_clamps_that_can_be_parsed():
    assert parse_clamps("17:3818") == [ClampSpec(17, 3818, 0.0)]
    assert parse_clamps("17:3818, 17:250=12.5,4:1=-1e2") == [(17, 3818, 0.0), (17, 250, 12.5), (4, 1, -100.0)]
    assert math.isnan(parse_clamps("1:2=mean")[0].value)


@pytest.mark.parametrize("text", ["", "17", "17:", "a:1", "-1:2", "1:2=", "1:2=x", "1:2=nan", "1:2=1e999", "1:2,"])
def test_clamps_that_cannot_be_parsed(text):
    with pytest.raises(InputError, match=r"not LAYER:FEATURE.*Write 17:3818") as error:
        parse_clamps(text)
    assert "\n" not in str(error.value)


def test_clamps_that_do_not_fit(vlm, prompts, tiny_saes):
    with pytest.raises(InputError, match="1:7 is named twice"):
        parse_clamps("1:7,1:8,1:7=2")
    with pytest.raises(InputError, match=r"1:24: layer_1_\w+ has features 0 to 23"):
        clamps_of(tiny_saes, "1:24", "final")
    with pytest.raises(InputError, match=r"layer 9 has no SAE. Layers with SAEs: 0, 1, 2, 3"):
        clamps_of(tiny_saes, "1:7,9:3", "final")
    with pytest.raises(InputError, match="made for a residual stream of width 32"):
        clamps_of(tiny_saes, "1:7", "final", d_model=64)
    beyond = [clamp._replace(layer=4) for clamp in clamps_of(tiny_saes, "3:7", "final")]
    for refused in (lambda: clamped(vlm, beyond).__enter__(), lambda: fill_mean_values(vlm, prompts, beyond)):
        with pytest.raises(InputError, match="4:7: model has layers 0 to 3 only"):
            refused()


def test_only_the_saes_of_the_clamped_layers_are_read(tiny_saes):
    sae_of = locate_saes(tiny_saes) | {2: tiny_saes / "absent"}
    clamps = load_clamps(parse_clamps("3:7,1:2=5"), sae_of, 32, "cpu", "all")
    assert [(clamp.layer, clamp.feature, clamp.value) for clamp in clamps] == [(1, 2, 5.0), (3, 7, 0.0)]


@pytest.fixture(scope="module")
def planted():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def asked():
    return prompt_table(load_questions(WORLD / "questions.jsonl", split="test")[:8])


def gate(where):
    return clamps_of(WORLD / "saes", GATE, where, d_model=128)


def lens_clamp(where, image_token):
    """The clamp of GATE with an SAE of sae-lens: x [S, d_model] and token ids [S] -> x."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    ours = load_sae(locate_saes(WORLD / "saes")[4], 4, 128)
    theirs = JumpReLUSAE(JumpReLUSAEConfig(d_in=128, d_sae=ours.d_sae, apply_b_dec_to_input=False))
    names = {"W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
    theirs.load_state_dict({name: getattr(ours, own) for name, own in names.items()})

    def change(x, ids):
        f = torch.zeros(len(x), ours.d_sae)
        f[:, [110, 283]] = theirs.encode(x)[:, [110, 283]]
        text = (ids != image_token) & (torch.arange(len(ids)) > 0)
        places = text if where == "all" else torch.arange(len(ids)) == len(ids) - 1
        return x - places[:, None] * (f @ theirs.W_dec)

    return change


@pytest.fixture(scope="module")
def bridge(planted):
    return planted.bridge()


def bridge_margin(vlm, bridge, row, layer, change):
    """The margin of one prompt from TransformerLens, with `change`(x [S, d_model], ids) applied to a layer's output."""
    inputs = plain_inputs(vlm, row)
    ids = inputs["input_ids"]
    with torch.no_grad():
        logits = bridge.run_with_hooks(
            ids,
            fwd_hooks=[(f"blocks.{layer}.hook_out", lambda x, hook: change(x[0], ids[0])[None])],
            pixel_values=inputs["pixel_values"],
            token_type_ids=inputs["token_type_ids"],
        )
    return plain_margin(logits[0, -1], vlm.processor.tokenizer)


@pytest.mark.parametrize("where", ["final", "all"])
def test_clamps_equal_those_of_sae_lens_in_plain_hooks_and_in_transformer_lens(where, planted, asked, bridge):
    change = lens_clamp(where, planted.model.config.image_token_id)
    free = measure(planted, asked).margin
    with clamped(planted, gate(where)):
        held = measure(planted, asked, [4, 9])
    for i in range(0, len(asked), 4):
        margin, outputs = plain_run(planted, asked.iloc[i], lambda layer, x, ids: change(x, ids) if layer == 4 else x)
        assert held.margin[i] == pytest.approx(margin, abs=1e-4)
        torch.testing.assert_close(held.residuals[i], outputs[[4, 9], -1], atol=1e-4, rtol=0)
        assert held.margin[i] == pytest.approx(bridge_margin(planted, bridge, asked.iloc[i], 4, change), abs=1e-4)
    assert (held.margin - free).abs().max() > 0.05


def test_delta_patches_are_those_of_transformer_lens(planted, asked, bridge):
    measured = measure(planted, asked, [4])
    flips = find_flips(asked, pair_table(asked), measured.margin, 0.25)
    sae = load_sae(locate_saes(WORLD / "saes")[4], 4, 128)
    f = sae.encode(measured.residuals[:, 0])[:, 110]
    original, paraphrase = flips.pairs["original"].tolist(), flips.pairs["paraphrase"].tolist()
    patch = -(f[paraphrase] - f[original])[:, None] * sae.w_dec[110]
    effect = patch_effect(rerun_paraphrases(planted, asked, flips), flips, [4], patch[:, None], "patches")[:, 0]
    assert (abs(effect) > 0.01).any()
    for i in sorted(range(len(effect)), key=lambda i: -abs(effect[i]))[:4]:
        row = asked.iloc[paraphrase[i]]
        margin = bridge_margin(planted, bridge, row, 4, lambda x, ids, i=i: torch.cat([x[:-1], x[-1:] + patch[i]]))
        assert flips.margin_after[i] + effect[i] == pytest.approx(margin, abs=1e-4)


def test_facts_of_the_clamp_on_the_shipped_world(planted, asked):
    layers = [0, 3, 4]
    free = measure(planted, asked, layers)
    with clamped(planted, gate("all")):
        held = measure(planted, asked, layers)
    assert torch.equal(held.residuals[:, :2], free.residuals[:, :2]), "layers before the clamp know nothing of it"
    sae = load_sae(locate_saes(WORLD / "saes")[4], 4, 128)
    f = sae.encode(free.residuals[:, 2], torch.tensor([110, 283]))
    expected = free.residuals[:, 2] - f @ sae.w_dec[[110, 283]]
    torch.testing.assert_close(held.residuals[:, 2], expected, atol=1e-4, rtol=0)
    held_at_own = [clamp._replace(value=float(value)) for clamp, value in zip(gate("final"), f[0], strict=True)]
    with clamped(planted, held_at_own):
        assert measure(planted, asked.iloc[[0]]).margin[0] == pytest.approx(float(free.margin[0]), abs=1e-4)


def test_matched_controls_are_other_features_that_are_as_active(planted, asked):
    saes = locate_saes(WORLD / "saes")
    clamps = load_clamps(parse_clamps("4:110,4:283=2"), saes, planted.d_model, planted.device, "final")
    residuals = measure(planted, asked, [4]).residuals[:, 0]
    sae = load_sae(saes[4], 4, planted.d_model)
    mean = sae.encode(residuals).mean(0)
    controls = matched_clamps(planted, asked, clamps, saes, 3)
    assert len(controls) == 3
    used = [clamp.feature for controls_of in controls for clamp in controls_of]
    assert len(set(used)) == 6
    assert not set(used) & {110, 283}
    left = [i for i in range(sae.d_sae) if mean[i] > 0 and i not in (110, 283)]
    near = sorted(left, key=lambda i: abs(float(torch.log(mean[i] / mean[110]))))
    assert [controls_of[0].feature for controls_of in controls] == near[:3]
    for first, second in controls:
        assert first.value == 0
        assert second.value == pytest.approx(2 * float(mean[second.feature] / mean[283]), rel=1e-4)
        torch.testing.assert_close(first.w_dec, sae.w_dec[first.feature])
