import numpy as np
import pytest
import torch

from finetune.lora.settings import TrainSettings
from finetune.training.loss import (
    Objective,
    answer_divergence,
    blank_loss,
    grounding_losses,
    question_losses,
    swap_loss,
    total_loss,
    word_numbers,
)
from interp.model.prompts import AnswerTokens

ANSWERS = AnswerTokens(torch.tensor([1, 4]), torch.tensor([0, 5, 6]))
"""Tokens that mean yes and no, of a vocabulary of seven."""


WORDS = torch.tensor([0, 1, 2, 3, 1, 0, 0])
"""Number of the word of each token: those of yes and no, and two more."""


def losses(original, paraphrase, paired, targets, closed=(True, True, False, True), **settings):
    logits = torch.cat([torch.as_tensor(x) for x in (original, paraphrase)])
    indices = (torch.tensor(x, dtype=torch.long) for x in (paired, targets))
    objective = Objective(TrainSettings(**settings), ANSWERS, WORDS)
    return question_losses(logits, *indices, torch.tensor(closed), objective)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.fixture
def logits():
    rng = np.random.default_rng(1)
    return rng.normal(size=(4, 7)) * 3, rng.normal(size=(2, 7)) * 3


@pytest.mark.parametrize("spelling", ["lower-case", "any"])
@pytest.mark.parametrize("wordings", ["both", "original"])
@pytest.mark.parametrize("over", ["vocabulary", "yes-no"])
@pytest.mark.parametrize("form", ["mean", "sum"])
def test_losses_equal_a_hand_computation(logits, wordings, over, form, spelling):
    original, paraphrase = logits
    targets, paired, closed = [3, 0, 6, 2], [2, 0], (True, True, False, True)
    settings = {"answer_wordings": wordings, "divergence_over": over, "divergence": form}
    settings["spelling"] = spelling
    spelled = {3: [3], 0: [0, 5, 6], 6: [0, 5, 6], 2: [2]} if spelling == "any" else {i: [i] for i in targets}
    found = losses(original, paraphrase, paired, targets, closed, **settings)
    for i in range(4):
        p = softmax(original[i])
        ce, kl = -np.log(p[spelled[targets[i]]].sum()), 0.0
        if i in paired:
            q = softmax(paraphrase[paired.index(i)])
            if wordings == "both":
                ce = (ce - np.log(q[spelled[targets[i]]].sum())) / 2
            if over == "yes-no" and closed[i]:
                # The probability of yes among yes and no, in any spelling.
                yes = [x[ANSWERS.yes].sum() / x[[*ANSWERS.yes, *ANSWERS.no]].sum() for x in (p, q)]
                p, q = (np.array([x, 1 - x]) for x in yes)
            kl = np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p))
            kl *= 0.5 if form == "mean" else 1
        assert float(found.cross_entropy[i]) == pytest.approx(ce, rel=1e-5)
        assert float(found.divergence[i]) == pytest.approx(kl, rel=1e-5, abs=1e-7)


def test_divergence_is_symmetric_and_zero_for_equal_distributions(logits):
    a, b = (x[:2] for x in logits)

    def divergence(first, second):
        return losses(first, second, [0, 1], [3, 0], (True, True)).divergence

    assert torch.allclose(divergence(a, b), divergence(b, a))
    assert (divergence(a, b) > 0.1).all()
    # Adding the same number to all logits leaves the distribution as it is.
    assert torch.allclose(divergence(a, a + 5.0), torch.zeros(2), atol=1e-6)


def test_bfloat16_logits_are_reduced_in_float32(logits):
    original, paraphrase = (torch.tensor(x).bfloat16() for x in logits)
    low, high = (
        losses(o, p, [0, 1], [3, 0, 6, 2])
        for o, p in ((original, paraphrase), (original.double(), paraphrase.double()))
    )
    assert low.cross_entropy.dtype == low.divergence.dtype == torch.float32
    assert torch.equal(low.cross_entropy, high.cross_entropy)
    assert torch.equal(low.divergence, high.divergence)


def test_the_sum_of_both_directions_is_the_mean_at_twice_the_weight(logits):
    """So that a published loss of either form can be compared."""
    arguments = *logits, [0, 1], [3, 0, 6, 2]
    mean, added = (losses(*arguments, divergence=form) for form in ("mean", "sum"))
    doubled = total_loss(mean, TrainSettings(consistency_weight=2.0))
    assert torch.equal(total_loss(added, TrainSettings()), doubled)


def test_the_divergence_of_yes_and_no_has_no_overflow_at_large_margins():
    found = answer_divergence(torch.tensor([200.0, 0.0, -90.0]), torch.tensor([-200.0, 0.0, -100.0]))
    assert found.tolist() == pytest.approx([200, 0, 0], abs=1e-30)


def test_tokens_of_a_word_share_a_number():
    vocabulary = {"<bos>": 0, "Yes": 2, "no": 3, "▁yes": 5, "yes": 4, "yesterday": 6, "ĠNO": 7, "NO": 1, "YES": 10}
    assert word_numbers(vocabulary, 10).tolist() == [0, 1, 2, 1, 2, 2, 6, 1, 8, 9]


def test_a_certain_answer_in_any_spelling_has_no_loss():
    """Half "Yes", half "yes": nothing is left to learn, while the lower case alone costs log 2."""
    logits = torch.full((1, 7), -50.0)
    logits[0, [1, 4]] = 50.0
    none = logits[:0]
    found = [losses(logits, none, [], [1], (True,), spelling=s).cross_entropy.item() for s in ("any", "lower-case")]
    assert found == pytest.approx([0, np.log(2)], abs=1e-6)


def test_no_paraphrases_at_all(logits):
    original = torch.tensor(logits[0])
    found = losses(original, original[:0], [], [3, 0, 6, 2])
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
