import pytest
import torch
from finetune_world import make_world, plain_logits

from finetune.lora.modules import add_lora, set_dropout
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.runtime.errors import InputError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("lora") / "world", patients=2)


def test_an_untrained_adapter_changes_nothing(world):
    vlm = load_vlm(world.model, "cpu")
    question = load_questions(world.questions)[0]
    # With gradients, which only the adapter needs, other kernels would compute the same.
    with torch.no_grad():
        before = plain_logits(vlm.model, vlm.processor, question.image, question.question)
        add_lora(vlm, [0, 2])
        after = plain_logits(vlm.model, vlm.processor, question.image, question.question)
    assert torch.equal(before, after)


def test_adapter_is_float32_and_base_is_frozen_in_bfloat16(world):
    vlm = load_vlm(world.model, "cpu", "bfloat16")
    adapted = add_lora(vlm, [1])
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == ("lora_" in name), name
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name


def test_same_seed_same_start(world):
    first, second, other = (
        torch.cat(
            [
                p.flatten()
                for n, p in add_lora(load_vlm(world.model, "cpu"), [1], seed=s).named_parameters()
                if "lora_A" in n
            ]
        )
        for s in (4, 4, 5)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_dropout_trains_in_the_adapter_alone(world):
    adapted = add_lora(load_vlm(world.model, "cpu"), [1], dropout=0.5)
    set_dropout(adapted, True)
    training = [name for name, module in adapted.named_modules() if module.training]
    assert training
    assert all("lora_dropout" in name for name in training)
    set_dropout(adapted, False)
    assert not any(module.training for module in adapted.modules())


@pytest.mark.parametrize("layers", [[3], [0, 7], [-1], []])
def test_absent_layers_are_refused(world, layers):
    with pytest.raises(InputError, match="layer"):
        add_lora(load_vlm(world.model, "cpu"), layers)
