"""Recorded passes give the gradients and the sums of the passes themselves."""

import pytest
import torch
from finetune_world import awaken, items_of, make_world

from finetune.lora.modules import add_lora, set_dropout
from finetune.lora.settings import TrainSettings
from finetune.training.cuda_graphs import GraphedPasses
from finetune.training.forward import build_batch, prompts_asked
from finetune.training.loop import _passes
from finetune.training.loss import objective_of
from finetune.training.prefix_states import PrefixStates
from interp.model.image_tokens import encode_images
from interp.model.load import load_vlm
from interp.questions.files import load_questions

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("graphed") / "world", patients=12)


def prepared(world, dropout, dtype="float32"):
    """The parameters of an adapter, a pass, and batches of several shapes, each three times."""
    vlm = load_vlm(world.model, "cuda", dtype)
    adapted = add_lora(vlm, [1, 2], dropout=dropout)
    awaken(adapted)
    set_dropout(adapted, True)
    objective = objective_of(vlm, TrainSettings())
    items = items_of(load_questions(world.questions, split="train"))
    encode_images(vlm, [item.image for item in items])
    frozen = PrefixStates(vlm)
    batches = [items[start : start + size] for _ in range(3) for start in (0, 4, 9) for size in (4, 3)]
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    passes = _passes(adapted, objective, vlm)
    assert isinstance(passes, GraphedPasses)
    return parameters, passes.run, [build_batch(frozen, batch, by_question=True) for batch in batches]


def stepped(parameters, passes, batches):
    """The sums and gradients of every batch."""
    found = []
    for number, laid in enumerate(batches):
        for p in parameters:
            if p.grad is not None:
                p.grad.zero_()
        sums = passes(laid, torch.tensor(1.0 + number % 3, device="cuda"))
        found.append((sums.cpu(), torch.cat([p.grad.flatten() for p in parameters]).cpu()))
    return found


@pytest.mark.parametrize(("dtype", "unlike", "larger"), [("float32", 1e-6, 1e-4), ("bfloat16", 1e-3, 1e-2)])
def test_a_recorded_pass_is_the_pass(world, dtype, unlike, larger):
    """The kernels of a recorded product may be others, which round bfloat16 differently."""
    parameters, run, batches = prepared(world, 0.0, dtype)
    plain = stepped(parameters, run, batches)
    passes = GraphedPasses(run)
    recorded = stepped(parameters, passes, batches)
    assert 2 <= len(passes._recorded) < len(batches)
    assert len({tuple(g[:5].tolist()) for _, g in plain}) >= 6, "batches differ"
    for (sums, gradient), (expected_sums, expected) in zip(recorded, plain, strict=True):
        assert torch.allclose(sums, expected_sums, rtol=10 * unlike, atol=unlike)
        assert torch.nn.functional.cosine_similarity(gradient, expected, dim=0) > 1 - unlike
        assert float(gradient.norm() / expected.norm()) == pytest.approx(1, abs=larger)


def test_kept_inputs_are_those_that_are_computed(world):
    """Also if a batch is copied while the GPU still works on the one before."""
    vlm = load_vlm(world.model, "cuda", "float32")
    add_lora(vlm, [1, 2])
    items = items_of(load_questions(world.questions, split="train"))
    encode_images(vlm, [item.image for item in items])
    plain, kept = PrefixStates(vlm), PrefixStates(vlm)
    kept.keep(prompts_asked(items), 2**30)
    batches, busy = [items[start : start + 4] for start in range(8)], torch.ones(4096, 4096, device="cuda")
    found = []
    for batch in batches:
        busy = busy @ busy * 1e-4
        [(laid, hidden)] = build_batch(kept, batch, by_question=True).parts
        found.append(hidden[laid.segment >= 0] * 1.0)
        del hidden
    for batch, mine in zip(batches, found, strict=True):
        [(laid, expected)] = build_batch(plain, batch, by_question=True).parts
        assert torch.allclose(mine, expected[laid.segment >= 0], atol=1e-5)


def test_passes_are_recorded_again_after_memory_has_run_out(world):
    """As in `finetune.training.loop._accumulate`, which drops all recorded passes and continues."""
    parameters, run, batches = prepared(world, 0.0)
    passes = GraphedPasses(run)
    before = stepped(parameters, passes, batches)
    count = len(passes._recorded)
    passes.forget()
    torch.cuda.empty_cache()
    after = stepped(parameters, passes, batches)
    assert len(passes._recorded) == count
    for (_, gradient), (_, expected) in zip(after, before, strict=True):
        assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_memory_that_runs_out_while_a_pass_is_recorded(world):
    parameters, run, batches = prepared(world, 0.0)
    expected = stepped(parameters, run, batches[:3])
    starved = []

    def starving(batch, divisor):
        sums = run(batch, divisor)
        if not starved:
            starved.append(batch)
            torch.empty(2**46, device="cuda")
        return sums

    passes = GraphedPasses(starving)
    with pytest.raises(torch.OutOfMemoryError):
        passes(batches[0], torch.tensor(1.0, device="cuda"))
    passes.forget()
    torch.cuda.empty_cache()
    found = stepped(parameters, passes, batches[:3])
    assert passes._recorded
    for (sums, gradient), (expected_sums, theirs) in zip(found, expected, strict=True):
        assert torch.allclose(sums, expected_sums, rtol=1e-5)
        assert torch.allclose(gradient, theirs, rtol=1e-4, atol=1e-6)


def test_gradients_of_passes_add_up(world):
    parameters, run, batches = prepared(world, 0.0)
    passes = GraphedPasses(run)
    stepped(parameters, passes, batches)
    apart = torch.stack([gradient for _, gradient in stepped(parameters, passes, batches[:2])])
    for p in parameters:
        p.grad.zero_()
    passes(batches[0], torch.tensor(1.0, device="cuda"))
    passes(batches[1], torch.tensor(2.0, device="cuda"))
    together = torch.cat([p.grad.flatten() for p in parameters]).cpu()
    assert torch.allclose(together, apart.sum(0), rtol=1e-3, atol=1e-6)


def test_dropout_is_drawn_anew_at_every_launch(world):
    parameters, run, batches = prepared(world, 0.5)
    passes = GraphedPasses(run)
    found = stepped(parameters, passes, [batches[0]] * 6)
    gradients = [gradient for _, gradient in found]
    for i in range(6):
        for j in range(i):
            assert not torch.allclose(gradients[i], gradients[j], rtol=1e-3), (i, j)
    torch.cuda.manual_seed(7)
    first = stepped(parameters, passes, [batches[0]] * 3)
    torch.cuda.manual_seed(7)
    again = stepped(parameters, passes, [batches[0]] * 3)
    for (sums, _), (same, _) in zip(first, again, strict=True):
        assert torch.allclose(sums, same, rtol=1e-5)
