"""LoRA's projections in fewer kernels give the values and gradients of peft's own."""

from contextlib import contextmanager

import pytest
import torch
from finetune_world import awaken, items_of, make_world
from torch.nn import functional as F

from finetune.lora import fused_update, shared_inputs
from finetune.lora.fused_update import fused_updates
from finetune.lora.modules import add_lora, set_dropout
from finetune.lora.settings import TrainSettings
from finetune.training.forward import FirstTokenLogits, batch_losses, build_batch
from finetune.training.loss import objective_of
from finetune.training.prefix_states import PrefixStates
from interp.model.image_tokens import encode_images
from interp.model.load import load_vlm
from interp.questions.files import load_questions

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


class Block(torch.nn.Module):
    """Two projections of one input, and one of their product."""

    def __init__(self, bias=False):
        super().__init__()
        self.left, self.right = (torch.nn.Linear(24, 40, bias=bias) for _ in range(2))
        self.down = torch.nn.Linear(40, 24, bias=bias)

    def forward(self, x):
        return self.down(torch.tanh(self.left(x)) * self.right(x))


def adapted_block(bias=False, **options):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = ["left", "right", "down"]
    adapted = get_peft_model(Block(bias), LoraConfig(r=4, lora_alpha=12, target_modules=targets, **options))
    awaken(adapted)
    return adapted


@pytest.fixture
def fused_calls(monkeypatch):
    """The inputs of all fused projections."""
    calls, plain = [], fused_update.UpdatedProjection.apply
    monkeypatch.setattr(
        fused_update.UpdatedProjection, "apply", lambda x, *rest: (calls.append(x.shape), plain(x, *rest))[1]
    )
    return calls


def outcome(adapted, x):
    """The output and the gradients of input and adapter."""
    leaf = x.clone().requires_grad_()
    y = adapted(leaf)
    factors = [p for p in adapted.parameters() if p.requires_grad]
    slope = torch.linspace(-1, 1, y.numel(), device=y.device).view(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * slope).float().sum(), [leaf, *factors])]


def distance(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_values_and_gradients_in_float32(dropout, device, fused_calls):
    adapted = adapted_block(lora_dropout=dropout).to(device).train()
    x = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(1)).to(device)
    torch.manual_seed(5)
    expected = outcome(adapted, x)
    with fused_updates(adapted):
        torch.manual_seed(5)
        found = outcome(adapted, x)
        other = outcome(adapted, x)
    assert len(fused_calls) == 6
    assert len(found) == 2 + 2 * 3
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert distance(mine, theirs) < 1e-6
        assert float((mine - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())
    apart = [distance(mine, theirs) for mine, theirs in zip(other, expected, strict=True)]
    assert (min(apart) > 0.05) == (dropout > 0), "another draw of the dropout differs, so the comparison above can fail"


def mixed_block(**options):
    """On a GPU, with its base in bfloat16 and its adapter in float32."""
    adapted = adapted_block(**options).cuda().train()
    for module in adapted.base_model.model.children():
        module.base_layer.bfloat16()
    return adapted


@contextmanager
def mixed(adapted, active):
    from peft.helpers import disable_input_dtype_casting

    products = torch.autocast("cuda", torch.bfloat16, cache_enabled=False)
    with products, disable_input_dtype_casting(adapted), fused_updates(adapted, active):
        yield


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_values_and_gradients_in_mixed_precision(dropout, monkeypatch):
    """With dropout, peft's own get the masks of ours."""
    adapted = mixed_block(lora_dropout=dropout)
    x = torch.randn(300, 24, generator=torch.Generator().manual_seed(1)).cuda().bfloat16()
    seeds = list(torch.randint(2**62, (3,), device="cuda"))
    monkeypatch.setattr(fused_update, "_seeds", lambda modules: seeds[: len(modules)])
    with mixed(adapted, True):
        fused = outcome(adapted, x)
    if dropout:
        from finetune.lora.seeded_dropout import dropped

        for module, seed in zip(adapted.base_model.model.children(), seeds, strict=True):
            width = module.base_layer.in_features
            ones = torch.ones(len(x), width, device="cuda").bfloat16()
            mask = dropped(ones, seed, dropout)
            module.lora_dropout["default"].forward = lambda x, mask=mask: x * mask / (1 - dropout)
    with mixed(adapted, False):
        plain = outcome(adapted, x)
    assert len(fused) == 2 + 2 * 3
    for mine, theirs in zip(fused, plain, strict=True):
        assert mine.dtype == theirs.dtype
        assert distance(mine, theirs) < 2e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("rows", "width", "rank"), [(37, 264, 16), (70, 1000, 4), (2432, 2560, 24)])
def test_seeded_dropout(rows, width, rank):
    """What is dropped is a share of independent elements, the same backwards, and other ones with another seed."""
    from finetune.lora.seeded_dropout import dropped, dropped_pull

    torch.manual_seed(rows)
    x, a, pulled = (
        torch.randn(*shape, device="cuda").bfloat16() for shape in ((rows, width), (rank, width), (rows, rank))
    )
    seed, p = torch.tensor(2**61 + 12345, device="cuda"), 0.2
    masks = [dropped(torch.ones_like(x), seed + k, p).double() for k in range(2)]
    mask = masks[0]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(dropped(x, seed, p), x * mask.bfloat16())
    expected = pulled.double() @ a.double() * mask
    assert distance(dropped_pull(pulled, a, seed, p, None), expected) < 5e-3
    total = x.clone()
    assert dropped_pull(pulled, a, seed, p, total) is total
    assert distance(total, x.double() + expected) < 5e-3
    gone = 1 - mask
    pairs = [gone[:, 1:] * gone[:, :-1], gone[:, 8:] * gone[:, :-8], gone[1:] * gone[:-1], gone * (1 - masks[1])]
    for found, share in [(gone, p), *((pair, p * p) for pair in pairs)]:
        # Neighbouring pairs share an element, which at most doubles the variance.
        assert abs(float(found.mean()) - share) < 5 * (2 * share / found.numel()) ** 0.5
    for line, length in ((gone.mean(1), width), (gone.mean(0), rows)):
        assert float((line - p).abs().max()) < 6 * (p * (1 - p) / length) ** 0.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_projection_and_pass_has_a_mask_of_its_own():
    adapted = mixed_block(lora_dropout=0.5)
    modules = list(adapted.base_model.model.children())
    torch.manual_seed(3)
    drawn = torch.stack([*fused_update._seeds(modules), *fused_update._seeds(modules)])
    assert len(drawn.unique()) == 6
    torch.manual_seed(3)
    assert torch.equal(torch.stack(fused_update._seeds(modules)), drawn[:3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_ranks_too_high_for_our_kernel_keep_torch_s_dropout(monkeypatch):
    modules = list(mixed_block(lora_dropout=0.5).base_model.model.children())
    monkeypatch.setattr(fused_update, "MOST_RANK", 4)
    assert all(seed is not None for seed in fused_update._seeds(modules))
    monkeypatch.setattr(fused_update, "MOST_RANK", 3)
    assert list(fused_update._seeds(modules)) == [None] * 3


class Sharing(torch.nn.Module):
    """Three projections of one input, which is also added to what follows; the result of one may be unused."""

    def __init__(self, unused):
        super().__init__()
        self.unused = unused
        self.first, self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(24, 24, bias=False) for _ in range(4))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        parts = {name: getattr(self, name)(x) for name in ("q_proj", "k_proj", "v_proj")}
        parts.pop(self.unused, None)
        # The second time with another input.
        return x + sum(map(torch.sin, parts.values())) * self.v_proj(x * 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("trained", [["q_proj"], ["k_proj", "v_proj"], ["first", "q_proj", "k_proj", "v_proj"]])
@pytest.mark.parametrize("unused", [None, "q_proj", "v_proj"])
def test_gradients_of_a_shared_input_add_up(trained, unused, device, monkeypatch):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(Sharing(unused), LoraConfig(r=4, target_modules=trained)).to(device)
    awaken(adapted)
    calls, plain = [], shared_inputs.FrozenProjection.apply
    monkeypatch.setattr(shared_inputs.FrozenProjection, "apply", lambda *given: (calls.append(given), plain(*given))[1])
    x = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(1)).to(device)
    found = []
    for active in (False, True):
        with fused_updates(adapted, active):
            leaf = x.clone().requires_grad_()
            y = adapted(leaf)
            factors = [p for p in adapted.parameters() if p.requires_grad]
            found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [leaf, *factors], allow_unused=True)])
    used = [name for name in ("q_proj", "k_proj", "v_proj", "v_proj") if name not in trained]
    assert len(calls) == len(used)
    for theirs, mine in zip(*found, strict=True):
        assert (theirs is None) == (mine is None)
        assert theirs is None or distance(mine, theirs) < 1e-6


@pytest.mark.parametrize("trained", ["q_proj", "k_proj"])
def test_projections_of_a_shared_input_may_be_differentiated_one_by_one(trained):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(Sharing(None), LoraConfig(r=4, target_modules=[trained]))
    awaken(adapted)
    model, found = adapted.base_model.model, []
    for active in (False, True):
        x = torch.linspace(-1, 1, 48).view(2, 24).requires_grad_()
        with fused_updates(adapted, active):
            parts = (model.q_proj, model.k_proj, model.v_proj)
            found.append(torch.stack([torch.autograd.grad(part(x).square().sum(), x)[0] for part in parts]))
    assert distance(*found) < 1e-6


def test_a_pass_without_gradients_takes_none_from_the_next():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(Sharing(None), LoraConfig(r=4, target_modules=["q_proj"]))
    awaken(adapted)
    model, found = adapted.base_model.model, []
    for active in (False, True):
        x = torch.linspace(-1, 1, 48).view(2, 24).requires_grad_()
        with fused_updates(adapted, active):
            with torch.no_grad():
                model.q_proj(x)
            y = model.k_proj(x) * model.v_proj(x) + model.q_proj(x)
        found.append(torch.autograd.grad(y.square().sum(), x)[0])
    assert distance(*found) < 1e-6


def switched_off(adapted):
    adapted.base_model.disable_adapter_layers()


def merged(adapted):
    adapted.merge_adapter()


def two_adapters(adapted):
    adapted.add_adapter("other", adapted.peft_config["default"])
    adapted.base_model.set_adapter(["default", "other"])


def hooked(adapted):
    for module in adapted.modules():
        if type(module) is torch.nn.Linear:
            module.register_forward_hook(lambda module, inputs, output: 2 * output)


def hooked_backwards(adapted):
    for projection in adapted.base_model.model.children():
        projection.lora_A["default"].register_full_backward_hook(lambda module, given, taken: (2 * given[0],))


def hooked_dropout(adapted):
    for projection in adapted.base_model.model.children():
        projection.lora_dropout["default"].register_forward_hook(lambda module, inputs, output: 2 * output)


def base_in_bfloat16(adapted):
    for module in adapted.base_model.model.children():
        module.base_layer.bfloat16()


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"use_dora": True}, None),
        ({"bias": True}, None),
        ({"bias": True, "lora_bias": True}, None),
        ({}, switched_off),
        ({}, merged),
        ({}, two_adapters),
        ({}, hooked),
        ({}, hooked_backwards),
        ({}, hooked_dropout),
        ({"lora_dropout": 1.0}, None),
        ({}, base_in_bfloat16),
    ],
)
def test_other_cases_are_peft_s_own(options, change, fused_calls):
    adapted = adapted_block(**options).eval()
    if change is not None:
        change(adapted)
    x = torch.randn(5, 24, dtype=adapted.base_model.model.down.base_layer.weight.dtype)
    with torch.no_grad():
        expected = adapted(x)
        with fused_updates(adapted):
            assert torch.equal(adapted(x), expected)
    assert not fused_calls


@pytest.mark.parametrize("shape", [(24,), (0, 24), (2, 0, 24)])
def test_a_vector_and_no_rows_at_all_are_peft_s_own(shape, fused_calls):
    adapted = adapted_block()
    with fused_updates(adapted):
        assert adapted(torch.ones(shape)).shape == shape
        assert not fused_calls
        adapted(torch.ones(1, 24))
    assert len(fused_calls) == 3


def test_nothing_is_left_behind(fused_calls):
    adapted = adapted_block()
    names = list(adapted.state_dict())
    with fused_updates(adapted), fused_updates(adapted):
        assert list(adapted.state_dict()) == names
    assert not any("forward" in vars(module) for module in adapted.modules())
    with pytest.raises(RuntimeError, match="stopped"), fused_updates(adapted):
        raise RuntimeError("stopped")
    assert not any("forward" in vars(module) for module in adapted.modules())
    with fused_updates(adapted, active=False):
        adapted(torch.ones(2, 24))
    assert not fused_calls


def test_second_derivatives_are_refused():
    adapted = adapted_block()
    x = torch.ones(2, 24, requires_grad=True)
    with fused_updates(adapted):
        (slope,) = torch.autograd.grad(adapted(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


# The last layer, 2, computes keys and values of all tokens, and the rest at final ones.
@pytest.mark.parametrize(("layers", "calls"), [([1, 2], 7 * 2 + 2), ([1], 7)])
def test_the_gradient_of_a_training_batch(layers, calls, tmp_path, fused_calls):
    world = make_world(tmp_path / "world", patients=4)
    vlm = load_vlm(world.model, "cpu", "float32")
    # On a CPU, base projections have kernels of their own.
    for module in vlm.model.modules():
        module.__dict__.pop("forward", None)
    adapted = add_lora(vlm, layers, dropout=0.3)
    awaken(adapted)
    set_dropout(adapted, True)
    items = items_of(load_questions(world.questions, split="train"))
    encode_images(vlm, [item.image for item in items])
    batch = build_batch(PrefixStates(vlm), items)
    parameters, found = [p for p in adapted.parameters() if p.requires_grad], []
    for active in (False, True):
        torch.manual_seed(3)
        with fused_updates(adapted, active):
            losses = batch_losses(FirstTokenLogits(adapted), batch, objective_of(vlm, TrainSettings()))
            found.append(torch.autograd.grad((losses.cross_entropy + losses.divergence).sum(), parameters))
    assert len(fused_calls) == calls
    for plain, fused in zip(*found, strict=True):
        assert F.cosine_similarity(plain.flatten(), fused.flatten(), dim=0) > 1 - 1e-6
        assert distance(fused, plain) < 1e-5
