"""Fuzzing the readers of models and results: SAEs, models, layers.json, adapters, manifests, arms of an ablation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from finetune_world import make_world
from fuzzing import (
    CHANGES,
    CUTS,
    LENGTHS,
    SAFETENSORS_HEADERS,
    as_json,
    bounded_memory,
    changed,
    check,
    cut,
    fuzzed,
    with_header,
)
from hypothesis import given
from hypothesis import strategies as st
from layers_files import layers_document
from safetensors.torch import save_file

from finetune.ablation.arm_files import ArmRecord, read_answers, write_answers
from finetune.evaluation.answers import Answers
from finetune.evaluation.arms import Arm, known_texts, seed_pools
from finetune.lora.adapter_folder import load_adapter, read_record, shared_base
from finetune.lora.layers import choose_layers, read_choice
from finetune.lora.processor_files import PROCESSOR_FILES
from finetune.lora.settings import TrainSettings
from finetune.publishing.push import FILES, staged
from finetune.training.run import train_and_evaluate
from interp.model.blank_images import BLANKS
from interp.model.load import load_vlm
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import Sae, load_sae, save_sae
from interp.schemas.layers import read_layers, write_layers
from interp.storage.hub import locate
from interp.storage.manifest import MANIFEST, check_manifest, write_manifest


@pytest.fixture(autouse=True)
def _bounded():
    with bounded_memory():
        yield


def small_sae(folder: Path) -> bytes:
    """Write an SAE of layer 1 in Gemma Scope 2's layout below `folder`; return the bytes of its weights."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(shape, generator=generator) for shape in ((4, 6), (6,), (6, 4), (4,), (6,))]
    save_sae(Sae(1, "", *parts), folder / "layer_1_width_16k_l0_small", "model", torch.float32)
    return (folder / "layer_1_width_16k_l0_small" / "params.safetensors").read_bytes()


def read_saes(reader: str, folder: Path) -> None:
    def call() -> list[Sae]:
        return [load_sae(path, layer, 4) for layer, path in locate_saes(folder).items()]

    found = check(reader, call)
    if not isinstance(found, InputError):
        for sae in found:
            assert sae.w_enc.shape == (4, sae.d_sae)
            assert sae.w_dec.shape == (sae.d_sae, 4)
            assert all(part.dtype == torch.float32 and torch.isfinite(part).all() for part in sae[2:])


@pytest.mark.parametrize("length", LENGTHS)
def test_sae_weights(length, tmp_path):
    content = small_sae(tmp_path)
    path = tmp_path / "layer_1_width_16k_l0_small" / "params.safetensors"

    @fuzzed(length, 150, 6000)
    @given(CHANGES, CUTS, SAFETENSORS_HEADERS, st.booleans())
    def run(changes, cuts, claimed, header):
        path.write_bytes(
            with_header(content, lambda known: changed(known, changes), claimed) if header else cut(content, cuts)
        )
        read_saes("SAE weights", tmp_path)

    run()


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn]


@pytest.mark.parametrize("length", LENGTHS)
def test_sae_tensors_of_other_names_shapes_and_dtypes(length, tmp_path):
    small_sae(tmp_path)
    path = tmp_path / "layer_1_width_16k_l0_small" / "params.safetensors"
    kinds = st.tuples(
        st.sampled_from(["w_enc", "w_dec", "b_enc", "b_dec", "threshold", "W_enc", "more"]),
        st.lists(st.sampled_from([0, 1, 4, 6, 10**4]), max_size=3),
        st.sampled_from(DTYPES),
        st.sampled_from([0.0, 1.0, -1.0, float("nan"), float("inf"), 1e30]),
    )

    @fuzzed(length, 80, 4000)
    @given(st.lists(kinds, max_size=3))
    def run(tensors):
        shapes = {"w_enc": (4, 6), "w_dec": (6, 4), "b_enc": (6,), "b_dec": (4,), "threshold": (6,)}
        parts = {name: torch.ones(shape) for name, shape in shapes.items()}
        for name, shape, dtype, value in tensors:
            if np.prod(shape) < 10**6:
                parts[name] = torch.full(shape, value).to(dtype)
        path.unlink()
        save_file(parts, path)
        read_saes("SAE tensors", tmp_path)

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_sae_configurations(length, tmp_path):
    scope, lens = tmp_path / "scope", tmp_path / "lens"
    small_sae(scope)
    folder = scope / "layer_1_width_16k_l0_small"
    known = json.loads((folder / "config.json").read_text())
    (lens / "mine").mkdir(parents=True)
    shutil.copy(folder / "params.safetensors", lens / "mine" / "sae_weights.safetensors")
    config = {
        "architecture": "jumprelu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "metadata": {"hook_name": "blocks.1.hook_resid_post"},
    }

    @fuzzed(length, 80, 4000)
    @given(CHANGES, CUTS, st.booleans())
    def run(changes, cuts, whole):
        for place, document in ((folder / "config.json", known), (lens / "mine" / "cfg.json", config)):
            place.write_bytes(as_json(changed(document, changes)) if whole else cut(as_json(document), cuts))
        read_saes("SAE config, Gemma Scope", scope)
        read_saes("SAE config, sae-lens", lens)

    run()


NAMES = st.sampled_from(
    [
        "layer_1_width_16k_l0_small",
        "layer_1_width_16k_l0_big",
        "layer_01_width_16k_l0_small",
        "layer_٣_width_1_l0_2",
        "layer_" + "9" * 200,
        "layer_1",
        "layer_1_width_16k_l0_small_2",
        "layer__width__l0_",
        "x",
        "layer_1_width_16k",
    ]
)


@pytest.mark.parametrize("length", LENGTHS)
def test_sae_folder_names(length, tmp_path):
    content = small_sae(tmp_path / "one")

    @fuzzed(length, 40, 1500)
    @given(st.lists(NAMES, max_size=3, unique=True), st.sampled_from([None, "16k", "1m"]))
    def run(names, width):
        root = tmp_path / "many"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name in names:
            (root / name).mkdir()
            (root / name / "params.safetensors").write_bytes(content)
        check("SAE folders", lambda: locate_saes(root, width))
        for name in names:
            check("SAE folders", lambda name=name: locate_saes(root / name))

    run()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("fuzz") / "world", patients=4)


@pytest.fixture(scope="module")
def adapter(world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fuzz") / "adapter"
    settings = TrainSettings(rank=2, alpha=4, epochs=1)
    train_and_evaluate(
        ModelSpec(world.model, device="cpu"), DataSpec(world.questions, limit=4), out, settings, layers="1"
    )
    return out


@pytest.fixture(scope="module")
def vlm(world):
    return load_vlm(world.model, "cpu", "float32")


@pytest.fixture
def copied(adapter, tmp_path) -> Path:
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    # The manifest's checksums would detect every change.
    (folder / "manifest.json").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("length", LENGTHS)
def test_layers_json(length, vlm, tmp_path):
    path = tmp_path / "layers.json"
    document = layers_document(vlm.name, vlm.n_layers, vlm.d_model)
    content = as_json(document)

    @fuzzed(length, 100, 5000)
    @given(CHANGES, CUTS, st.booleans())
    def run(changes, cuts, whole):
        path.write_bytes(as_json(changed(document, changes)) if whole else cut(content, cuts))
        found = check("layers.json", lambda: read_layers(path))
        if not isinstance(found, InputError):
            write_layers(found, tmp_path / "again.json")
            assert read_layers(tmp_path / "again.json") == found
        choice = check("layers.json, chosen", lambda: choose_layers(vlm, read_choice(None, path)))
        if not isinstance(choice, InputError):
            assert choice.layers
            assert set(choice.layers) <= set(range(vlm.n_layers))
            assert choice.layers == sorted(set(choice.layers))

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_adapter_records(length, copied):
    path = copied / "gatescope.json"
    content = path.read_bytes()
    document = json.loads(content) | {"text_hashes": ["00"]}

    @fuzzed(length, 100, 5000)
    @given(CHANGES, CUTS, st.booleans())
    def run(changes, cuts, whole):
        path.write_bytes(as_json(changed(document, changes)) if whole else cut(content, cuts))

        def call() -> None:
            record = read_record(copied)
            known_texts([record])
            seed_pools([Arm("a", record=record), Arm("b", record=record), Arm("c", record=record)])
            shared_base([copied], ModelSpec())

        check("adapter record", call)

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_adapter_configurations(length, copied, vlm):
    path = copied / "adapter_config.json"
    content = path.read_bytes()
    document = json.loads(content)

    @fuzzed(length, 30, 600)
    @given(CHANGES, CUTS, st.booleans())
    def run(changes, cuts, whole):
        path.write_bytes(as_json(changed(document, changes)) if whole else cut(content, cuts))
        check("adapter config", lambda: shared_base([copied], ModelSpec()))
        found = check("adapter config, loaded", lambda: load_adapter(vlm, copied))
        if not isinstance(found, InputError):
            found.unload()
        assert not [name for name, _ in vlm.model.named_parameters() if "lora" in name], "left in the base"

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_adapter_weights(length, copied, vlm):
    path = copied / "adapter_model.safetensors"
    content = path.read_bytes()

    @fuzzed(length, 20, 500)
    @given(CHANGES, CUTS, SAFETENSORS_HEADERS, st.booleans())
    def run(changes, cuts, claimed, header):
        path.unlink()
        path.write_bytes(
            with_header(content, lambda known: changed(known, changes), claimed) if header else cut(content, cuts)
        )
        found = check("adapter weights", lambda: load_adapter(vlm, copied))
        if not isinstance(found, InputError):
            found.unload()
        assert not [name for name, _ in vlm.model.named_parameters() if "lora" in name], "left in the base"

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_published_folders(length, copied):
    texts = {name: (copied / name).read_bytes() for name in ("README.md", "evaluation.json", "adapter_config.json")}

    def call() -> list[str]:
        with staged(copied, "me/mine", base_model="google/medgemma-4b-it") as package:
            return sorted(path.name for path in package.folder.iterdir())

    @fuzzed(length, 40, 2000)
    @given(CHANGES, CUTS, st.sampled_from(sorted(texts)), st.booleans())
    def run(changes, cuts, name, whole):
        for other, content in texts.items():
            (copied / other).write_bytes(content)
        document = json.loads(texts[name]) if name.endswith("json") else {"base_model": "x", "license": "y"}
        new = as_json(changed(document, changes))
        if name == "README.md":
            new = b"---\n" + new + b"\n---\n## Base model, loading, licence\n"
        (copied / name).write_bytes(new if whole else cut(texts[name], cuts))
        found = check("what is published", call)
        assert isinstance(found, InputError) or set(found) - set(PROCESSOR_FILES) == set(FILES)

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_manifests(length, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    write_manifest(tmp_path, {"a.txt": tmp_path / "a.txt"})
    path = tmp_path / MANIFEST
    content = path.read_bytes()
    document = json.loads(content)

    @fuzzed(length, 60, 3000)
    @given(CHANGES, CUTS, st.booleans())
    def run(changes, cuts, whole):
        path.write_bytes(as_json(changed(document, changes)) if whole else cut(content, cuts))
        check("manifest", lambda: check_manifest(tmp_path))

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_arms_of_an_ablation(length, tmp_path):
    path = tmp_path / "arm.parquet"
    n = 5
    answers = Answers(
        np.arange(n, dtype=float),
        np.ones(n, bool),
        {kind: np.zeros(n) for kind in BLANKS},
        np.zeros((n, 2)),
        np.full(n, None, object),
        np.full(n, np.nan),
    )
    write_answers(path, answers, ArmRecord(kind="base", layers=[], match={}, training=None, software={}))
    content = path.read_bytes()
    record = json.loads(pd.read_parquet(path).attrs["gatescope"])
    table = pd.read_parquet(path)

    @fuzzed(length, 80, 3000)
    @given(CHANGES, CUTS, st.sampled_from(["bytes", "record", "columns"]), st.sampled_from(list(table.columns)))
    def run(changes, cuts, kind, column):
        if kind == "bytes":
            path.write_bytes(cut(content, cuts))
        else:
            other = table.drop(columns=column) if kind == "columns" else table.copy()
            other.attrs["gatescope"] = json.dumps(changed(record, changes if kind == "record" else []))
            other.to_parquet(path, index=False)
        found = check("arm of an ablation", lambda: read_answers(path))
        assert isinstance(found, InputError) or len(found[0].margin) == len(found[0].right_token)

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_model_folders(length, world, tmp_path):
    folder = Path(shutil.copytree(world.model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    index = {"weight_map": {"a": "model.safetensors"}}

    @fuzzed(length, 50, 3000)
    @given(CHANGES, CUTS, st.booleans(), st.booleans())
    def run(changes, cuts, whole, of_index):
        name, document = ("model.safetensors.index.json", index) if of_index else ("config.json", config)
        (folder / "config.json").write_bytes(as_json(config))
        (folder / name).write_bytes(as_json(changed(document, changes)) if whole else cut(as_json(document), cuts))
        check("model folder", lambda: locate(folder))
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_models(length, world, tmp_path):
    folder = Path(shutil.copytree(world.model, tmp_path / "model"))
    names = [
        "config.json",
        "processor_config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "tokenizer.json",
    ]
    texts = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}

    @fuzzed(length, 2, 60)
    @given(CHANGES, CUTS, st.sampled_from(sorted(texts)), st.booleans())
    def run(changes, cuts, name, whole):
        for other, content in texts.items():
            (folder / other).write_bytes(content)
        new = as_json(changed(json.loads(texts[name]), changes)) if whole else cut(texts[name], cuts)
        (folder / name).write_bytes(new)
        check("model", lambda: load_vlm(folder, "cpu", "float32"))

    run()
