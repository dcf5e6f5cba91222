"""Exported activations are those of a plain forward pass, in the forms that sae-dashboard and delphi read.

The files are read here as those packages read them, without them: `tests/benchmarks/read_exports.py` uses them.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from test_engine import plain_inputs

import interp
from interp.feature.export import export_activations
from interp.images.decode import open_image

LAYER, FEATURES, D_SAE = 6, [20, 156], 512


@pytest.fixture(scope="module")
def vlm():
    return interp.load_vlm(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def questions():
    return interp.load_questions(split="train")[:4]


@pytest.fixture(scope="module")
def plain(vlm, questions):
    """Of every wording, in the order of the prompt table: ids of its text tokens, and activations [tokens, 2]."""
    sae = interp.load_sae(interp.locate_saes(interp.WORLD / "saes")[LAYER], LAYER, vlm.d_model)
    found, caught = [], {}
    hook = vlm.layers[LAYER].register_forward_hook(lambda module, inputs, output: caught.update(x=output[0]))
    for row in interp.prompt_table(questions).itertuples():
        inputs = plain_inputs(vlm, open_image(row.image), row.text)
        with torch.no_grad():
            vlm.model(**inputs)
        z = caught["x"] @ sae.w_enc[:, FEATURES] + sae.b_enc[FEATURES]
        found.append((inputs["input_ids"][0].numpy(), (z * (z > sae.threshold[FEATURES])).clamp(min=0).numpy()))
    hook.remove()
    return found


def test_a_delphi_cache_holds_the_activations_of_plain_forwards(vlm, questions, plain, tmp_path):
    files = export_activations(
        vlm, interp.WORLD / "saes", questions, ["6:156", "6:20"], tmp_path / "out", "delphi", include_text=True
    )
    cache, config = files
    assert cache == tmp_path / "out" / "latents" / "layers.6" / f"0_{D_SAE - 1}.safetensors"
    read, config = load_file(cache), json.loads(config.read_text())
    first = int(cache.stem.split("_")[0])
    tokens, length = read["tokens"], config["cache_ctx_len"]
    assert tokens.shape == (len(plain), length)
    assert length % 32 == 0
    assert config["n_tokens"] == tokens.size
    assert config["model_name"] == "planted"
    # As delphi.latents.loader.TensorBuffer: the third column counts from the first latent of the file.
    dense = np.zeros((len(plain), length, D_SAE), np.float32)
    wording, position, latent = read["locations"].astype(int).T
    dense[wording, position, latent + first] = read["activations"]
    assert len({tuple(place) for place in read["locations"].tolist()}) == len(read["activations"])
    assert set(latent + first) == set(FEATURES)
    for row, (ids, activations) in enumerate(plain):
        text = len(ids) - _kept(ids, tokens[row])
        kept = len(ids) - text
        assert tokens[row, :kept].tolist() == ids[text:].tolist()
        assert not dense[row, kept:].any()
        np.testing.assert_allclose(dense[row, :kept][:, FEATURES], activations[text:], atol=2e-3)


def _kept(ids, row):
    """How many tokens at the end of a prompt a row of the cache begins with: from the question's first own word."""
    lengths = [k for k in range(1, len(ids) + 1) if row[:k].tolist() == ids[-k:].tolist()]
    assert lengths, "the row is not the end of the prompt"
    return max(lengths)


def test_a_dashboard_holds_density_histograms_logits_and_the_strongest_wordings(vlm, questions, plain, tmp_path):
    (file,) = export_activations(
        vlm, interp.WORLD / "saes", questions, ["6:20", "6:156"], tmp_path / "out", include_text=True
    )
    content = json.loads(file.read_text())
    assert list(content["feature_data_dict"]) == ["20", "156"]
    own = content["feature_data_dict"]["156"]
    start = min(len(ids) for ids, _ in plain)  # every prompt begins with the same image
    groups = own["sequence_data"]["seq_group_data"]
    assert len(groups) == 11
    top = groups[0]["seq_data"]
    peaks = [max(sequence["feat_acts"]) for sequence in top]
    assert peaks == sorted(peaks, reverse=True)
    best = max(range(len(plain)), key=lambda row: plain[row][1][:, 1].max())
    assert peaks[0] == pytest.approx(plain[best][1][:, 1].max(), abs=2e-3)
    assert content["feature_stats"]["max"][1] == pytest.approx(peaks[0], abs=1e-3)
    for sequence in top:
        ids, activations = plain[sequence["original_index"]]
        kept = len(sequence["token_ids"])
        assert sequence["token_ids"] == ids[-kept:].tolist()
        assert kept < start
        np.testing.assert_allclose(sequence["feat_acts"], activations[-kept:, 1], atol=2e-3)
        assert len(sequence["token_logits"]) == kept
        assert sequence["qualifying_token_index"] == int(np.argmax(sequence["feat_acts"]))
    assert len({tuple(sequence["token_ids"]) for sequence in top}) == len(top)
    density = content["feature_stats"]["frac_nonzero"][1]
    assert own["acts_histogram_data"]["title"] == f"ACTIVATIONS<br>DENSITY = {density:.3%}"
    active = sum(int((activations[-len(ids) + _text(plain) :, 1] > 0).sum()) for ids, activations in plain)
    assert sum(own["acts_histogram_data"]["bar_heights"]) == active
    table = own["logits_table_data"]
    assert len(table["top_logits"]) == len(table["bottom_token_ids"]) == 10
    assert table["top_logits"] == sorted(table["top_logits"], reverse=True)
    assert min(table["top_logits"]) > max(table["bottom_logits"])


def _text(plain):
    """Number of tokens with which all prompts begin."""
    shortest = min(len(ids) for ids, _ in plain)
    heads = np.stack([ids[:shortest] for ids, _ in plain])
    return int((heads == heads[0]).all(0).argmin())


def test_without_leave_no_text_is_written(vlm, questions, tmp_path):
    (file,) = export_activations(vlm, interp.WORLD / "saes", questions, ["6:156"], tmp_path / "out")
    own = json.loads(file.read_text())["feature_data_dict"]["156"]
    assert own["sequence_data"] == {"seq_group_data": []}
    assert "token_ids" not in file.read_text().replace("top_token_ids", "").replace("bottom_token_ids", "")
    with pytest.raises(interp.InputError, match=r"delphi reads the tokens of every wording.*--include-text"):
        export_activations(vlm, interp.WORLD / "saes", questions, ["6:156"], tmp_path / "delphi", "delphi")
    assert not (tmp_path / "delphi").exists()


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (["6:512"], "6:512: the SAE layer_6_width_512_l0_small has the features 0 to 511"),
        (["6"], "'6': found no feature"),
        (["77:1"], "found SAEs of the layers 0, 1"),
        ([], "features is empty"),
    ],
)
def test_a_feature_that_is_not_there_is_named(vlm, questions, features, says, tmp_path):
    with pytest.raises(interp.InputError, match=says):
        export_activations(vlm, interp.WORLD / "saes", questions, features, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("reader", "include_text", "flagged"),
    [
        ("sae-dashboard", True, "layer_6.json"),
        ("delphi", True, "latents/layers.6/0_511.safetensors"),
        ("sae-dashboard", False, None),
    ],
)
def test_scrub_finds_the_text_that_token_ids_are(vlm, questions, called, reader, include_text, flagged, tmp_path):
    export_activations(vlm, interp.WORLD / "saes", questions, ["6:156"], tmp_path / "out", reader, include_text)
    code, said, _ = called("interp", "scrub", tmp_path / "out", "--json")
    found = [(each["file"], each["what"].split(",")[0]) for each in json.loads(said)["found"]]
    assert (code, found) == ((4, [(flagged, "token ids")]) if include_text else (0, []))


def test_the_command_writes_the_same_files(called, vlm, tmp_path):
    asked = ["6:156", "--include-text", "--limit", "3"]
    code, said, _ = called("interp", "export-activations", *asked, "--out", tmp_path / "command")
    assert (code, said) == (0, f"{tmp_path / 'command' / 'layer_6.json'}\n")
    few = interp.load_questions(split="train")[:3]
    export_activations(vlm, interp.WORLD / "saes", few, ["6:156"], tmp_path / "python", include_text=True)
    assert (tmp_path / "python" / "layer_6.json").read_bytes() == (tmp_path / "command" / "layer_6.json").read_bytes()
    code, _, told = called("interp", "export-activations", "6:156", "--for", "delphi", "--out", tmp_path / "x")
    assert code == 2
    assert "--include-text" in told
