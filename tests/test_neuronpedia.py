"""Features on Neuronpedia: their pages and lists."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from layers_files import layers_document
from typer.testing import CliRunner

from interp.cli.app import app
from interp.paths import WORLD
from interp.runtime.errors import InputError
from interp.saes.neuronpedia import feature_list, neuronpedia_address
from interp.schemas.layers import Layers

RELEASE = "gemma-scope-2-4b-it-res"
PAGE = "https://www.neuronpedia.org/gemma-3-4b-it/17-gemmascope-2-res-16k/3818"


def search(**changes):
    """A search on MedGemma with two features: one of an SAE on Neuronpedia and one of an SAE that it lacks."""
    content = layers_document("google/medgemma-4b-it", 34, 2560)
    numbers = ("flip_auc", "flip_p", "delta_on_flips", "delta_otherwise", "margin_r", "density", "mean_activation")
    blank = dict.fromkeys([*numbers, "register_auc"], None)
    some = {"value": 0.448, "low": 0.401, "high": 0.495}
    tested = {"n": 3, "recovery": some, "random": 0.01, "matched": None, "swapped": None, "net": some, "p": 0.01}
    tested |= {"p_random": 0.1, "reversals": 1, "random_reversals": 0.0, "unflipped_changed": 0.0, "dose": [0.1] * 4}
    content["saes"] = {"17": "layer_17_width_16k_l0_medium", "18": "layer_18_width_16k_l0_small"}
    content["features"] = [
        blank | {"layer": 17, "feature": 3818, "held_out_auc": 0.8, "causal": tested},
        blank | {"layer": 18, "feature": 5, "held_out_auc": None},
    ]
    return content | changes


def test_a_page_on_neuronpedia():
    assert neuronpedia_address(RELEASE, "layer_17_width_16k_l0_medium", 3818) == PAGE
    assert neuronpedia_address(RELEASE, "layer_17_width_16k_l0_big", 3818) is None
    assert neuronpedia_address(str(WORLD / "saes"), "layer_17_width_16k_l0_medium", 1) is None
    assert neuronpedia_address("", "layer_17_width_16k_l0_medium", 1) is None


def test_the_command_lists_what_neuronpedia_has(tmp_path):
    (tmp_path / "layers.json").write_text(json.dumps(search()))
    asked = ["export", str(tmp_path), "--saes", RELEASE]
    done = CliRunner().invoke(app, [*asked, "--json", "--out", str(tmp_path / "list.json")])
    assert done.exit_code == 0, done.output
    assert done.stdout == (tmp_path / "list.json").read_text()
    content = json.loads(done.stdout)
    (added,) = content["featuresToAdd"]
    place = {"modelId": "gemma-3-4b-it", "layer": "17-gemmascope-2-res-16k", "index": "3818"}
    assert added.items() >= place.items()
    assert "google/medgemma-4b-it: recovers 0.45 [0.40, 0.49] of the margin shift (random" in added["description"]
    assert content["pages"] == [PAGE]
    assert content["left_out"] == ["18:5"]
    # The address encodes the list itself.
    asked_for = parse_qs(urlsplit(content["quick_list"]).query)
    assert json.loads(asked_for["features"][0]) == [place]
    shown = CliRunner().invoke(app, asked).stdout
    assert PAGE in shown
    assert "features whose SAE has no page: 18:5" in shown


@pytest.mark.parametrize("release", [str(WORLD / "saes"), "no-such-release", "gemma-scope-2-270m-it-res"])
def test_a_release_that_has_none_of_them(release):
    with pytest.raises(InputError, match="none of the SAEs of these features"):
        feature_list(Layers.model_validate(search()), release)


def test_no_feature_is_no_list():
    with pytest.raises(InputError, match="there are no features"):
        feature_list(Layers.model_validate(search(features=[])), RELEASE)


def test_a_search_that_recorded_its_releases_needs_no_option(tmp_path):
    blank = {"repository": None, "revision": None, "digest": "aa"}
    content = search(
        sae_sources=[
            blank | {"layer": 17, "folder": "resid_post/layer_17_width_16k_l0_medium", "release": RELEASE},
            blank | {"layer": 18, "folder": "resid_post_all/layer_18_width_16k_l0_small", "release": f"{RELEASE}-all"},
        ]
    )
    (tmp_path / "layers.json").write_text(json.dumps(content))
    done = CliRunner().invoke(app, ["export", str(tmp_path), "--json"])
    assert json.loads(done.stdout)["pages"] == [PAGE]
    with pytest.raises(InputError, match="--saes gemma-scope-2") as failed:
        feature_list(Layers.model_validate(search(saes={"17": "a", "18": "b"})))
    assert "gemma-scope-2-4b-it-res," not in str(failed.value)
