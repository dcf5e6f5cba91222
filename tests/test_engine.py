"""The packed engine gives the results of plain transformers on one prompt at a time."""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from interp.images.decode import BLANK_IMAGE, open_image
from interp.measurement import margins, sharded
from interp.measurement.margins import measure, text_residuals
from interp.measurement.residual_store import empty_residuals
from interp.measurement.sharded import measure_together
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.input_check import LEAST_WINDOW
from interp.model.load import load_vlm
from interp.model.packing import attention_masks, collate, pack
from interp.model.prompts import PromptStyle, answer_margin, answer_tokens, prompt_tokens
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.runtime.calls_beside import CallsBeside
from interp.runtime.distributed import ALONE
from interp.runtime.errors import InputError


@pytest.fixture(scope="module")
def vlm(tiny_model):
    return load_vlm(tiny_model, "cpu", "float32")


def plain_inputs(vlm, image, text):
    style = vlm.style
    content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content if style.image_first else content[::-1]}]
    if style.system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": style.system}]})
    return vlm.processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )


def plain_run(vlm, image, text, change=None):
    """Logits and every layer's output at the final token, from hooks on the unmodified model."""
    outputs = {}

    def hook(layer):
        def watch(module, inputs, output):
            if change is not None and change[0] == layer:
                output = output.clone()
                output[:, -1] += change[1]
            outputs[layer] = output[0, -1]
            return output

        return watch

    handles = [module.register_forward_hook(hook(i)) for i, module in enumerate(vlm.layers)]
    with torch.no_grad():
        logits = vlm.model(**plain_inputs(vlm, image, text)).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits, torch.stack([outputs[i] for i in range(vlm.n_layers)])


def test_prompts_equal_the_processors_own(vlm):
    texts = ["Is there a nodule?", "Any spot on the lung, or not?\nLook again."]
    image = Image.new("RGB", (64, 64))
    for text, tokens in zip(texts, prompt_tokens(vlm.processor, texts), strict=True):
        assert tokens == plain_inputs(vlm, image, text)["input_ids"][0].tolist()


@pytest.mark.parametrize("token", ["<start_of_image>", "<image_soft_token>"])
def test_a_wording_with_an_image_placeholder_is_refused(vlm, token):
    with pytest.raises(InputError, match=f"A wording contains '{token}', which stands for an image"):
        prompt_tokens(vlm.processor, ["Is there a nodule?", f"Is there {token}?"])


def test_packed_margins_and_residuals_equal_the_plain_models(vlm, own_data):
    prompts = prompt_table(load_questions(own_data / "questions.jsonl"))
    layers = [0, 2, 3]
    measured = measure(vlm, prompts, layers, batch_tokens=400)
    assert len(prompts) == 36
    for i, row in prompts.iterrows():
        logits, residuals = plain_run(vlm, open_image(row["image"]), row["text"])
        yes = [vlm.processor.tokenizer.convert_tokens_to_ids(t) for t in ("yes", "Yes", "▁yes")]
        no = [vlm.processor.tokenizer.convert_tokens_to_ids(t) for t in ("no", "No", "▁no")]
        by_hand = np.log(np.exp(logits[yes].double()).sum()) - np.log(np.exp(logits[no].double()).sum())
        assert measured.margin[i] == pytest.approx(float(by_hand), abs=1e-4)
        assert measured.top_token[i] == logits.argmax()
        torch.testing.assert_close(measured.residuals[i], residuals[layers], atol=1e-4, rtol=1e-4)


STYLES = [
    PromptStyle(image_first=False),
    PromptStyle(system="Is there effusion in this study?"),
    PromptStyle(image_first=False, system="Is it there?", answer_instruction="Yes or no?"),
]


@pytest.mark.parametrize("style", STYLES)
def test_other_prompt_styles_equal_the_plain_models(style, tiny_model, own_data):
    vlm = load_vlm(tiny_model, "cpu", "float32", style=style)
    prompts = prompt_table(load_questions(own_data / "questions.jsonl")).iloc[:9]
    measured = measure(vlm, prompts, [3])
    for i, row in prompts.iterrows():
        said = f"{row['text']} {style.answer_instruction}" if style.answer_instruction else row["text"]
        logits, residuals = plain_run(vlm, open_image(row["image"]), said)
        assert measured.margin[i] == pytest.approx(float(answer_margin(logits, vlm.answers)), abs=1e-4)
        torch.testing.assert_close(measured.residuals[i, 0], residuals[3], atol=1e-4, rtol=1e-4)


def test_a_normalizing_style_asks_the_canonical_form(vlm):
    asked = ["Please determine whether an effusion is identified.", "Do you see lung fluid?", "Where is it?"]
    canonical = ["Is there pleural effusion?", "Is there lung fluid?", "Where is it?"]
    style = PromptStyle(normalize=True, answer_instruction="Yes or no?")
    plain = [f"{text} Yes or no?" for text in canonical[:2]] + canonical[2:]
    assert prompt_tokens(vlm.processor, asked, [True, True, False], style) == prompt_tokens(vlm.processor, plain)


def test_an_answer_instruction_is_for_closed_questions_only(vlm):
    style = PromptStyle(answer_instruction="Yes or no?")
    first, second = prompt_tokens(vlm.processor, ["Is it there?"] * 2, [True, False], style)
    assert second == prompt_tokens(vlm.processor, ["Is it there?"])[0]
    assert first == prompt_tokens(vlm.processor, ["Is it there? Yes or no?"])[0]


@pytest.mark.parametrize("window", [12, LEAST_WINDOW])
def test_edits_equal_hooks_on_the_plain_model(vlm, own_data, monkeypatch, window):
    monkeypatch.setattr(vlm.model.config.text_config, "sliding_window", window)
    prompts = prompt_table(load_questions(own_data / "questions.jsonl"))
    rows, layers = prompts.iloc[[0, 1, 5, 8, 12]], [3, 0, 2, 2, 1]
    delta = torch.randn(5, 5, vlm.d_model, generator=torch.Generator().manual_seed(0)) * 3
    edited = SuffixRerun(vlm, rows).margins(layers, delta)
    clean = measure(vlm, rows)
    for i, row in enumerate(rows.itertuples()):
        for k, layer in enumerate(layers):
            logits, _ = plain_run(vlm, open_image(row.image), row.text, (layer, delta[i, k]))
            assert edited[i, k] == pytest.approx(float(answer_margin(logits, vlm.answers)), abs=1e-4)
    assert (edited - clean.margin[:, None]).abs().min() > 1e-3


def test_without_edits_or_prompts_results_are_empty(vlm, own_data):
    prompts = prompt_table(load_questions(own_data / "questions.jsonl")).iloc[:2]
    for rows, layers in ((prompts, []), (prompts.iloc[:0], [0, 3])):
        rerun, delta = SuffixRerun(vlm, rows), torch.zeros(len(rows), len(layers), vlm.d_model)
        assert rerun.margins(layers, delta).shape == (len(rows), len(layers))
        assert rerun.gradients(layers, delta).shape == delta.shape
    residuals, owners = text_residuals(vlm, prompts.iloc[:0], [0, 3])
    assert residuals.shape == (0, 2, vlm.d_model)
    assert owners.shape == (0,)


def test_patching_every_residual_of_the_last_layer_gives_the_originals_margin(vlm, own_data):
    prompts = prompt_table(load_questions(own_data / "questions.jsonl")).iloc[:2]
    measured = measure(vlm, prompts, [3])
    delta = measured.residuals[0] - measured.residuals[1]
    edited = SuffixRerun(vlm, prompts.iloc[[1]]).margins([3], delta[None])
    assert edited[0, 0] == pytest.approx(float(measured.margin[0]), abs=1e-4)


def test_prompts_of_a_row_do_not_attend_to_each_other():
    rows = pack([[1, 9, 9, 2, 5, 6], [1, 9, 9, 2, 7], [1, 9, 9, 2, 5, 8, 8]], ["a"] * 3, image_token=9)
    assert rows[0].prefix == [1, 9, 9, 2]
    batch = collate(rows, pad_token=0)
    full = attention_masks(batch, 9, None)["full_attention"][0, 0]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 4, 4, 5, 6]
    assert full[1, 2], "image tokens see each other in both directions"
    assert not full[0, 1], "text is causal"
    assert not full[6, 4], "the second prompt does not see the first"
    assert full[6, :4].all()
    assert full[9].tolist() == [True] * 4 + [False] * 3 + [True] * 3
    local = attention_masks(batch, 9, 3)["sliding_attention"][0, 0]
    assert local[9].tolist() == [False] * 7 + [True] * 3
    assert local[6].tolist() == [False, False, True, True, False, False, True, False, False, False]


def test_a_question_before_the_image_is_not_shared():
    rows = pack([[1, 4, 9, 9, 2], [1, 5, 9, 9, 2]], ["a", "a"], image_token=9)
    assert [row.prefix for row in rows] == [[], []]


def test_rows_split_at_max_tokens():
    rows = pack([[1, 9, i, i, i] for i in range(10, 16)], ["a"] * 6, image_token=9, max_tokens=9)
    assert [row.prompts for row in rows] == [[0, 1], [2, 3], [4, 5]]


def test_answer_tokens_come_from_the_vocabulary(vlm):
    tokens = vlm.processor.tokenizer.convert_ids_to_tokens
    found = answer_tokens(vlm.processor.tokenizer)
    assert set(tokens(found.yes.tolist())) == {"yes", "Yes", "▁yes"}
    assert set(tokens(found.no.tolist())) == {"no", "No", "▁no"}


def test_each_image_is_encoded_once(vlm, own_data, monkeypatch):
    vlm.image_tokens.clear()
    seen = []
    tower = vlm.model.model.get_image_features
    monkeypatch.setattr(vlm.model.model, "get_image_features", lambda p, **k: seen.append(len(p)) or tower(p, **k))
    prompts = prompt_table(load_questions(own_data / "questions.jsonl"))
    measure(vlm, prompts)
    measure(vlm, prompts.assign(image=BLANK_IMAGE))
    assert sum(seen) == 7


def test_blank_image_is_the_same_for_all(vlm):
    prompts = pd.DataFrame({"image": BLANK_IMAGE, "text": ["Is there a nodule?"] * 2, "closed": True})
    margin = measure(vlm, prompts).margin
    assert margin[0] == pytest.approx(float(margin[1]), abs=1e-5)


@pytest.mark.parametrize("style", [PromptStyle(), PromptStyle(image_first=False)])
def test_a_suffix_rerun_gives_the_same_however_much_is_cached(style, tiny_model, own_data):
    vlm = load_vlm(tiny_model, "cpu", "float32", style=style)
    prompts = prompt_table(load_questions(own_data / "questions.jsonl"))
    delta = torch.randn(len(prompts), 3, vlm.d_model, generator=torch.Generator().manual_seed(1))
    runs = []
    handle = vlm.layers[0].register_forward_hook(lambda *_: runs.append(1))
    found = []
    for room in (0, 300_000, 2**30):
        replay = SuffixRerun(vlm, prompts, room, batch_tokens=300)
        found.append(replay.margins([2, 0, 3], delta))
        first = len(runs)
        torch.testing.assert_close(replay.margins([2, 0, 3], delta), found[-1], atol=1e-5, rtol=0)
        # An edit runs from the layer above its own, so calls of the first layer count the prompts that ran again.
        again, runs[:] = len(runs) - first, []
        assert again == first if room == 0 else again == 0 if room == 2**30 else 0 < again < first
        torch.testing.assert_close(found[-1], found[0], atol=1e-4, rtol=0)
    handle.remove()


def test_gradients_equal_autograd_through_the_plain_model(vlm, own_data):
    prompts = prompt_table(load_questions(own_data / "questions.jsonl")).iloc[:5]
    generator = torch.Generator().manual_seed(2)
    delta = torch.randn(5, 2, vlm.d_model, generator=generator)
    gradients = SuffixRerun(vlm, prompts).gradients([1, 3], delta)
    for i, row in enumerate(prompts.itertuples()):
        for k, layer in enumerate((1, 3)):
            probe = delta[i, k].clone().requires_grad_()

            def add(module, inputs, output, probe=probe):
                return torch.cat([output[:, :-1], output[:, -1:] + probe], 1)

            handle = vlm.layers[layer].register_forward_hook(add)
            inputs = plain_inputs(vlm, open_image(row.image), row.text)
            margin = answer_margin(vlm.model(**inputs).logits[0, -1], vlm.answers)
            handle.remove()
            (expected,) = torch.autograd.grad(margin, probe)
            torch.testing.assert_close(gradients[i, k], expected, atol=1e-5, rtol=1e-3)


def test_residuals_in_a_file_equal_those_in_memory(vlm, own_data):
    prompts = prompt_table(load_questions(own_data / "questions.jsonl"))
    found = []
    for room in (2**30, 0):
        kept = empty_residuals([1, 3], len(prompts), vlm.d_model, torch.float32, room)
        measure(vlm, prompts, [1, 3], into=kept.values.transpose(0, 1))
        found.append(kept)
    assert torch.equal(found[0].values, found[1].values)
    plain = measure(vlm, prompts, [1, 3]).residuals
    pair = torch.tensor([0]), torch.tensor([1])
    torch.testing.assert_close(found[1].shift([3, -1], *pair)[0, 0], plain[0, 1] - plain[1, 1])
    assert not found[1].shift([3, -1], *pair)[0, 1].any()


def test_residuals_are_the_same_under_inference_mode(vlm, own_data):
    prompts = prompt_table(load_questions(own_data / "questions.jsonl"))
    expected = measure(vlm, prompts, [0, 1], 300)
    with torch.inference_mode():
        found = measure(vlm, prompts, [0, 1], 300)
        margin, residuals = measure_together(vlm, prompts, [0, 1], 300, None, ALONE)
    for given in (found.residuals, residuals.values.transpose(0, 1)):
        torch.testing.assert_close(given, expected.residuals, atol=0, rtol=0)
    assert torch.equal(margin, expected.margin)


def test_all_residuals_are_there_however_long_it_takes_to_store_them(vlm, own_data, monkeypatch):
    class Slow(CallsBeside):
        def add(self, call):
            super().add(lambda: (time.sleep(0.05), call()))

    prompts = prompt_table(load_questions(own_data / "questions.jsonl"))
    expected = measure(vlm, prompts, [0, 1], 300).residuals
    for module in (margins, sharded):
        monkeypatch.setattr(module, "CallsBeside", Slow)
    assert torch.equal(measure(vlm, prompts, [0, 1], 300, into=torch.zeros_like(expected)).residuals, expected)
    _, residuals = measure_together(vlm, prompts, [0, 1], 300, None, ALONE)
    assert torch.equal(residuals.values.transpose(0, 1), expected)


def test_images_are_dropped_if_they_do_not_all_fit(vlm, own_data):
    prompts = prompt_table(load_questions(own_data / "questions.jsonl"))
    expected = measure(vlm, prompts).margin
    few = replace(vlm, image_tokens={}, max_images=2)
    torch.testing.assert_close(measure(few, prompts, batch_tokens=100).margin, expected, atol=1e-4, rtol=0)
    assert prompts["image"].nunique() > 2
    assert len(few.image_tokens) <= 2
