"""Models quantized to 4 and 8 bits give the numbers of plain transformers and peft on the same quantized weights.

Most tests need the extra `quantized` (bitsandbytes), which also runs on a CPU.
"""

import json
from importlib.util import find_spec

import pytest
import torch
from finetune_world import awaken, items_of, losses_of, make_world, plain_logits, plain_margin

from finetune.lora.modules import add_lora
from interp.measurement.margins import measure
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.load import load_vlm
from interp.model.quantization import quantization_config
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.storage.checksums import weights_fingerprint

installed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra `quantized`")
both = pytest.mark.parametrize("load_in", ["4bit", "8bit"])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    # Blocks of 64 weights need a model as wide.
    return make_world(tmp_path_factory.mktemp("quantized") / "world", patients=4, width=128)


@pytest.fixture(scope="module")
def questions(world):
    return [q for q in load_questions(world.questions) if q.closed and q.paraphrases]


def dequantized(world, load_in):
    """The model in float32 with weights that were quantized and turned back, so that plain linear layers hold them."""
    import bitsandbytes

    quantized, plain = load_vlm(world.model, "cpu", "float32", load_in=load_in), load_vlm(world.model, "cpu", "float32")
    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    turned = {name: module for name, module in quantized.model.named_modules() if isinstance(module, kinds)}
    assert len(turned) == 7 * plain.n_layers
    for name, module in turned.items():
        weight = module.weight
        if load_in == "4bit":
            values = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        else:
            values = weight.data.float() * weight.SCB[:, None] / 127
        plain.model.get_submodule(name).weight.data.copy_(values)
    return quantized, plain


def test_without_the_library_it_says_what_to_install(world, monkeypatch):
    monkeypatch.setattr("interp.model.quantization.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--load-in 4bit: bitsandbytes is not installed.*pip install bitsandbytes"):
        load_vlm(world.model, "cpu", load_in="4bit")


def test_other_quantizations_are_refused(tmp_path, world):
    for path in world.model.iterdir():
        if path.name != "config.json":
            (tmp_path / path.name).symlink_to(path)
    config = json.loads((world.model / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="quantized by gptq, expected bitsandbytes or none"):
        load_vlm(tmp_path, "cpu")


@installed
@both
def test_margins_equal_those_of_plain_transformers(world, questions, load_in, caplog):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    vlm = load_vlm(world.model, "cpu", "float32", load_in=load_in)
    assert vlm.load_in == load_in
    assert vlm.model.get_memory_footprint() == pytest.approx(vlm.shape.weight_bytes("float32", load_in), rel=0.005)
    prompts = prompt_table(questions)
    found = measure(vlm, prompts).margin
    plain = AutoModelForImageTextToText.from_pretrained(
        world.model,
        dtype=torch.float32,
        quantization_config=quantization_config(load_in, torch.float32),
        device_map={"": "cpu"},
    ).eval()
    for module in plain.modules():
        module.support_avx512bf16_for_cpu = False
    processor = AutoProcessor.from_pretrained(world.model)
    for row in range(0, len(prompts), 5):
        with torch.no_grad():
            logits = plain_logits(plain, processor, prompts["image"][row], prompts["text"][row])
        assert float(found[row]) == pytest.approx(plain_margin(logits, processor.tokenizer), abs=1e-4)
    # bitsandbytes would otherwise log a line for every product.
    assert "MatMul8bitLt" not in caplog.text
    unquantized = measure(load_vlm(world.model, "cpu", "float32"), prompts).margin
    assert 0.001 < float((found - unquantized).abs().max()) < 1


@installed
@both
def test_gradients_and_patches_are_those_of_the_quantized_weights(world, questions, load_in):
    quantized, plain = dequantized(world, load_in)
    prompts = prompt_table(questions)
    delta = torch.randn(len(prompts), 3, quantized.d_model, generator=torch.Generator().manual_seed(0))
    found = []
    for vlm in (quantized, plain):
        rerun = SuffixRerun(vlm, prompts)
        # Forward first: bitsandbytes may change the layout of its weights in a pass without gradients.
        found.append((rerun.margins([0, 1, 2], delta), rerun.gradients([0, 1, 2], delta)))
    (margins, gradients), (expected_margins, expected_gradients) = found
    close = {"4bit": 1e-4, "8bit": 0.1}[load_in]
    torch.testing.assert_close(margins, expected_margins, atol=close, rtol=0)
    alike = torch.nn.functional.cosine_similarity(gradients.flatten(1), expected_gradients.flatten(1))
    assert float(alike.min()) > {"4bit": 0.99999, "8bit": 0.99}[load_in]


@installed
@both
def test_the_gradient_of_an_adapter_is_that_on_the_quantized_weights(world, questions, load_in):
    found = []
    for vlm in dequantized(world, load_in):
        measure(vlm, prompt_table(questions))
        adapted = add_lora(vlm, [1, 2], rank=4, alpha=8, dropout=0.0)
        awaken(adapted)
        losses = losses_of(vlm, adapted, items_of(questions))
        sum(part.sum() for part in losses).backward()
        trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
        assert len(trained) == 2 * 7 * 2
        assert {p.dtype for p in trained.values()} == {torch.float32}
        found.append(torch.cat([p.grad.flatten() for p in trained.values()]))
    alike = torch.nn.functional.cosine_similarity(*found, dim=0)
    assert float(alike) > {"4bit": 0.99999, "8bit": 0.99}[load_in]


@installed
@both
def test_a_folder_that_was_saved_quantized_loads_as_it_is(world, questions, load_in, tmp_path):
    vlm = load_vlm(world.model, "cpu", "float32", load_in=load_in)
    prompts = prompt_table(questions)
    expected = measure(vlm, prompts).margin
    vlm.model.save_pretrained(tmp_path / "saved")
    vlm.processor.save_pretrained(tmp_path / "saved")
    again = load_vlm(tmp_path / "saved", "cpu", "float32")
    assert again.load_in == load_in
    assert weights_fingerprint(again.model) == weights_fingerprint(vlm.model)
    assert torch.equal(measure(again, prompts).margin, expected)
    with pytest.raises(InputError, match="quantized already"):
        load_vlm(tmp_path / "saved", "cpu", load_in="4bit")


@installed
def test_an_adapter_on_a_quantized_base_says_so(world, called, tmp_path):
    given = ["--model", world.model, "--questions", world.questions, "--device", "cpu"]
    out = tmp_path / "adapter"
    settings = ["--layers", "1-2", "--rank", "2", "--epochs", "1", "--out", out, "--load-in", "4bit"]
    code, _, err = called("finetune", *given, *settings)
    assert code == 0, err
    assert json.loads((out / "gatescope.json").read_text())["model"]["load_in"] == "4bit"
    code, shown, err = called("finetune", "evaluate", out, *given, "--json")
    assert code == 0, err
    assert "weights quantized to 4bit, but is evaluated on one with unquantized weights" in shown
    code, shown, err = called("finetune", "evaluate", out, *given, "--load-in", "4bit", "--json")
    assert code == 0, err
    assert "quantized" not in json.dumps(json.loads(shown).get("warnings", ""))
    code, shown, err = called("finetune", "verify", out, *given[:4], "--device", "cpu")
    assert code == 0, shown + err
