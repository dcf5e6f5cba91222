"""Finding SAEs by folder, sae-lens folder, sae-lens release and hub repository, offline in a prepared cache."""

import re
import shlex

import pytest
import torch
from test_hub import COMMIT, cache  # noqa: F401
from test_saes import random_sae

from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae, save_sae
from interp.saes.source import sae_source
from interp.schemas.layers import hub_sources

REPO = "google/gemma-scope-2-4b-it"


@pytest.fixture
def scope(cache):  # noqa: F811
    """Some layers, widths and sparsities of Gemma Scope 2 for 4B in the hub's cache, under their true names."""
    root = cache / f"models--{REPO.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    snapshot = root / "snapshots" / COMMIT
    for layer in range(34):
        for kind in ("16k_l0_small", "16k_l0_big"):
            save_sae(random_sae(layer), snapshot / "resid_post_all" / f"layer_{layer}_width_{kind}", REPO)
    for layer in (9, 17, 22, 29):
        for kind in ("16k_l0_small", "16k_l0_medium", "65k_l0_medium", "262k_l0_medium", "262k_l0_medium_seed_1"):
            save_sae(random_sae(layer), snapshot / "resid_post" / f"layer_{layer}_width_{kind}", REPO)
    return snapshot


def test_a_release_by_its_sae_lens_name(scope):
    found = locate_saes("gemma-scope-2-4b-it-res-all")
    assert sorted(found) == list(range(34))
    assert found[17] == scope / "resid_post_all" / "layer_17_width_16k_l0_small"
    assert load_sae(found[17], 17, 6).id == "layer_17_width_16k_l0_small"


def test_the_published_feature_has_its_sae(scope):
    found = locate_saes("gemma-scope-2-4b-it-res", "16k", "medium")
    assert sorted(found) == [9, 17, 22, 29]
    assert found[17].name == "layer_17_width_16k_l0_medium"


def test_a_hub_repository_and_its_folder(scope):
    assert sorted(locate_saes(REPO)) == list(range(34))
    assert locate_saes(f"https://huggingface.co/{REPO}/tree/main") == locate_saes(f"{REPO}/") == locate_saes(REPO)
    found = locate_saes(f"{REPO}:resid_post", "262k", "medium")
    assert locate_saes(f"https://huggingface.co/{REPO}/:resid_post/", "262k", "medium") == found
    assert found[22] == scope / "resid_post" / "layer_22_width_262k_l0_medium", "not the second seed"


def test_only_the_wanted_layers_are_needed(scope):
    import shutil

    for layer in range(34):
        if layer not in (15, 16):
            shutil.rmtree(scope / "resid_post_all" / f"layer_{layer}_width_16k_l0_small")
    assert sorted(locate_saes("gemma-scope-2-4b-it-res-all", layers=[15, 16])) == [15, 16]
    with pytest.raises(InputError, match=r"layer_0_width_16k_l0_small is not in the local cache.*hf download"):
        locate_saes("gemma-scope-2-4b-it-res-all")


@pytest.mark.parametrize(
    "source", ["https://huggingface.co/google/gemma-scope-2-4b-it/tree/v2", "C:\\saes\\layers", REPO + ":"]
)
def test_an_address_or_a_path_with_a_colon_is_named_whole(scope, source):
    with pytest.raises(InputError, match=re.escape(f"{source}: no such folder, and not the preset")):
        locate_saes(source)


def test_an_error_lists_what_is_available(scope):
    with pytest.raises(InputError, match=r"sae-lens has no such release\. It has .*gemma-scope-2-4b-it-res-all"):
        locate_saes("gemma-scope-2-4b-it-res-some")
    with pytest.raises(InputError, match=re.escape("no SAE of width 1m and l0 big; found width/l0 16k/big, 16k/small")):
        locate_saes(scope / "resid_post_all", "1m", "big")
    with pytest.raises(InputError, match=r"layer 0 has two SAEs.*Choose with --sae-width and --l0"):
        locate_saes(scope / "resid_post_all")
    with pytest.raises(InputError, match="not in the local cache"):
        locate_saes("somebody/saes:resid_post")


@pytest.mark.parametrize("b_dec_to_input", [False, True])
@pytest.mark.parametrize("kind", ["jumprelu", "standard"])
def test_a_sae_lens_folder_encodes_as_sae_lens_does(tmp_path, kind, b_dec_to_input):
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig

    classes = {"jumprelu": (JumpReLUSAE, JumpReLUSAEConfig), "standard": (StandardSAE, StandardSAEConfig)}
    make, config = classes[kind]
    theirs = make(config(d_in=6, d_sae=10, apply_b_dec_to_input=b_dec_to_input))
    theirs.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) - 0.3
    theirs.save_model(tmp_path / "saes" / "mine")
    found = locate_saes(tmp_path / "saes")
    assert found == {3: tmp_path / "saes" / "mine"}
    assert locate_saes(tmp_path / "saes" / "mine") == found
    ours = load_sae(found[3], 3, 6)
    x = torch.randn(50, 6, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x), theirs.encode(x), atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.decode(ours.encode(x)), theirs.decode(theirs.encode(x)), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="layer 3; expected"):
        load_sae(found[3], 4, 6)


def test_a_sae_of_another_place_is_refused(tmp_path):
    from sae_lens import StandardSAE, StandardSAEConfig

    theirs = StandardSAE(StandardSAEConfig(d_in=6, d_sae=10))
    theirs.cfg.metadata.hook_name = "blocks.3.hook_mlp_out"
    theirs.save_model(tmp_path / "mine")
    with pytest.raises(InputError, match=r"found hook .blocks\.3\.hook_mlp_out"):
        locate_saes(tmp_path)


def test_bfloat16_matrices_encode_nearly_alike(tmp_path):
    folder = tmp_path / "layer_2_width_16k_l0_small"
    save_sae(random_sae(d_model=64, d_sae=256), folder, "random", torch.float32)
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    exact, rough = (load_sae(folder, 2, 64, dtype=dtype).encode(x) for dtype in (torch.float32, torch.bfloat16))
    assert rough.dtype == torch.float32
    assert float((exact - rough).norm() / exact.norm()) < 0.02
    some = torch.tensor([3, 200, 17])
    torch.testing.assert_close(load_sae(folder, 2, 64).encode(x, some), exact[:, some])


def test_the_source_of_an_sae_has_repository_commit_release_and_digest(scope, tmp_path):
    import shutil

    folder = locate_saes("gemma-scope-2-4b-it-res", "16k", "medium")[17]
    found = sae_source(17, folder)
    assert (found.layer, found.repository, found.revision) == (17, REPO, COMMIT)
    assert found.folder == "resid_post/layer_17_width_16k_l0_medium"
    assert found.release == "gemma-scope-2-4b-it-res"
    copy = shutil.copytree(folder, tmp_path / "mine")
    local = sae_source(17, copy)
    nowhere = dict.fromkeys(("repository", "revision", "release", "neuronpedia"))
    assert found.neuronpedia == "gemma-3-4b-it/17-gemmascope-2-res-16k"
    assert local == found.model_copy(update={"folder": "mine"} | nowhere)
    shutil.rmtree(copy)
    save_sae(random_sae(17)._replace(b_enc=torch.ones(10)), copy, REPO)
    assert sae_source(17, copy).digest != found.digest
    assert hub_sources([found, found, local]) == f"{REPO}@{COMMIT} (gemma-scope-2-4b-it-res)"


def test_an_sae_of_another_repository_has_no_release(tmp_path):
    folder = tmp_path / "models--me--my-saes--v2" / "snapshots" / COMMIT / "layer_3_width_16k_l0_small"
    save_sae(random_sae(3), folder, "mine")
    found = sae_source(3, folder)
    assert (found.repository, found.revision, found.release) == ("me/my-saes--v2", COMMIT, None)
    assert found.folder == "layer_3_width_16k_l0_small"


@pytest.mark.parametrize("source", ["gemma-scope-2-4b-it-res", f"{REPO}:resid_post"])
def test_only_files_that_are_read_are_downloaded(scope, monkeypatch, source):
    """The hub's own filter, on the files that a folder of Gemma Scope 2 holds."""
    from huggingface_hub.utils import filter_repo_objects

    from interp.saes import locate

    asked = []
    find = locate.download

    def watched(repo, revision, patterns, **more):
        asked.extend(patterns)
        return find(repo, revision, patterns, **more)

    monkeypatch.setattr(locate, "download", watched)
    locate_saes(source, "16k", "medium", layers=[17])
    folder = "resid_post/layer_17_width_16k_l0_medium"
    files = [f"{folder}/{name}" for name in ("config.json", "examples.safetensors", "params.safetensors")]
    others = ["resid_post/layer_9_width_16k_l0_medium/params.safetensors", "resid_post_all/x/params.safetensors"]
    assert list(filter_repo_objects([*files, *others], allow_patterns=asked)) == [files[0], files[2]]


def kinds(found):
    """Layer -> suite and kind of the SAE."""
    return {layer: f"{folder.parent.name}/{folder.name.split('_', 2)[2]}" for layer, folder in found.items()}


EVERY = dict.fromkeys(range(34), "resid_post_all/width_16k_l0_small")
PAGED = dict.fromkeys((9, 17, 22, 29), "resid_post/width_16k_l0_medium")


@pytest.mark.parametrize("by", ["preset", "preset of a model", "snapshot"])
def test_the_preset_takes_the_suite_with_pages_where_there_is_one(scope, by):
    source = {"preset": "gemma-scope-2", "preset of a model": "gemma-scope-2-4b-it", "snapshot": scope}[by]
    assert kinds(locate_saes(source)) == EVERY | PAGED
    wide = locate_saes(source, l0="big")
    assert kinds(wide) == dict.fromkeys(range(34), "resid_post_all/width_16k_l0_big")
    assert kinds(locate_saes(source, l0="medium")) == EVERY | PAGED
    assert kinds(locate_saes(source, l0="small")) == EVERY


def test_every_sae_with_a_page_is_in_the_preset():
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release = get_pretrained_saes_directory()["gemma-scope-2-4b-it-res"]
    pages = {release.saes_map[name] for name, page in release.neuronpedia_id.items() if page}
    assert {value.split("/")[0] for value in pages} == {"resid_post"}
    assert {f"resid_post/layer_{layer}_width_16k_l0_medium" for layer in PAGED} <= pages


def test_the_preset_downloads_the_wanted_layers_only_and_never_the_examples(scope, monkeypatch):
    from huggingface_hub.utils import filter_repo_objects

    from interp.saes import locate

    asked, find = [], locate.download
    monkeypatch.setattr(
        locate,
        "download",
        lambda repo, revision, names, **more: (asked.extend(names), find(repo, revision, names, **more))[1],
    )
    assert sorted(locate_saes("gemma-scope-2", layers=[16, 17])) == [16, 17]
    folders = ["resid_post_all/layer_16_width_16k_l0_small", "resid_post/layer_17_width_16k_l0_medium"]
    files = [f"{folder}/{name}" for folder in folders for name in ("params.safetensors", "config.json")]
    there = [*files, *(f"{folder}/examples.safetensors" for folder in folders)]
    others = ["resid_post_all/layer_17_width_16k_l0_small/params.safetensors"]
    assert list(filter_repo_objects([*there, *others], allow_patterns=asked)) == files


@pytest.mark.parametrize("layers", [None, range(13, 20), [3, 17, 22, 23]])
def test_the_download_that_an_error_names_is_of_the_wanted_layers_without_the_examples(cache, monkeypatch, layers):  # noqa: F811
    from huggingface_hub.cli.hf import app as hf
    from huggingface_hub.utils import filter_repo_objects

    with pytest.raises(InputError, match="Run `hf download google/gemma-scope-2-4b-it --include") as failed:
        locate_saes("gemma-scope-2", layers=layers)
    _, *command = shlex.split(re.search("`(.*)`", str(failed.value))[1])
    assert len(command) < 25
    asked = {}
    monkeypatch.setattr("huggingface_hub.cli.download.snapshot_download", lambda **given: asked.update(given) or "")
    hf(command, standalone_mode=False)
    files = ("params.safetensors", "config.json", "examples.safetensors")
    kinds = {"resid_post_all": "16k_l0_small 16k_l0_big 65k_l0_small", "resid_post": "16k_l0_small 16k_l0_medium"}
    there = [
        f"{suite}/layer_{layer}_width_{kind}/{file}"
        for suite, those in kinds.items()
        for layer in (range(34) if suite == "resid_post_all" else PAGED)
        for kind in those.split()
        for file in files
    ]
    wanted = [
        f"{suite}/layer_{layer}_{kind}/{file}"
        for layer, (suite, kind) in {layer: place.split("/") for layer, place in (EVERY | PAGED).items()}.items()
        if layers is None or layer in layers
        for file in files[:2]
    ]
    patterns = {name: asked[name] for name in ("allow_patterns", "ignore_patterns")}
    fetched = list(filter_repo_objects(there, **patterns))
    assert sorted(fetched) == sorted(wanted)


@pytest.mark.parametrize(
    ("source", "width", "l0", "remedy"),
    [
        ("gemma-scope-2-4b-it-res-all", "16k", "medium", "gemma-scope-2-4b-it-res has it, at layers 9, 17, 22, 29"),
        ("gemma-scope-2-4b-it-res-all", "1m", "small", "gemma-scope-2-4b-it-res has it"),
        ("gemma-scope-2-4b-it-res-all", "1m", "huge", "Give --sae-width and --l0 one of these pairs, as 16k/big"),
    ],
)
def test_an_error_does_not_recommend_what_failed(scope, source, width, l0, remedy):
    with pytest.raises(InputError, match=re.escape(remedy)) as failed:
        locate_saes(source, width, l0)
    assert "Choose with" not in str(failed.value)


def test_a_local_copy_names_suite_and_release_by_its_folder_and_configuration(scope, tmp_path):
    for suite, name in (
        ("resid_post", "layer_17_width_16k_l0_medium"),
        ("resid_post_all", "layer_3_width_16k_l0_small"),
    ):
        copy = tmp_path / suite / name
        # The name of the model as Google writes it into config.json.
        save_sae(random_sae(int(name.split("_")[1])), copy, "gemma-v3-4b-it")
        found = sae_source(17, copy)
        assert (found.folder, found.repository) == (f"{suite}/{name}", None)
        assert found.release == ("gemma-scope-2-4b-it-res" if suite == "resid_post" else "gemma-scope-2-4b-it-res-all")
