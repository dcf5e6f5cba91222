import numpy as np
import pytest
import torch

from finetune.training.loss import blank_loss, grounding_losses, question_losses, swap_loss, symmetric_divergence


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.fixture
def logits():
    rng = np.random.default_rng(1)
    return rng.normal(size=(4, 7)) * 3, rng.normal(size=(2, 7)) * 3


def test_losses_equal_a_hand_computation(logits):
    original, paraphrase = logits
    targets, paired = [3, 0, 6, 2], [2, 0]
    found = question_losses(
        torch.tensor(original), torch.tensor(paraphrase), torch.tensor(paired), torch.tensor(targets)
    )
    for i in range(4):
        p = softmax(original[i])
        ce, kl = -np.log(p[targets[i]]), 0.0
        if i in paired:
            q = softmax(paraphrase[paired.index(i)])
            ce = (ce - np.log(q[targets[i]])) / 2
            kl = 0.5 * (np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p)))
        assert float(found.cross_entropy[i]) == pytest.approx(ce, rel=1e-5)
        assert float(found.divergence[i]) == pytest.approx(kl, rel=1e-5, abs=1e-7)


def test_divergence_is_symmetric_and_zero_for_equal_distributions(logits):
    a, b = (torch.tensor(x[:2]) for x in logits)
    assert torch.allclose(symmetric_divergence(a, b), symmetric_divergence(b, a))
    assert torch.allclose(symmetric_divergence(a, a + 5.0), torch.zeros(2), atol=1e-6)


def test_bfloat16_logits_are_reduced_in_float32(logits):
    original, paraphrase = (torch.tensor(x).bfloat16() for x in logits)
    arguments = torch.tensor([0, 1]), torch.tensor([3, 0, 6, 2])
    low, high = (
        question_losses(o, p, *arguments) for o, p in ((original, paraphrase), (original.double(), paraphrase.double()))
    )
    assert low.cross_entropy.dtype == low.divergence.dtype == torch.float32
    assert torch.equal(low.cross_entropy, high.cross_entropy)
    assert torch.equal(low.divergence, high.divergence)


def test_no_paraphrases_at_all(logits):
    original = torch.tensor(logits[0])
    found = question_losses(original, original[:0], torch.zeros(0, dtype=torch.long), torch.tensor([3, 0, 6, 2]))
    assert torch.isfinite(found.cross_entropy).all()
    assert found.divergence.tolist() == [0, 0, 0, 0]
    assert found.grounding.tolist() == [0, 0, 0, 0]


def test_blank_loss_by_hand():
    # Odds of 3 to 1: -(log(3/4) + log(1/4)) / 2 - log 2 = log(2 / sqrt 3).
    found = blank_loss(torch.tensor([0.0, np.log(3), -np.log(3), 80.0]))
    assert found.tolist() == pytest.approx(
        [0, np.log(2 / np.sqrt(3)), np.log(2 / np.sqrt(3)), 40 - np.log(2)], rel=1e-6, abs=1e-7
    )


def test_swap_loss_by_hand():
    own = torch.tensor([3.0, 3.0, -3.0, -3.0, 1.0], requires_grad=True)
    swapped = torch.tensor([-1.0, 4.0, -4.0, 2.0, 0.0])
    found = swap_loss(own, swapped, torch.tensor([True, True, False, False, True]))
    assert found.tolist() == [0.0, 3.0, 3.0, 0.0, 1.0]
    found.sum().backward()
    assert own.grad.tolist() == [0.0, -1.0, 1.0, 0.0, -1.0], "towards the truth, and no further than asked"


def test_the_grounding_term_is_a_mean_over_wordings_and_zero_elsewhere():
    own, other = torch.tensor([1.0, 1.0, 0.0, 5.0]), torch.tensor([1.0, 2.0, np.log(3), 0.0])
    yes, blank = torch.tensor([True, True, False, True]), torch.tensor([False, False, True, False])
    found = grounding_losses(own, other, yes, blank, torch.tensor([3, 3, 1, 0]), 5)
    assert found.tolist() == pytest.approx([0, np.log(2 / np.sqrt(3)), 0, (2 + 3) / 2, 0])
    assert found.dtype == torch.float32
    low = grounding_losses(own.bfloat16(), other.bfloat16(), yes, blank, torch.tensor([3, 3, 1, 0]), 5)
    assert low.dtype == torch.float32
