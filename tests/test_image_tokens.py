"""Image tokens equal those of plain transformers on one image at a time; and when the disk cache is used."""

import errno
import json
import os
import re
import shutil
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from finetune_world import make_world
from PIL import Image
from safetensors.torch import load_file, save_file

from finetune.evaluation.arms import Arm, adapter_arm, base_arm
from finetune.evaluation.evaluate import evaluate
from interp.images.decode import BLANK_IMAGE, NO_IMAGE, open_image
from interp.measurement import margins, sharded
from interp.measurement.margins import measure, pack_prompts
from interp.measurement.sharded import measure_together
from interp.model import image_token_file
from interp.model.image_token_cache import read_tokens, write_tokens
from interp.model.image_token_file import encode_into_file
from interp.model.image_tokens import FIRST_IMAGES, _in_threads, begin_images, encode_images, encode_pixels
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.runtime.distributed import ALONE
from interp.runtime.errors import InputError
from interp.runtime.prefetch import map_ahead, map_beside
from interp.storage import prompt_parts
from interp.storage.checkpoint import Checkpoint


@pytest.fixture
def pictures(tmp_path):
    """Eleven images of several sizes, named after a patient."""
    rng = np.random.default_rng(0)
    (tmp_path / "patient17").mkdir()
    paths = [tmp_path / "patient17" / f"scan{i}.png" for i in range(11)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (60 + 9 * (i % 3), 70 + i), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


@pytest.fixture
def cached(tiny_model, tmp_path):
    """Loads the tiny model with the same cache again, as several runs would."""
    return lambda dtype="float32", model=tiny_model: load_vlm(
        model, "cpu", dtype, image_cache=tmp_path / "cache" / "tokens"
    )


@contextmanager
def tower_calls(vlm):
    """The number of images in each call of the tower."""
    calls = []
    handle = vlm.model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    yield calls
    handle.remove()


def encoded(vlm, paths):
    """The tokens of some images, and the number of images that were encoded for them."""
    with tower_calls(vlm) as calls:
        encode_images(vlm, paths, batch_size=4)
    return torch.stack([vlm.image_tokens[path] for path in paths]), sum(calls)


def test_images_that_were_begun_earlier_have_the_same_tokens_and_are_read_once(tiny_model, pictures, monkeypatch):
    first, second = (load_vlm(tiny_model, "cpu", "float32") for _ in range(2))
    expected, _ = encoded(first, pictures)
    begin_images(second, [*pictures, "/no/image.png"], torch.device("cuda"))
    assert sorted(second.images_begun) == sorted([*pictures, "/no/image.png"])[:FIRST_IMAGES]
    for path in pictures:
        second.images_begun[path]()
    with monkeypatch.context() as patched:
        patched.setattr("interp.model.image_tokens.open_image", lambda path: pytest.fail("read again"))
        found, _ = encoded(second, pictures)
    assert torch.equal(found, expected)
    # Nor is what was begun in vain.
    assert second.images_begun == {}
    begin_images(second, ["/no/image.png"], torch.device("cuda"))
    with pytest.raises(InputError, match="An image cannot be used"):
        encode_images(second, ["/no/image.png"])


def test_images_are_encoded_on_a_gpu_while_their_prompts_are_tokenized(tiny_model, pictures, monkeypatch):
    vlm = load_vlm(tiny_model, "cpu", "float32")
    prompts = pd.DataFrame({"image": [*reversed(pictures), pictures[0]], "text": "Is there edema?", "closed": True})
    expected, encoded_there = pack_prompts(vlm, prompts), []
    tokenized = threading.Event()

    def pack(vlm, prompts):
        tokenized.set()
        return pack_prompts(vlm, prompts)

    def encode(vlm, images):
        assert tokenized.wait(10)
        encoded_there.append(images)

    monkeypatch.setattr(margins, "pack_prompts", pack)
    monkeypatch.setattr(margins, "encode_images", encode)
    assert margins.pack_beside_images(vlm, prompts, ALONE) == expected
    assert not encoded_there
    on_gpu = SimpleNamespace(**vars(vlm), device=torch.device("cuda"))
    assert margins.pack_beside_images(on_gpu, prompts, ALONE) == expected
    assert encoded_there == [sorted(pictures)]
    # Not if they would be more than may stay, with those that do.
    on_gpu.max_images = len(pictures)
    vlm.image_tokens["another"] = torch.zeros(1)
    assert margins.pack_beside_images(on_gpu, prompts, ALONE) == expected
    assert len(encoded_there) == 1


def test_a_resumed_measurement_encodes_only_the_images_that_it_needs(tiny_model, pictures, monkeypatch, tmp_path):
    vlm, kept = load_vlm(tiny_model, "cpu", "float32"), Checkpoint(tmp_path, {})
    prompts = pd.DataFrame({"image": pictures, "text": "Is there edema?", "closed": True})
    beside = []

    def pack(vlm, prompts, team):
        beside.append(len(prompts))
        return pack_prompts(vlm, prompts)

    monkeypatch.setattr(sharded, "pack_beside_images", pack)
    # So short a measurement is kept too.
    monkeypatch.setattr(prompt_parts, "CHECKPOINT_SECONDS", 0.0)
    margin, residuals = measure_together(vlm, prompts, [1], 4096, None, ALONE, kept)
    again, resumed = measure_together(vlm, prompts, [1], 4096, None, ALONE, kept)
    assert torch.equal(margin, again)
    assert torch.equal(residuals.values, resumed.values)
    assert beside == [len(pictures)]


def test_a_measurement_that_cannot_be_kept_says_so(tiny_model, pictures, monkeypatch, tmp_path):
    vlm, written = load_vlm(tiny_model, "cpu", "float32"), []
    prompts = pd.DataFrame({"image": pictures, "text": "Is there edema?", "closed": True})

    def full(self, name, tensors):
        written.append(name)
        raise InputError("the disk is full")

    monkeypatch.setattr(prompt_parts, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(Checkpoint, "write", full)
    with pytest.raises(InputError, match="the disk is full"):
        measure_together(vlm, prompts, [1], 128, None, ALONE, Checkpoint(tmp_path, {}))
    assert len(written) == 1, "no further part is written"


def test_no_image_is_read_before_those_of_the_first_batch():
    paths, read, others = [f"{k}" for k in range(60)], [], threading.Event()

    def load(path):
        read.append(path)
        if int(path) >= 8:
            others.set()
        return path

    loaded = _in_threads(load, paths, 8, torch.device("cuda"))
    first = [next(loaded) for _ in range(8)]
    assert not others.wait(0.2)
    assert sorted(read) == sorted(first)
    ninth = next(loaded)
    assert others.is_set()
    assert [*first, ninth, *loaded] == paths
    assert sorted(read) == sorted(paths)


def test_only_the_first_images_are_begun_and_none_on_a_cpu_or_with_a_cache(tiny_model, cached, pictures):
    vlm = load_vlm(tiny_model, "cpu", "float32")
    begin_images(vlm, pictures, vlm.device)
    begin_images(with_cache := cached(), pictures, torch.device("cuda"))
    assert vlm.images_begun == with_cache.images_begun == {}
    many = [f"/no/image{i:02d}.png" for i in reversed(range(FIRST_IMAGES + 5))]
    begin_images(vlm, many, torch.device("cuda"))
    assert list(vlm.images_begun) == sorted(many)[:FIRST_IMAGES]


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_tokens_equal_those_of_plain_transformers(tiny_model, pictures):
    from transformers import AutoModelForImageTextToText

    vlm = load_vlm(tiny_model, "cpu", "float32")
    plain = AutoModelForImageTextToText.from_pretrained(tiny_model).eval()
    with tower_calls(vlm) as calls:
        encode_images(vlm, [*pictures, NO_IMAGE, BLANK_IMAGE, *pictures], batch_size=5)
        encode_images(vlm, pictures)
    assert calls == [5, 5, 2]
    for path in [*pictures, BLANK_IMAGE]:
        pixels = vlm.processor.image_processor(open_image(path), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            expected = plain.model.get_image_features(pixels, return_dict=True).pooler_output[0]
        torch.testing.assert_close(vlm.image_tokens[path], expected, atol=1e-5, rtol=1e-5)
    assert vlm.image_tokens[NO_IMAGE].shape == (0, vlm.d_model)


def test_the_tower_computes_the_same_on_contiguous_states(tiny_model):
    from transformers import AutoModelForImageTextToText

    vlm = load_vlm(tiny_model, "cpu", "float32")
    plain = AutoModelForImageTextToText.from_pretrained(tiny_model).eval()
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layouts, tokens = [], []
    for model in (vlm.model, plain):
        tower = model.model.vision_tower
        encoder = getattr(tower, "vision_model", tower).encoder
        encoder.register_forward_pre_hook(
            lambda module, args, kwargs: layouts.append(kwargs["inputs_embeds"].is_contiguous()), with_kwargs=True
        )
        with torch.no_grad():
            tokens.append(encode_pixels(model, pixels))
    assert layouts == [True, False]
    torch.testing.assert_close(*tokens, atol=1e-5, rtol=1e-5)


def test_an_unreadable_image_is_refused_without_its_path(cached, tiny_model, pictures, tmp_path):
    broken = tmp_path / "patient17" / "scan5.png"
    broken.write_bytes(broken.read_bytes()[:200])
    for vlm in (load_vlm(tiny_model, "cpu", "float32"), cached()):
        with pytest.raises(InputError, match=r"not a readable image.*names their rows") as caught:
            encode_images(vlm, pictures, batch_size=2)
        assert "patient17" not in str(caught.value)
        with pytest.raises(InputError, match="image not found"):
            encode_images(vlm, [pictures[0], "gone.png"])


def test_cached_tokens_are_found_under_any_image_name(cached, pictures, tmp_path):
    first, computed = encoded(cached(), pictures)
    assert computed == 11
    moved = [str(tmp_path / f"other{i}.png") for i in range(11)]
    for old, new in zip(pictures, moved, strict=True):
        shutil.move(old, new)
    again, computed = encoded(cached(), moved[::-1])
    assert computed == 0
    assert torch.equal(again.flip(0), first)


def test_some_images_cached_and_some_not(cached, tiny_model, pictures):
    encoded(cached(), pictures[1::3])
    mixed, computed = encoded(cached(), [*pictures, BLANK_IMAGE])
    assert computed == 12 - 4
    plain, _ = encoded(load_vlm(tiny_model, "cpu", "float32"), [*pictures, BLANK_IMAGE])
    torch.testing.assert_close(mixed, plain, atol=1e-5, rtol=1e-5)
    _, computed = encoded(cached(), [*pictures, BLANK_IMAGE])
    assert computed == 1, "what is no file is not kept"


def test_a_changed_image_is_encoded_again(cached, pictures):
    encoded(cached(), pictures)
    Image.new("L", (70, 60), 200).save(pictures[2])
    after, computed = encoded(cached(), pictures)
    assert computed == 1
    assert not torch.equal(after[2], after[3])


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector"])
def test_other_weights_do_not_share_the_cache(cached, pictures, part):
    encoded(cached(), pictures)
    changed = cached()
    weight = list(getattr(changed.model.model, part).parameters())[-1]
    weight.data[0] += 0.5
    after, computed = encoded(changed, pictures)
    assert computed == 11
    weight.data[0] += 0.5
    changed.image_tokens.clear()
    again, computed = encoded(changed, pictures)
    assert computed == 11, "changed in place, within one run"
    assert not torch.equal(after, again)


def test_other_dtype_processor_or_architecture_does_not_share_the_cache(cached, pictures, tiny_model, tmp_path):
    encoded(cached(), pictures)
    assert encoded(cached("bfloat16"), pictures)[1] == 11
    assert encoded(cached("bfloat16"), pictures)[1] == 0
    assert encoded(cached("bfloat16"), pictures)[0].dtype == torch.bfloat16
    darker = cached()
    darker.processor.image_processor.image_mean = [0.6, 0.5, 0.5]
    assert encoded(darker, pictures)[1] == 11
    for name, value in (("layer_norm_eps", 1e-3), ("hidden_act", "gelu")):
        other = cached()
        setattr(other.model.config.vision_config, name, value)
        assert encoded(other, pictures)[1] == 11
    shutil.copytree(tiny_model, tmp_path / "copied model")
    assert encoded(cached(model=tmp_path / "copied model"), pictures)[1] == 0, "the same, from elsewhere"


def test_damaged_cache_files_are_replaced(cached, pictures, tmp_path):
    first, _ = encoded(cached(), pictures)
    kept = files_in(tmp_path / "cache")
    whole = [path.read_bytes() for path in kept]
    kept[0].write_bytes(b"")
    kept[1].write_bytes(whole[1][:-40])
    kept[2].write_bytes(whole[2][:-3] + bytes([whole[2][-3] ^ 1]) + whole[2][-2:])
    save_file({"other": torch.zeros(2)}, kept[3])
    save_file({**load_file(kept[4]), "digest": torch.zeros(3)}, kept[4])
    assert [read_tokens(path) for path in kept[:5]] == [None] * 5
    again, computed = encoded(cached(), pictures)
    assert computed == 5
    torch.testing.assert_close(again, first, atol=1e-5, rtol=1e-5)
    assert encoded(cached(), pictures)[1] == 0


def test_the_cache_holds_nothing_but_hashes_and_tokens(cached, pictures, tmp_path):
    encoded(cached(), pictures)
    folder = tmp_path / "cache" / "tokens"
    assert folder.stat().st_mode & 0o077 == 0, "others must not read it"
    names = [str(path.relative_to(folder)) for path in files_in(folder)]
    assert len(names) == 11
    for name in names:
        assert re.fullmatch(r"([0-9a-f]{2})/\1[0-9a-f]{62}\.safetensors", name)
        content = (folder / name).read_bytes()
        assert not any(part in content for part in (b"patient", b"scan", b"png"))
        assert set(load_file(folder / name)) == {"tokens", "digest"}


def test_an_unusable_cache_folder_is_refused(tiny_model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--image-cache .*file: cannot be written to"):
        load_vlm(tiny_model, "cpu", image_cache=tmp_path / "file")


def test_an_adapted_tower_never_uses_cached_tokens(tiny_model, cached, own_data, tmp_path):
    from peft import LoraConfig, get_peft_model

    questions = load_questions(own_data / "questions.jsonl")
    images = sorted({q.image for q in questions})
    fresh = load_vlm(tiny_model, "cpu", "float32")
    config = LoraConfig(r=2, target_modules=r".*vision_tower.*q_proj", init_lora_weights=False)
    get_peft_model(fresh.model, config).save_pretrained(str(tmp_path / "tower"))
    expected, _ = encoded(fresh, images)
    plain, _ = encoded(cached(), images)
    assert (expected - plain).abs().max() > 1e-2
    kept = files_in(tmp_path / "cache")

    vlm = cached()
    with adapter_arm(vlm, tmp_path / "tower", "tower", None).enter():
        inside, computed = encoded(vlm, images)
        assert computed == 6
    torch.testing.assert_close(inside, expected, atol=1e-5, rtol=1e-5)
    outside, computed = encoded(vlm, images)
    assert computed == 0
    assert torch.equal(outside, plain)
    assert files_in(tmp_path / "cache") == kept, "nor are its own kept"

    arms = [base_arm(), adapter_arm(vlm, tmp_path / "tower", "tower", None), Arm("base again")]
    with_cache = evaluate(vlm, arms, questions, new_tokens=0)
    without = load_vlm(tiny_model, "cpu", "float32")
    arms = [base_arm(), adapter_arm(without, tmp_path / "tower", "tower", None), Arm("base again")]
    tables = [found.table() for found in (with_cache, evaluate(without, arms, questions, new_tokens=0))]
    pd.testing.assert_frame_equal(*tables, atol=1e-4)


def test_a_disabled_adapter_in_the_tower_does_not_use_the_cache(cached, tiny_model, pictures):
    """A disabled adapter leaves the weights as they are, so the weights do not determine the tokens."""
    from peft import LoraConfig, get_peft_model

    vlm = cached()
    config = LoraConfig(r=2, target_modules=r".*vision_tower.*q_proj", init_lora_weights=False)
    adapted = get_peft_model(vlm.model, config)
    seen, _ = encoded(vlm, pictures)
    vlm.image_tokens.clear()
    with adapted.disable_adapter():
        base, _ = encoded(vlm, pictures)
    plain, _ = encoded(load_vlm(tiny_model, "cpu", "float32"), pictures)
    torch.testing.assert_close(base, plain, atol=1e-5, rtol=1e-5)
    assert (seen - plain).abs().max() > 1e-2


def test_an_adapter_of_the_decoder_uses_cached_tokens(cached, own_data):
    from peft import LoraConfig, get_peft_model

    images = [q.image for q in load_questions(own_data / "questions.jsonl")]
    encode_images(cached(), images)
    vlm = cached()
    get_peft_model(vlm.model, LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    assert encoded(vlm, images)[1] == 0


def test_measures_are_the_same_with_a_cache(cached, tiny_model, own_data):
    prompts = pd.DataFrame(
        {"image": [q.image for q in load_questions(own_data / "questions.jsonl")], "text": "Is it?", "closed": True}
    )
    plain = measure(load_vlm(tiny_model, "cpu", "float32"), prompts).margin
    for _ in range(2):
        torch.testing.assert_close(measure(cached(), prompts).margin, plain, atol=1e-5, rtol=1e-5)


def test_the_commands_share_a_cache_and_give_the_same_numbers(tmp_path, monkeypatch, capsys):
    from finetune.cli import app as cli

    monkeypatch.chdir(tmp_path)
    world = make_world(tmp_path / "world", patients=4)
    shared = ["--questions", world.questions, "--device", "cpu"]

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, (*arguments, *shared))])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
        return capsys.readouterr().out

    def evaluated(*options):
        found = json.loads(run("evaluate", "adapter", "--new-tokens", "0", "--json", *options))
        # It records the command and its start.
        del found["provenance"]
        return found

    run("--layers", "1", "--model", world.model, "--out", "adapter", "--image-cache", "cache")
    kept = files_in(tmp_path / "cache")
    assert len(kept) == 4
    written = [path.stat().st_mtime_ns for path in kept]
    with_cache = evaluated("--image-cache", "cache")
    assert with_cache == evaluated()
    assert [path.stat().st_mtime_ns for path in files_in(tmp_path / "cache")] == written
    for path in kept:
        write_tokens(path, torch.zeros_like(read_tokens(path)))
    assert evaluated("--image-cache", "cache") != with_cache


def test_work_ahead_keeps_order_bounds_and_errors():
    begun, lock = [], threading.Lock()
    first_may_end = threading.Event()

    def slow_first(i):
        with lock:
            begun.append(i)
        if i == 0:
            first_may_end.wait(5)
        if i == 30:
            raise ValueError("thirty")
        return i * i

    results = map_ahead(slow_first, range(100), threads=3, max_waiting=6)
    threading.Timer(0.2, first_may_end.set).start()
    for i in range(30):
        assert next(results) == i * i
        with lock:
            assert max(begun) <= i + 6, "no further ahead than that"
    with pytest.raises(ValueError, match="thirty"):
        next(results)
    assert max(begun) <= 37, "the rest is dropped"
    assert list(map_ahead(str, [], threads=2, max_waiting=4)) == []
    early = map_ahead(slow_first, range(31, 90), threads=2, max_waiting=3)
    assert next(early) == 31 * 31
    early.close()
    assert max(begun) <= 31 + 4


def test_threads_beside_other_work_are_prepared_once():
    own = threading.local()

    def prepare():
        own.times = getattr(own, "times", 0) + 1

    with map_beside(lambda i: (i, own.times), range(40), threads=3, prepare=prepare) as results:
        assert list(results) == [(i, 1) for i in range(40)]
    with map_beside(lambda i: i, range(3), threads=0, prepare=prepare) as results:
        assert list(results) == [0, 1, 2]
    assert not hasattr(own, "times"), "without threads the caller's own thread is as it was"


def test_tokens_in_a_file_are_the_same_and_no_process_holds_them(tiny_model, pictures, tmp_path, monkeypatch):
    expected, _ = encoded(load_vlm(tiny_model, "cpu", "float32"), pictures)
    vlm = load_vlm(tiny_model, "cpu", "float32")
    held = []

    def counting(vlm, paths):
        encode_images(vlm, paths, batch_size=4)
        held.append(sum(tokens.nbytes for tokens in vlm.image_tokens.values()))

    monkeypatch.setattr(image_token_file, "BLOCK", 4)
    monkeypatch.setattr(image_token_file, "encode_images", counting)
    encode_into_file(vlm, [*pictures, pictures[0], NO_IMAGE], ALONE, tmp_path / "work")
    assert torch.equal(torch.stack([vlm.image_tokens[path] for path in pictures]), expected)
    # Four images at a time lie in memory, then none: every token is in one mapped file, which has no name any more.
    assert held == [4 * expected[0].nbytes, 4 * expected[0].nbytes, 3 * expected[0].nbytes]
    storages = {vlm.image_tokens[path].untyped_storage().data_ptr() for path in pictures}
    assert len(storages) == 1
    assert vlm.image_tokens[pictures[0]].untyped_storage().filename is not None
    assert list((tmp_path / "work").iterdir()) == []


def test_a_full_disk_shows_before_any_image_is_encoded(tiny_model, pictures, tmp_path, monkeypatch):
    def full(handle, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    vlm = load_vlm(tiny_model, "cpu", "float32")
    with tower_calls(vlm) as calls, pytest.raises(InputError, match="there is no room"):
        encode_into_file(vlm, pictures, ALONE, tmp_path)
    assert (calls, list(tmp_path.glob(".partial*"))) == ([], [])
