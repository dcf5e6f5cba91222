"""Where a model goes is chosen in one way, whichever engine loads it."""

import json

import pytest
import torch

from finetune.evaluation.plain_engine import load_plain_engine
from interp.model import placement
from interp.model.load import load_vlm
from interp.model.placement import place_model
from interp.model.spec import ModelSpec
from interp.runtime.errors import InputError


def packed(folder, **given):
    return load_vlm(folder, **given)


def plain(folder, **given):
    return load_plain_engine(folder, ModelSpec(**given), 4)


@pytest.mark.parametrize("load", [packed, plain])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"device": "nowhere"}, "--device nowhere: not usable here, expected auto, cpu, cuda"),
        ({"device": "meta"}, "--device meta: not usable here, expected auto, cpu, cuda"),
        ({"device": "cpu", "max_memory": float("inf")}, "max_memory is inf, expected a number of GiB above 0"),
        ({"device": "cpu", "max_memory": 1e308}, "max_memory is 1e+308, expected a number of GiB above 0"),
        ({"device": "cpu", "dtype": "int8"}, "--dtype int8: expected auto, float32, bfloat16, float16"),
        ({"device": "cpu", "load_in": "3bit"}, "load_in is '3bit', expected one of 4bit, 8bit, or None"),
        ({"device": "cpu", "max_memory": -1.0}, "max_memory is -1.0, expected a number of GiB above 0"),
        ({"device": "cpu", "max_memory": 0.001}, "raise --max-memory to 0.1, use a machine with more memory"),
    ],
)
def test_both_engines_refuse_the_same(tiny_model, load, given, says):
    with pytest.raises(InputError) as refused:
        load(tiny_model, **given)
    assert says in str(refused.value)


@pytest.mark.parametrize("load", [packed, plain])
def test_weights_are_not_quantized_twice(tiny_model, tmp_path, load, monkeypatch):
    for file in tiny_model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    quantized = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(config | quantized))
    monkeypatch.setattr("interp.model.quantization.find_spec", lambda name: name)
    with pytest.raises(InputError, match=r"the weights are quantized already \(.*\)\. Leave --load-in out\."):
        load(tmp_path, device="cpu", load_in="8bit")


def test_a_limit_holds_on_every_gpu_of_a_split_model(monkeypatch, tmp_path):
    limited = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(placement, "limit_memory", lambda device, size: limited.append((str(device), size)))
    placed = place_model(tmp_path, "split", "float32", None, 12.0, None, lambda folder: {"": folder.name})
    assert limited == [("cuda:0", 12.0), ("cuda:1", 12.0)]
    assert placed.options == {"dtype": torch.float32, "device_map": {"": tmp_path.name}}
    model = torch.nn.Linear(2, 2)
    assert placed.settle(model) is model
    assert not any(weight.requires_grad for weight in model.parameters())
