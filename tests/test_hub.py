"""Finding a model in local folders and in the hub's cache without a network."""

import json
import shutil
from functools import partial

import pytest

from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.storage.hub import locate, locate_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, with the network forbidden."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(cache, repo, model, without=()):
    """Copy a model into the cache, in the layout of huggingface_hub."""
    root = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(model, root / "snapshots" / COMMIT)
    for name in without:
        (root / "snapshots" / COMMIT / name).unlink()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)


def test_a_cached_model_is_found_offline(cache, tiny_model):
    put(cache, "google/medgemma-4b-it", tiny_model)
    found = locate("google/medgemma-4b-it")
    assert (found.name, found.revision) == ("google/medgemma-4b-it", COMMIT)
    assert (found.folder / "model.safetensors").is_file()
    assert locate("google/medgemma-4b-it", revision=COMMIT).folder == found.folder


def test_a_cached_model_is_measured_and_named_by_its_hub_id(cache, tiny_model):
    from interp.model.load import load_vlm

    put(cache, "google/medgemma-4b-it", tiny_model)
    vlm = load_vlm("google/medgemma-4b-it", "cpu")
    assert (vlm.name, vlm.revision, vlm.n_layers) == ("google/medgemma-4b-it", COMMIT, 4)
    assert vlm.model.name_or_path == "google/medgemma-4b-it"


PAGE = "https://huggingface.co/google/medgemma-4b-it"


@pytest.mark.parametrize("given", ["google/medgemma-4b-it/", PAGE, f"{PAGE}/", f"{PAGE}/tree/main"])
def test_a_pasted_address_or_slash_names_the_repository(cache, tiny_model, given):
    from interp.model.load import load_vlm

    with pytest.raises(InputError, match=r"^google/medgemma-4b-it: .*`hf download google/medgemma-4b-it`"):
        locate(given)
    with pytest.raises(InputError, match=r"`hf download google/medgemma-4b-it config.json`"):
        locate_config(given, fetch=True)
    put(cache, "google/medgemma-4b-it", tiny_model)
    expected = locate("google/medgemma-4b-it")
    assert locate(given) == locate_config(given, fetch=False) == expected
    vlm = load_vlm(given, "cpu")
    assert vlm.name == vlm.model.name_or_path == "google/medgemma-4b-it"


def test_an_absent_model_says_how_to_get_it(cache):
    with pytest.raises(InputError, match="hf download google/medgemma-4b-it"):
        locate("google/medgemma-4b-it")


def test_an_incomplete_download_is_named(cache, tiny_model):
    put(cache, "google/medgemma-4b-it", tiny_model, without=["model.safetensors"])
    with pytest.raises(InputError, match=r"no model.safetensors.*Finish the download"):
        locate("google/medgemma-4b-it")


def test_missing_shards_are_named(tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(InputError, match="no model-00002-of-00002"):
        locate(folder)


def test_a_gated_model_names_the_page(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*args, **kwargs):
        import httpx

        raise GatedRepoError("403", response=httpx.Response(403, request=httpx.Request("GET", "https://hub")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=r"Open https://huggingface.co/google/medgemma-4b-it, accept.*hf auth login"):
        locate("google/medgemma-4b-it")


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/model/", "~/nowhere", "medgemma", "a/b/c", "https://huggingface.co/a/b/tree/v2"]
)
def test_neither_folder_nor_hub_id_is_refused(name):
    with pytest.raises(InputError, match="no such folder, and not a hub id"):
        locate(name)


@pytest.mark.parametrize("find", [locate, locate_saes, partial(locate_config, fetch=True)])
def test_a_mistyped_path_is_not_looked_up(find, cache, tmp_path, monkeypatch):
    """The hub would say that it has no such repository, which is not what is wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("interp.storage.hub.download", None)
    (tmp_path / "models" / "tuned").mkdir(parents=True)
    (tmp_path / "models" / "notes.txt").touch()
    for given, message in (
        ("models/tunde", r"no such folder\. Did you mean models/tuned\?"),
        ("model/tuned", r"no such folder\. Did you mean models/tuned\?"),
        ("~/models/tuned", f"no such folder, and not .*Did you mean {tmp_path}/models/tuned"),
        ("models/medgemma", "no such folder.*there is a folder models here.*`hf download models/medgemma` first"),
        ("models/notes.txt", "is a file, expected a folder or "),
    ):
        with pytest.raises(InputError, match=message):
            find(given)


def test_what_the_cache_has_is_no_mistyped_path(cache, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google" / "medgemma-4b-pt").mkdir(parents=True)
    with pytest.raises(InputError, match="Did you mean google/medgemma-4b-pt"):
        locate("google/medgemma-4b-it")
    put(cache, "google/medgemma-4b-it", tiny_model)
    assert locate("google/medgemma-4b-it").revision == COMMIT


def test_another_kind_of_model_is_refused(tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "llava"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="found a model of type 'llava'"):
        locate(folder)
