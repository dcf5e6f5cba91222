"""Compiled layers give the gradient of plain ones, in few graphs, and go when they fail or are no longer needed."""

import shutil
from functools import partial

import pytest
import torch
from finetune_world import awaken, make_world
from torch._dynamo.utils import counters
from torch.nn import functional as F

from finetune.compiled import PAYS_FROM, compiled, pays
from finetune.frozen import FrozenLayers
from finetune.lora import add_lora
from finetune.packed import FirstToken, lay_out, packed_losses, prompts_of
from finetune.plan import plan_steps
from finetune.settings import TrainSettings
from finetune.train import accelerator_for, train
from interp.image_tokens import encode_images
from interp.questions import load_questions
from interp.vlm import load_vlm

SETTINGS = TrainSettings(dropout=0.0, lr=1e-2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Four layers, the third of which sees everything."""
    return make_world(tmp_path_factory.mktemp("compiled") / "world", patients=6, layers=4)


@pytest.fixture
def questions(world):
    return load_questions(world.questions, split="train")


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def adapted_vlm(world, layers, dtype="float32"):
    vlm = load_vlm(world.model, "cpu", dtype)
    adapted = add_lora(vlm, layers, dropout=0.0)
    awaken(adapted)
    return vlm, adapted


def gradients(vlm, adapted, steps):
    """The gradient of every step, as one vector."""
    frozen, found = FrozenLayers(vlm), []
    encode_images(vlm, [p.image for step in steps for p in prompts_of(step.items)])
    for step in steps:
        losses = packed_losses(FirstToken(adapted), lay_out(frozen, step.items), vlm.answers)
        (losses.cross_entropy + losses.divergence + losses.grounding).sum().backward()
        found.append(torch.cat([p.grad.double().flatten() for p in adapted.parameters() if p.requires_grad]))
        adapted.zero_grad()
    return found


def assert_alike(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert float(F.cosine_similarity(one, other, dim=0)) >= 0.999999
        assert float(one.norm() / other.norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("dtype", "backend", "grounding", "graphs"),
    [("float32", "aot_eager", "none", 3), ("bfloat16", "eager", "blank", 6)],
)
def test_few_graphs_serve_all_layers_and_shapes(world, questions, dtype, backend, grounding, graphs):
    """Layers with an update, without one and the lowest, in batches of several rows and, on the blank image, of one."""
    vlm, adapted = adapted_vlm(world, [1, 2], dtype)
    steps = plan_steps(questions, 1, 8, 0, grounding) + plan_steps(questions, 1, 5, 0, grounding)
    expected = gradients(vlm, adapted, steps)
    with compiled(vlm.layers[1:], backend):
        assert "forward" not in vars(vlm.layers[0])
        found = gradients(vlm, adapted, steps)
    shapes = {hidden.shape for step in steps for _, hidden in lay_out(FrozenLayers(vlm), step.items).parts}
    assert len(shapes) > 2
    assert_alike(found, expected)
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]
    assert not any("forward" in vars(layer) for layer in vlm.layers)
    before = dict(counters["stats"])
    assert_alike(gradients(vlm, adapted, steps), expected)
    assert counters["stats"] == before, "the layers run uncompiled again"


def trained(world, questions, monkeypatch, backend):
    """The history of a run with layers compiled, or None; no layer is left so."""
    vlm, adapted = adapted_vlm(world, [3])
    monkeypatch.setattr("finetune.train.pays", lambda device, steps: backend is not None)
    monkeypatch.setattr("finetune.train.compiled", partial(compiled, backend=backend))
    history = train(vlm, adapted, plan_steps(questions, 2, 6, 0), SETTINGS, accelerator_for("cpu"))
    assert not any("forward" in vars(layer) for layer in vlm.layers)
    return history


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU takes a C++ compiler")
def test_a_compiled_run_is_the_same(world, questions, monkeypatch, capsys):
    expected = trained(world, questions, monkeypatch, None)
    assert counters["stats"]["unique_graphs"] == 0
    found = trained(world, questions, monkeypatch, "inductor")
    assert counters["stats"]["unique_graphs"] == 1
    assert "warning" not in capsys.readouterr().out
    assert found == [pytest.approx(record, rel=1e-3) for record in expected]


@pytest.mark.parametrize("good_calls", [-1, 0, 2])
def test_what_fails_goes_on_uncompiled_with_one_warning(world, questions, monkeypatch, capsys, good_calls):
    """While compiling, in the first call, and in the third."""
    expected = trained(world, questions, monkeypatch, None)
    calls = []

    def backend(graph, inputs):
        if good_calls < 0:
            raise RuntimeError("no such compiler")

        def run(*given):
            calls.append(len(given))
            if len(calls) > good_calls:
                raise RuntimeError("no such kernel")
            return graph(*given)

        return run

    found = trained(world, questions, monkeypatch, backend)
    assert len(calls) == good_calls + 1
    assert found == [pytest.approx(record, rel=1e-3) for record in expected]
    assert capsys.readouterr().out.count("warning: compiled layers failed") == 1


def test_an_error_that_is_not_the_compilers_ends_the_run(world, questions, monkeypatch):
    def broken(self, parts):
        raise RuntimeError("broken elsewhere")

    monkeypatch.setattr(FirstToken, "forward", broken)
    for backend in (None, "eager"):
        with pytest.raises(RuntimeError, match="broken elsewhere"):
            trained(world, questions, monkeypatch, backend)


def test_less_memory_than_a_step_takes_leaves_layers_compiled(world, questions, monkeypatch, capsys):
    expected = trained(world, questions, monkeypatch, None)
    forward, refused = FirstToken.forward, []

    def limited(self, parts):
        if sum(len(batch.prompts) for batch, _ in parts) > 6:
            refused.append(torch.OutOfMemoryError("CUDA out of memory."))
            raise refused[-1]
        return forward(self, parts)

    monkeypatch.setattr(FirstToken, "forward", limited)
    found = trained(world, questions, monkeypatch, "eager")
    assert refused
    assert "warning" not in capsys.readouterr().out
    assert counters["stats"]["unique_graphs"] >= 1
    assert found == [pytest.approx(record, rel=1e-3) for record in expected]


def test_only_long_runs_on_a_gpu_are_worth_compiling():
    assert pays(torch.device("cuda", 0), PAYS_FROM)
    assert not pays(torch.device("cuda", 0), PAYS_FROM - 1)
    assert not pays(torch.device("cpu"), 100 * PAYS_FROM)
