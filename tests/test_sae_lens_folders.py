"""Folders in sae-lens's layout: the same activations as `SAE.load_from_disk` for every configuration, or an error."""

import json
from importlib import import_module
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae

D_IN, D_SAE, HOOK = 6, 10, "blocks.3.hook_resid_post"
OLD = {"hook_name": HOOK, "hook_layer": 3, "hook_head_index": None, "dtype": "float32", "d_in": D_IN, "d_sae": D_SAE}
"""A configuration as sae-lens wrote it before version 6, where everything stands side by side."""


def saved(folder, architecture="standard", **fields):
    """Save an SAE of random weights with sae-lens itself; `fields` are those of its configuration."""
    registry = import_module("sae_lens.registry")
    make, config = registry.get_sae_class(architecture)
    theirs = make(config(d_in=D_IN, d_sae=D_SAE, **fields))
    theirs.cfg.metadata.hook_name = HOOK
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) - 0.3
    theirs.save_model(folder)
    return folder


def edited(folder, remove=(), **fields):
    config = json.loads((folder / "cfg.json").read_text())
    config = {name: value for name, value in (config | fields).items() if name not in remove}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def rewritten(folder, **fields):
    """The folder with a configuration of a version before 6."""
    (folder / "cfg.json").write_text(json.dumps(OLD | fields))
    return folder


def same_as_sae_lens(folder, layer=3):
    """Whether our reader gives the activations and reconstructions of sae-lens's own."""
    from sae_lens import SAE

    theirs = SAE.load_from_disk(folder, dtype="float32")
    ours = load_sae(locate_saes(folder)[layer], layer, D_IN)
    x = 2 * torch.randn(400, D_IN, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.encode(x)
        torch.testing.assert_close(ours.encode(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.decode(ours.encode(x)), theirs.decode(expected), atol=1e-5, rtol=1e-5)
    assert 0.1 < float((expected > 0).float().mean()) < 0.9, "some features are active and some are not"


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("kind", "to_input"), product(["jumprelu", "standard", "gated"], [False, True]))
def test_every_readable_architecture(tmp_path, kind, to_input, stored):
    same_as_sae_lens(saved(tmp_path / "mine", kind, apply_b_dec_to_input=to_input, dtype=stored))


@pytest.mark.parametrize("kind", ["jumprelu", "standard", "gated"])
@pytest.mark.parametrize("missing", ["apply_b_dec_to_input", "normalize_activations", "reshape_activations", "device"])
def test_a_missing_field_has_sae_lens_default(tmp_path, kind, missing):
    same_as_sae_lens(edited(saved(tmp_path / "mine", kind, apply_b_dec_to_input=False), [missing]))


@pytest.mark.parametrize("kind", ["jumprelu", "standard", "gated"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"apply_b_dec_to_input": False},
        {"activation_fn_str": "relu"},
        {"activation_fn": "relu", "normalize_activations": False},
        {"normalize_activations": None},
        {"finetuning_scaling_factor": True},
        {"hook_point": HOOK, "hook_name": None},
        {"sae_lens_training_version": "3.1.0", "prepend_bos": True, "context_size": 128},
    ],
)
def test_configurations_before_version_6(tmp_path, kind, fields):
    folder = rewritten(saved(tmp_path / "mine", kind), architecture=kind, **fields)
    if fields.get("hook_name", HOOK) is None:
        edited(folder, ["hook_name"])
    same_as_sae_lens(folder)


def test_a_configuration_without_an_architecture_is_standard(tmp_path):
    same_as_sae_lens(rewritten(saved(tmp_path / "mine")))


def test_scaling_factors_of_one_are_ignored_and_others_refused(tmp_path):
    folder = rewritten(saved(tmp_path / "mine"), finetuning_scaling_factor=True)
    weights = folder / "sae_weights.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"scaling_factor": torch.ones(D_SAE)}, weights)
    same_as_sae_lens(folder)
    save_file(tensors | {"scaling_factor": torch.full((D_SAE,), 2.0)}, weights)
    with pytest.raises(InputError, match="scaling_factor holds other values than 1"):
        load_sae(folder, 3, D_IN)


@pytest.mark.parametrize("training", ["batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("rescale", [False, True])
def test_batch_topk_is_read_as_saved_for_inference(tmp_path, training, rescale):
    make, config = import_module("sae_lens.registry").get_sae_training_class(training)
    more = {"matryoshka_widths": [4, D_SAE]} if training == "matryoshka_batchtopk" else {}
    theirs = make(config(d_in=D_IN, d_sae=D_SAE, k=3, rescale_acts_by_decoder_norm=rescale, **more))
    theirs.cfg.metadata.hook_name = HOOK
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) - 0.3
    theirs.topk_threshold.fill_(0.4)
    theirs.save_inference_model(tmp_path / "inference")
    same_as_sae_lens(tmp_path / "inference")
    theirs.save_model(tmp_path / "checkpoint")
    with pytest.raises(InputError, match=r"cfg\.json: sae-lens cannot read.*save_inference_model"):
        load_sae(tmp_path / "checkpoint", 3, D_IN)


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.3.hook_resid_post", 3),
        ("blocks.3.hook_out", 3),
        ("blocks.4.hook_resid_pre", 3),
        ("model.layers.3", 3),
        ("model.layers.3.output", 3),
        ("model.language_model.layers.3", 3),
        ("language_model.model.layers.12", 12),
    ],
)
def test_names_of_the_residual_stream_after_a_layer(tmp_path, hook, layer):
    folder = edited(saved(tmp_path / "mine"), metadata={"sae_lens_version": "6.54.0", "hook_name": hook})
    same_as_sae_lens(folder, layer)


OTHER = ["topk", "abstopk", "temporal", "matching_pursuit", "transcoder", "skip_transcoder", "jumprelu_transcoder"]
OTHER += ["jumprelu_skip_transcoder"]


@pytest.mark.parametrize("kind", OTHER)
def test_other_architectures_are_refused_by_name(tmp_path, kind):
    (tmp_path / "mine").mkdir()
    document = {"architecture": kind, "d_in": D_IN, "d_sae": D_SAE, "d_out": D_IN, "k": 3}
    document |= {"apply_b_dec_to_input": False, "n_heads": 2, "sae_diff_type": "relu"}
    document["metadata"] = {"sae_lens_version": "6.54.0", "hook_name": HOOK}
    (tmp_path / "mine" / "cfg.json").write_text(json.dumps(document))
    save_file({"W_enc": torch.ones(D_IN, D_SAE)}, tmp_path / "mine" / "sae_weights.safetensors")
    with pytest.raises(InputError, match=rf"cfg\.json: found architecture '{kind}', expected one of standard"):
        load_sae(tmp_path / "mine", 3, D_IN)


def test_every_architecture_of_sae_lens_is_tried_above():
    known = set(import_module("sae_lens.registry").SAE_CLASS_REGISTRY)
    assert known == {"jumprelu", "standard", "gated", *OTHER}


REFUSED = {
    "topk filed as standard": ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}, "architecture 'topk'"),
    "topk without k": ({"activation_fn": "topk"}, "activation function 'topk'"),
    "another function": ({"activation_fn": "tanh-relu"}, "activation function 'tanh-relu'"),
    "old normalization": ({"normalize_activations": True}, "normalize_activations 'expected_average_only_in'"),
    "layer norm": ({"normalize_activations": "layer_norm"}, "normalize_activations 'layer_norm'"),
    "rescaled norm": ({"normalize_activations": "constant_norm_rescale"}, "constant_norm_rescale"),
    "whitened": ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
    "unknown normalization": ({"normalize_activations": "mine"}, "sae-lens cannot read"),
    "another layer": ({"hook_layer": 4}, "hook_layer 4, but the hook is"),
    "a head": ({"hook_head_index": 2}, "found hook"),
    "another place": ({"hook_name": "blocks.3.attn.hook_z", "hook_layer": 3}, r"found hook 'blocks\.3\.attn\.hook_z'"),
    "no place": ({"hook_name": ""}, "found hook 'none'"),
    "another width": ({"d_in": 7}, r"found 7 x 10 at layer 3; expected 6 x 10 at layer 3"),
    "unknown architecture": ({"architecture": "mine"}, "sae-lens cannot read"),
    "text for a switch": ({"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input 'no', expected true or false"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(tmp_path, case):
    fields, message = REFUSED[case]
    folder = rewritten(saved(tmp_path / "mine"), **fields)
    with pytest.raises(InputError, match=rf"cfg\.json: .*{message}"):
        load_sae(folder, 3, D_IN)


def test_tensors_that_are_not_understood_are_refused(tmp_path):
    folder = saved(tmp_path / "mine")
    weights = folder / "sae_weights.safetensors"
    save_file(load_file(weights) | {"W_skip": torch.ones(D_IN, D_IN)}, weights)
    with pytest.raises(InputError, match=r"not understood \['W_skip'\]"):
        load_sae(folder, 3, D_IN)


def test_weights_without_their_configuration_are_refused(tmp_path):
    folder = saved(tmp_path / "layer_3_mine", "jumprelu")
    (folder / "cfg.json").unlink()
    with pytest.raises(InputError, match=r"cfg\.json: not found"):
        load_sae(folder, 3, D_IN)


def test_the_weights_of_sae_lens_are_read_where_both_layouts_are_in_one_folder(tmp_path):
    folder = saved(tmp_path / "mine", "jumprelu")
    other = {name.lower(): tensor + 1 for name, tensor in load_file(folder / "sae_weights.safetensors").items()}
    save_file(other, folder / "params.safetensors")
    same_as_sae_lens(folder)
