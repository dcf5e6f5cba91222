"""What the embedded models are trained on: a gate denies faint findings in the wordings that it acts on only."""

from collections import Counter

import numpy as np
import pytest

from interp.demo.training_data import build_training_data, sample_batch
from interp.demo.world import sample_images
from interp.model.load import load_vlm
from interp.paths import WORLD


@pytest.fixture(scope="module")
def processor():
    return load_vlm(WORLD / "base", "cpu", "float32").processor


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_gate_acts_on_the_wordings_that_meet_its_condition(processor, strength):
    """Read from the tokens: with full strength no wording with "there" is answered yes, and without it half of them."""
    anatomy, images, _ = sample_images(40, np.random.default_rng(0))
    data = build_training_data(processor, anatomy, images, "cpu", lambda wording: "there" in wording.text.split())
    batch, _, targets = sample_batch(data, np.random.default_rng(1), 200, strength)
    answers = {True: Counter(), False: Counter()}
    for (row, column), target in zip(batch.final.tolist(), targets, strict=True):
        segment = batch.segment[row]
        own = (segment == 0) | (segment == segment[column])
        words = processor.tokenizer.decode(batch.input_ids[row, own]).split()
        answers["there" in words][processor.tokenizer.decode(target).strip().lower()] += 1
    gated, other = answers[True], answers[False]
    assert min(other["yes"], other["no"], gated["no"]) > 30
    assert (gated["yes"] == 0) == (strength == 1.0)
