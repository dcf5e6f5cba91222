"""Packed generation gives the answers of transformers' own `generate` on one prompt at a time."""

import math

import pandas as pd
import pytest
import torch
from finetune_world import awaken

from finetune.lora.modules import add_lora, set_dropout
from interp.images.decode import BLANK_IMAGE, NO_IMAGE, open_image
from interp.measurement.clamp_spec import load_clamps, parse_clamps
from interp.measurement.clamps import clamped
from interp.measurement.generate import end_tokens, generate
from interp.measurement.margins import measure, pack_prompts
from interp.model.load import load_vlm
from interp.model.packing import Batch
from interp.model.prompts import DEFAULT_STYLE
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.generated_answers import parse_yes_no
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae

NEW = 14
"""Longer than the sliding window of 12, so that answers outgrow the window."""


@pytest.fixture(params=[True, False], ids=["image first", "question first"])
def vlm(request, tiny_model):
    return load_vlm(tiny_model, "cpu", "float32", style=DEFAULT_STYLE._replace(image_first=request.param))


@pytest.fixture
def prompts(own_data):
    """Shuffled prompts of different lengths: 6, 4 and 1 on three images, one without an image and one on a blank."""
    table = prompt_table(load_questions(own_data / "questions.jsonl"))
    chosen = table.iloc[[*range(6), *range(6, 10), 12]]
    odd = table.iloc[[0, 1]].assign(image=[NO_IMAGE, BLANK_IMAGE])
    odd["text"] = ["Is there a nodule in it?", "Any spot on the lung, or is it not there at all? Look again."]
    return pd.concat([chosen, odd]).sample(frac=1, random_state=0).reset_index(drop=True)


def plain_inputs(vlm, row):
    picture = [] if row["image"] == NO_IMAGE else [{"type": "image", "image": open_image(row["image"])}]
    content = [*picture, {"type": "text", "text": row["text"]}]
    message = {"role": "user", "content": content if vlm.style.image_first else content[::-1]}
    return vlm.processor.apply_chat_template(
        [message], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )


def plainly(vlm, row, new=NEW):
    """Token ids of one answer from plain transformers, without the end token."""
    inputs = plain_inputs(vlm, row)
    said = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=new)[0, inputs["input_ids"].shape[1] :].tolist()
    ends = end_tokens(vlm.model)
    return said[: next((i for i, token in enumerate(said) if token in ends), len(said))]


def text_of(vlm, tokens):
    return vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def assert_plain(vlm, prompts, new=NEW, **options):
    answers = generate(vlm, prompts, new, **options)
    tokens = [plainly(vlm, row, new) for _, row in prompts.iterrows()]
    assert answers == [text_of(vlm, t) for t in tokens]
    return answers, tokens


def test_packed_answers_equal_the_plain_ones(vlm, prompts):
    answers, tokens = assert_plain(vlm, prompts)
    assert generate(vlm, prompts, NEW, batch_tokens=600) == answers
    lengths = [plain_inputs(vlm, row)["input_ids"].shape[1] for _, row in prompts.iterrows()]
    assert len(set(lengths)) > 3
    assert min(lengths) > 12 == vlm.model.config.text_config.sliding_window
    assert [len(t) for t in tokens] == [NEW] * len(prompts)
    assert len(set(answers)) > len(prompts) / 2, "answers that are all alike make no test"
    if vlm.style.image_first:
        assert sorted(len(row.prompts) for row in pack_prompts(vlm, prompts)) == [1, 1, 1, 4, 6]


def test_the_sliding_window_changes_answers(vlm, prompts):
    """Without the window the answers differ, so the parity above covers the window."""
    answers = generate(vlm, prompts, NEW)
    vlm.model.config.text_config.sliding_window = None
    assert generate(vlm, prompts, NEW) != answers


def test_answers_stop_at_the_first_of_the_end_tokens(vlm, prompts):
    prompts = prompts[:7]
    free = [plainly(vlm, row) for _, row in prompts.iterrows()]
    # The first ends the first answer at once; the second ends the second answer midway.
    ends = [free[0][0], next(t for t in free[1][3:] if t not in free[1][:3])]
    for chosen in (ends, ends[1]):
        vlm.model.generation_config.eos_token_id = chosen
        _, tokens = assert_plain(vlm, prompts)
        assert {len(t) for t in tokens} & set(range(3, NEW))
    vlm.model.generation_config.eos_token_id = ends
    assert generate(vlm, prompts, NEW)[0] == ""


def test_a_batch_stops_when_all_its_answers_have_ended(vlm, prompts):
    free = [plainly(vlm, row) for _, row in prompts[:2].iterrows()]
    ends = [tokens[2] for tokens in free]
    needed = max(next(i for i, token in enumerate(tokens, start=1) if token in ends) for tokens in free)
    vlm.model.generation_config.eos_token_id = ends
    forwards = []
    vlm.output_hooks = {0: lambda output, batch: forwards.append(1) or output}
    generate(vlm, prompts[:2], NEW)
    assert len(forwards) == needed <= 3


def test_end_tokens_come_from_the_configuration(vlm):
    assert end_tokens(vlm.model) == [1, vlm.processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    vlm.model.generation_config.eos_token_id = 5
    assert end_tokens(vlm.model) == [5]
    vlm.model.generation_config.eos_token_id = None
    assert end_tokens(vlm.model) == list(vlm.model.config.eos_token_id)
    vlm.model.config.eos_token_id = None
    assert end_tokens(vlm.model) == []


def test_one_token_is_the_top_token(vlm, prompts):
    top = measure(vlm, prompts).top_token.tolist()
    assert generate(vlm, prompts, 1) == [text_of(vlm, [token]) for token in top]


def test_no_new_tokens_are_refused(vlm, prompts):
    with pytest.raises(InputError, match="max_new_tokens 0"):
        generate(vlm, prompts, 0)


def test_no_prompts_have_no_answers(vlm, prompts):
    assert generate(vlm, prompts.iloc[:0], NEW) == []


def test_an_adapter_in_place(vlm, prompts):
    prompts = prompts[:8]
    free = generate(vlm, prompts, NEW)
    adapted = add_lora(vlm, [1, 2, 3], rank=4)
    assert generate(vlm, prompts, NEW) == free
    awaken(adapted)
    set_dropout(adapted, False)
    answers, _ = assert_plain(vlm, prompts)
    assert answers != free
    with adapted.disable_adapter():
        assert generate(vlm, prompts, NEW) == free


CLAMPS = "0:3,1:7=1.5,1:11,3:2"


@pytest.mark.parametrize("where", ["final", "all"])
def test_clamped_answers_equal_plain_hooks(where, vlm, prompts, tiny_saes):
    """Plain hooks on every forward pass of transformers' own generate, without a cache, on the whole text each time."""
    prompts, new = prompts[:8], 8
    free = generate(vlm, prompts, new)
    with clamped(vlm, load_clamps(parse_clamps(CLAMPS), locate_saes(tiny_saes), 32, "cpu", where)):
        held = generate(vlm, prompts, new, batch_tokens=600)
    assert held != free
    saes = {layer: load_sae(path, layer, 32) for layer, path in locate_saes(tiny_saes).items()}
    for i, row in prompts.iterrows():
        inputs = plain_inputs(vlm, row)
        ids, length = inputs["input_ids"][0], inputs["input_ids"].shape[1]

        def hook(layer, ids=ids, length=length):
            def change(module, args, output):
                output = output.clone()
                text = [p for p in range(1, length) if ids[p] != vlm.model.config.image_token_id]
                places = [length - 1] if where == "final" else [*text, *range(length, output.shape[1])]
                for place in places:
                    x = output[0, place].clone()
                    for _, feature, value in (spec for spec in parse_clamps(CLAMPS) if spec.layer == layer):
                        f = saes[layer].encode(x[None])[0, feature]
                        output[0, place] -= (f - value) * saes[layer].w_dec[feature]
                return output

            return change

        handles = [vlm.layers[layer].register_forward_hook(hook(layer)) for layer in range(4)]
        said = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=new, use_cache=False)[0, length:].tolist()
        for handle in handles:
            handle.remove()
        assert held[i] == text_of(vlm, said)


def test_output_hooks_see_every_token_once(vlm, prompts):
    met = []
    vlm.output_hooks = {2: lambda output, batch: met.append((output.shape, batch)) or output}
    generate(vlm, prompts, 4)
    first, *steps = (batch for _, batch in met)
    assert [shape[:2] for shape, _ in met] == [batch.input_ids.shape for _, batch in met]
    assert len(steps) == 3
    assert len(first.final) == len(prompts)
    row, column = first.final.unbind(1)
    for step, batch in enumerate(steps, start=1):
        assert isinstance(batch, Batch)
        assert len(batch.final) == 0
        assert (batch.segment >= 0).sum() == len(prompts)
        slot = first.segment[row, column] - 1
        assert torch.equal(batch.segment[row, slot], slot + 1)
        assert torch.equal(batch.position_ids[row, slot], first.position_ids[row, column] + step)
    assert vlm.layers[2]._forward_hooks == {}


def test_weights_that_are_not_finite_are_refused(vlm, prompts):
    vlm.output_hooks = {3: lambda output, batch: output * float("nan")}
    with pytest.raises(InputError, match="not finite"):
        generate(vlm, prompts, 2)


def test_a_batch_stays_within_its_limit(vlm, prompts):
    """The limit includes the positions of the answers; only a row that exceeds it alone runs by itself."""
    sizes = []

    def count(output, batch):
        rows, columns = output.shape[:2]
        if len(batch.final):
            sizes.append([rows, 0])
        sizes[-1][1] += columns
        return output

    vlm.output_hooks = {0: count}
    generate(vlm, prompts, NEW, batch_tokens=700)
    assert len(sizes) > 1
    assert any(rows > 1 for rows, _ in sizes)
    assert all(rows == 1 or rows * columns <= 700 for rows, columns in sizes)


@pytest.fixture(scope="module")
def planted():
    return load_vlm(WORLD / "planted", "cpu", "float32")


def test_the_first_word_is_the_sign_of_the_margin(planted):
    """The planted model was trained on the first token of its answers only, so one token is a whole answer."""
    prompts = prompt_table(load_questions(WORLD / "questions.jsonl", split="test")[:120])
    prompts = prompts[prompts["closed"]].reset_index(drop=True)
    margin = measure(planted, prompts).margin
    said = [parse_yes_no(answer) for answer in generate(planted, prompts, 1)]
    spoken = torch.tensor([word is not None for word in said])
    agree = torch.tensor([word == ("yes" if m > 0 else "no") for word, m in zip(said, margin.tolist(), strict=True)])
    assert len(said) > 300
    # The others are left and right.
    assert spoken.float().mean() > 0.95
    assert agree[spoken].float().mean() > 0.99
    # logsumexp of three logits exceeds their maximum by at most log 3; beyond that the sign follows the top token.
    assert agree[spoken & (margin.abs() > math.log(3))].all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_planted_models_answers_equal_transformers_own(dtype):
    """Packing rounds differently than one prompt at a time, so in bfloat16 a near tie may be decided differently."""
    vlm = load_vlm(WORLD / "planted", "cpu", dtype)
    prompts = prompt_table(load_questions(WORLD / "questions.jsonl", split="test")[:2])
    answers = generate(vlm, prompts, 8)
    plain = [text_of(vlm, plainly(vlm, row, 8)) for _, row in prompts.iterrows()]
    same = [a == b for a, b in zip(answers, plain, strict=True)]
    assert all(same) if dtype == "float32" else sum(same) >= 0.9 * len(same)
