"""SAE folders: reading, writing, and refusing those that do not fit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.paths import WORLD
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.reconstruction import fit
from interp.saes.sae import Sae, load_sae, save_sae


def random_sae(layer=2, d_model=6, d_sae=10, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Sae(
        layer=layer,
        id=f"layer_{layer}_width_16k_l0_small",
        w_enc=torch.randn(d_model, d_sae, generator=g),
        b_enc=torch.randn(d_sae, generator=g),
        w_dec=torch.randn(d_sae, d_model, generator=g),
        b_dec=torch.randn(d_model, generator=g),
        threshold=torch.rand(d_sae, generator=g),
    )


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "resid_post_all" / "layer_2_width_16k_l0_small"
    save_sae(random_sae(), path, "random", torch.float32)
    return path


def rewrite(folder, **changes):
    tensors = load_file(folder / "params.safetensors") | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "params.safetensors")


def test_a_saved_sae_comes_back(folder):
    found = locate_saes(folder.parent.parent)
    assert found == {2: folder}
    again = load_sae(found[2], 2, 6)
    for name, tensor in random_sae()._asdict().items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(getattr(again, name), tensor)


def test_jump_relu_by_hand():
    sae = random_sae()._replace(
        w_enc=torch.eye(3),
        b_enc=torch.tensor([0.0, 0.5, 0.0]),
        w_dec=torch.eye(3),
        b_dec=torch.ones(3),
        threshold=torch.tensor([1.0, 1.0, 0.0]),
    )
    x = torch.tensor([[0.9, 0.6, -2.0], [1.0, 0.5, 3.0]])
    assert sae.encode(x).tolist() == [[0.0, pytest.approx(1.1), 0.0], [0.0, 0.0, 3.0]]
    assert sae.decode(torch.tensor([[0.0, 1.0, 2.0]])).tolist() == [[1.0, 2.0, 3.0]]


def test_fit_by_hand():
    sae = random_sae()._replace(
        w_enc=torch.eye(2), b_enc=torch.zeros(2), w_dec=torch.eye(2), b_dec=torch.zeros(2), threshold=torch.zeros(2)
    )
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, -3.0]])
    # Only -3 is lost, so the error is 9; variance about the mean (2, -1): 1 + 1 + 1 + 1 + 0 + 4 = 8.
    quality = fit(sae, x)
    assert quality.fvu == pytest.approx(9 / 8)
    assert quality.l0 == pytest.approx(1.0)
    assert quality.dead == pytest.approx(0.5)


def test_the_shipped_saes_are_gemma_scope_folders():
    found = locate_saes(WORLD / "saes")
    assert sorted(found) == list(range(10))
    for layer, path in found.items():
        assert path.parent.name == "resid_post_all"
        assert json.loads((path / "config.json").read_text())["hf_hook_point_in"] == f"model.layers.{layer}.output"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"threshold": None}, "missing ['threshold']"),
        ({"w_dec": torch.zeros(10, 5)}, "w_dec has shape [10, 5], expected [10, 6]"),
        ({"b_enc": torch.full((10,), float("nan"))}, "b_enc holds NaN"),
        ({"w_enc": torch.zeros(7, 10)}, "made for a residual stream of width 7, but the model's width is 6"),
    ],
)
def test_a_wrong_tensor_is_named(folder, changes, expected):
    rewrite(folder, **changes)
    with pytest.raises(InputError) as error:
        load_sae(folder, 2, 6)
    assert expected in str(error.value)
    assert str(folder) in str(error.value)


def test_other_files_are_refused(folder):
    with pytest.raises(InputError, match=r"model.layers.2.output"):
        load_sae(folder, 3, 6)
    (folder / "params.safetensors").write_bytes(b"\x80\x04cut short")
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_sae(folder, 2, 6)
    (folder / "params.safetensors").rename(folder / "params.pt")
    with pytest.raises(InputError, match="pickle files are refused"):
        load_sae(folder, 2, 6)


def test_two_saes_of_one_layer_are_refused(folder):
    save_sae(random_sae(seed=1), folder.parent / "layer_2_width_65k_l0_small", "random")
    with pytest.raises(InputError, match="layer 2 has two SAEs"):
        locate_saes(folder.parent)


def test_a_folder_without_saes_is_refused(tmp_path):
    with pytest.raises(InputError, match="no layer_"):
        locate_saes(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        locate_saes(tmp_path / "nowhere")
