"""The inputs of the lowest trained layer are stored, and the gradient stays that of the naive recipe in plain peft."""

import json

import pytest
import torch
from finetune_world import awaken, items_of, make_world
from torch.nn import functional as F

from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.training.batches import Step, training_steps
from finetune.training.forward import FirstTokenLogits, batch_losses, build_batch, prompts_asked
from finetune.training.loop import accelerator_for, train
from finetune.training.loss import objective_of
from finetune.training.prefix_states import PrefixStates, lowest_trained
from interp.images.decode import open_image
from interp.model.image_tokens import encode_images
from interp.model.load import load_vlm
from interp.model.prompts import PromptStyle
from interp.questions.files import load_questions
from interp.runtime.errors import InputError

ADAPTED = [2, 3]
EVERYTHING = 2**40


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Five layers, with a sliding window shorter than a prompt."""
    made = make_world(tmp_path_factory.mktemp("frozen") / "world", patients=6, layers=5)
    path = made.model / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["sliding_window"] = 12
    path.write_text(json.dumps(config))
    return made


@pytest.fixture
def questions(world):
    return load_questions(world.questions, split="train")


def adapted_vlm(world, dtype="float32", style=None, layers=ADAPTED):
    vlm = load_vlm(world.model, "cpu", dtype, style=style or PromptStyle())
    adapted = add_lora(vlm, layers, dropout=0.0)
    awaken(adapted)
    return vlm, adapted


def gradient(adapted):
    return {
        name.split("base_model.model.")[-1]: p.grad.double()
        for name, p in adapted.named_parameters()
        if p.requires_grad
    }


def packed_gradient(world, items, budget, dtype="float32", style=None, layers=ADAPTED, by_question=False):
    """The gradient from the packed engine, with the states that fit into `budget` bytes stored beforehand."""
    vlm, adapted = adapted_vlm(world, dtype, style, layers)
    prompts = prompts_asked(items)
    encode_images(vlm, [p.image for p in prompts])
    frozen = PrefixStates(vlm)
    frozen.keep(prompts, budget)
    batch = build_batch(frozen, items, by_question)
    losses = batch_losses(FirstTokenLogits(adapted), batch, objective_of(vlm, TrainSettings()))
    (losses.cross_entropy + losses.divergence).sum().backward()
    return gradient(adapted)


def naive_gradient(world, items, dtype, image_first=True, layers=ADAPTED):
    """Plain transformers and peft: one wording at a time, pixels through the tower, the losses as published."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(world.model)
    model = AutoModelForImageTextToText.from_pretrained(world.model, dtype=dtype).eval()
    targets = rf".*language_model\.layers\.({'|'.join(map(str, layers))})\..*_proj"
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=targets))
    # As in `add_lora`: its seed gives the first factors, `awaken` the second ones.
    _, ours = adapted_vlm(world, layers=layers)
    model.load_state_dict({n: p for n, p in ours.named_parameters() if p.requires_grad}, strict=False)
    for item in items:
        logits = []
        for text in (item.original, item.paraphrase):
            if text is None:
                continue
            content = [{"type": "image", "image": open_image(item.image)}, {"type": "text", "text": text}]
            messages = [{"role": "user", "content": content if image_first else content[::-1]}]
            inputs = processor.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            logits.append(model(**inputs).logits[0, -1].float())
        target = torch.tensor(processor.tokenizer(item.answer, add_special_tokens=False)["input_ids"][0])
        loss = sum(F.cross_entropy(x, target) for x in logits) / len(logits)
        if len(logits) == 2:
            p, q = (x.log_softmax(-1) for x in logits)
            loss = loss + F.kl_div(p, q, reduction="sum", log_target=True) / 2
            loss = loss + F.kl_div(q, p, reduction="sum", log_target=True) / 2
        loss.backward()
    return gradient(model)


def assert_equal(found, expected, least, layers=ADAPTED):
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 7 * len(layers)
    for name in found:
        cosine = F.cosine_similarity(found[name].flatten(), expected[name].flatten(), dim=0)
        assert float(cosine) >= least, (name, float(cosine))
        assert float(found[name].norm() / expected[name].norm()) == pytest.approx(1, abs=20 * (1 - least)), name


@pytest.mark.parametrize("image_first", [True, False])
def test_the_gradient_is_that_of_the_naive_recipe_whatever_is_kept(world, questions, image_first):
    items = items_of(questions[:4] + questions[5:9])
    assert len({i.image for i in items}) == 2, "several questions per image"
    expected = naive_gradient(world, items, "float32", image_first)
    style = PromptStyle(image_first=image_first)
    for budget in (EVERYTHING, 30_000, 0):
        assert_equal(packed_gradient(world, items, budget, style=style), expected, 0.999999)
    assert_equal(packed_gradient(world, items, EVERYTHING, style=style, by_question=True), expected, 0.999999)


def test_questions_about_an_image_share_a_row_unless_packed_by_question(world, questions):
    """So that a batch has as many rows as another of as many questions, and can share its recorded pass."""
    vlm, _ = adapted_vlm(world)
    items = [item for item in items_of(questions) if item.paraphrase is not None]
    apart = [next(item for item in items if item.image == image) for image in sorted({item.image for item in items})]
    together = items[: len(apart)]
    assert len({item.image for item in together}) == 1 < len(apart)
    encode_images(vlm, [item.image for item in items])
    frozen = PrefixStates(vlm)
    for batch, shared in ((together, 1), (apart, len(apart))):
        for by_question, rows in ((False, shared), (True, len(apart))):
            [(laid, _)] = build_batch(frozen, batch, by_question).parts
            assert (len(laid.input_ids), laid.most) == (rows, 2 * len(batch) // rows)


@pytest.mark.parametrize("layers", [[1, 4], [4]])
def test_the_gradient_of_the_last_layer(world, questions, layers):
    """It runs at final tokens only, but for its keys and values."""
    items = items_of(questions[:4] + questions[5:9])
    expected = naive_gradient(world, items, "float32", layers=layers)
    assert_equal(packed_gradient(world, items, EVERYTHING, layers=layers), expected, 0.999999, layers)


def test_the_gradient_in_bfloat16(world, questions):
    items = items_of(questions[:4] + questions[5:9])
    expected = naive_gradient(world, items, "bfloat16")
    for budget in (EVERYTHING, 0):
        assert_equal(packed_gradient(world, items, budget, "bfloat16"), expected, 0.999)


@pytest.mark.parametrize(("budget", "rows_run"), [(EVERYTHING, 0), (30_000, 1), (0, 2)])
def test_images_beyond_the_budget_are_run_in_their_step(world, questions, budget, rows_run):
    vlm, _ = adapted_vlm(world)
    items = items_of(questions[:4] + questions[5:9])
    encode_images(vlm, [i.image for i in items])
    plain, kept = PrefixStates(vlm), PrefixStates(vlm)
    kept.keep(prompts_asked(items), budget)
    [(_, expected)] = build_batch(plain, items).parts
    run = []
    vlm.layers[0].register_forward_hook(lambda module, inputs, output: run.append(len(inputs[0])))
    [(batch, found)] = build_batch(kept, items).parts
    assert sum(run) == rows_run
    told = batch.segment >= 0
    assert torch.allclose(found[told], expected[told], atol=1e-5)


def test_wordings_meet_in_other_rows_than_they_were_kept_in(world, questions, monkeypatch):
    """The common prefix of a row depends on the wordings in it."""
    monkeypatch.setattr("finetune.training.prefix_states.PROMPTS", 4)
    vlm, _ = adapted_vlm(world)
    items = items_of(questions[:6])
    encode_images(vlm, [i.image for i in items])
    kept = PrefixStates(vlm)
    kept.keep(prompts_asked(items), EVERYTHING)
    for part in (items[:1], items[1:3], items[::-1]):
        [(batch, found)] = build_batch(kept, part).parts
        [(_, expected)] = build_batch(PrefixStates(vlm), part).parts
        told = batch.segment >= 0
        assert torch.allclose(found[told], expected[told], atol=1e-5)


def test_frozen_layers_meet_a_prompt_once_in_all_epochs(world, questions):
    vlm, adapted = adapted_vlm(world)
    steps = training_steps(questions, 4, 6, 0, "blank")
    calls: dict[int, list[bool]] = {number: [] for number in range(vlm.n_layers)}
    for number, layer in enumerate(vlm.layers):
        layer.register_forward_hook(lambda module, inputs, output, n=number: calls[n].append(torch.is_grad_enabled()))
    train(vlm, adapted, steps, TrainSettings(grounding="blank"), accelerator_for("cpu"))
    # All prompts fit into one batch.
    assert [calls[n] for n in (0, 1)] == [[False]] * 2
    # Every step has the true images and the blank one.
    assert [calls[n] for n in (2, 3, 4)] == [[True] * (2 * len(steps))] * 3


def test_nothing_below_the_lowest_trained_layer_is_saved_for_the_backward_pass(world, questions):
    vlm, adapted = adapted_vlm(world)
    items = items_of(questions[:6])
    encode_images(vlm, [i.image for i in items])
    reached = [-1]
    for number, layer in enumerate(vlm.layers):
        layer.register_forward_pre_hook(lambda module, inputs, n=number: reached.append(n))
    saved_in = []

    def saved(tensor):
        saved_in.append(reached[-1])
        return tensor

    objective = objective_of(vlm, TrainSettings())
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
        batch_losses(FirstTokenLogits(adapted), build_batch(PrefixStates(vlm), items), objective)
    assert reached == [-1, 0, 1, 2, 3, 4], "nothing was kept, so all layers are run"
    assert set(saved_in) == {2, 3, 4}


def test_the_lowest_trained_layer_is_found_in_the_model(world):
    vlm = load_vlm(world.model, "cpu", "float32")
    assert lowest_trained(vlm.model) == 5
    add_lora(vlm, [4, 1])
    assert lowest_trained(vlm.model) == 1
    vlm.model.model.multi_modal_projector.mm_input_projection_weight.requires_grad_(True)
    with pytest.raises(ValueError, match="projector"):
        lowest_trained(vlm.model)


def test_with_all_layers_trained_nothing_is_kept(world, questions):
    vlm = load_vlm(world.model, "cpu", "float32")
    add_lora(vlm, range(5))
    items = items_of(questions[:6])
    encode_images(vlm, [i.image for i in items])
    frozen = PrefixStates(vlm)
    vlm.layers[0].register_forward_pre_hook(lambda module, inputs: pytest.fail("a trained layer was run"))
    frozen.keep(prompts_asked(items), EVERYTHING)
    [(batch, hidden)] = build_batch(frozen, items).parts
    is_image = batch.input_ids == vlm.model.config.image_token_id
    assert torch.allclose(hidden[is_image], torch.cat([vlm.image_tokens[items[0].image]] * len(batch.segment)))


def limited(monkeypatch, prompts):
    """Simulate memory for a limited number of prompts; returns the sizes that did not fit, in order."""
    forward, refused = FirstTokenLogits.forward, []

    def limited_forward(self, parts):
        found = sum(len(batch.prompts) for batch, _ in parts)
        if found > prompts:
            refused.append(found)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, parts)

    monkeypatch.setattr(FirstTokenLogits, "forward", limited_forward)
    return refused


def unpaired_first(questions):
    """Steps whose first half fits while the second does not: 4 questions of one wording, then 4 of two."""
    items = items_of(questions)
    paired = [i for i in items if i.paraphrase is not None]
    return [Step(k, [i._replace(paraphrase=None) for i in paired[:4]] + paired[4:8]) for k in range(3)]


def test_a_step_that_runs_out_of_memory_is_taken_again_in_smaller_parts(world, questions, monkeypatch):
    steps, found = unpaired_first(questions), []
    for prompts in (100, 6):
        refused = limited(monkeypatch, prompts)
        vlm, adapted = adapted_vlm(world)
        accelerator = accelerator_for("cpu")
        clip, gradients = accelerator.clip_grad_norm_, []

        def clipped(parameters, norm, clip=clip, gradients=gradients):
            gradients.append(torch.cat([p.grad.double().flatten() for p in parameters]))
            return clip(parameters, norm)

        monkeypatch.setattr(accelerator, "clip_grad_norm_", clipped)
        history = train(vlm, adapted, steps, TrainSettings(dropout=0.0), accelerator)
        found.append((refused, gradients, history))
    (fitting, expected, told), (refused, gradients, history) = found
    # All 8 questions fail; then 4 fit, but the other 4 fail; 2 fit, and the following steps begin with 2.
    assert (fitting, refused) == ([], [12, 8])
    assert len(gradients) == len(expected) == 3
    assert all(float((g - e).norm() / e.norm()) < 1e-5 for g, e in zip(gradients, expected, strict=True))
    assert history == [pytest.approx(record, rel=1e-4) for record in told]


@pytest.mark.parametrize(
    ("size", "advice"), [(2, "at 2 questions per pass. Lower --micro-batch-size"), (None, "--rank")]
)
def test_memory_that_does_not_reach_is_a_clear_error(world, questions, monkeypatch, size, advice):
    vlm, adapted = adapted_vlm(world)
    limited(monkeypatch, 0)
    with pytest.raises(InputError, match=advice):
        train(vlm, adapted, unpaired_first(questions), TrainSettings(micro_batch_size=size), accelerator_for("cpu"))
