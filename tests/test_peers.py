"""SAE activations against those of sae-lens; `test_bridge.py` compares with TransformerLens."""

import pytest
import torch

from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae


@pytest.fixture(scope="module")
def vlm():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def prompts():
    return prompt_table(load_questions(WORLD / "questions.jsonl", split="test")[:8])


@pytest.fixture(scope="module")
def residuals(vlm, prompts):
    return measure(vlm, prompts, range(vlm.n_layers)).residuals


@pytest.mark.parametrize("layer", [0, 4, 5, 9])
def test_activations_equal_those_of_sae_lens(layer, vlm, residuals):
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    ours = load_sae(locate_saes(WORLD / "saes")[layer], layer, vlm.d_model)
    theirs = JumpReLUSAE(JumpReLUSAEConfig(d_in=vlm.d_model, d_sae=ours.d_sae, apply_b_dec_to_input=False))
    theirs.load_state_dict(
        {
            "W_enc": ours.w_enc,
            "W_dec": ours.w_dec,
            "b_enc": ours.b_enc,
            "b_dec": ours.b_dec,
            "threshold": ours.threshold,
        }
    )
    x = residuals[:, layer]
    with torch.no_grad():
        expected = theirs.encode(x)
        torch.testing.assert_close(ours.encode(x), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.decode(expected), theirs.decode(expected), atol=1e-4, rtol=0)
    assert 5 < (expected > 0).sum(1).float().mean() < 64
