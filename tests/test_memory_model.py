"""The memory model against real tensors and published numbers, and what a run says that does not fit."""

import re
from contextlib import nullcontext

import pandas as pd
import pytest
import torch
from medgemma import medgemma_config, meta_medgemma

from finetune.lora.modules import add_lora, trainable_parameters
from interp.measurement.generate import generate
from interp.measurement.margins import measure, text_residuals
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.load import check_memory, load_vlm
from interp.model.memory_check import check_fits
from interp.model.memory_jobs import grounding, loading, measuring, searching, training
from interp.model.memory_model import (
    BATCH_TOKENS,
    FEWEST_TOKENS,
    RERUN_TOKENS,
    Format,
    adapter_bytes,
    answering_bytes,
    answering_tokens,
    gradient_tokens,
    occluded_images,
    passing_bytes,
    passing_tokens,
    rerun_bytes,
    rerun_tokens,
)
from interp.model.placement import choose_dtype
from interp.model.shape import MEDGEMMA_4B, ModelShape, shape_of_folder
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.runtime.memory import GIB, Memory
from interp.storage.hub import Source

FOUR, EIGHT = Format(load_in="4bit"), Format(load_in="8bit")
SINGLE, SINGLE_FOUR = Format("float32"), Format("float32", "4bit")
PEAKS = {
    "find-features, held to 16 GiB": (searching(34), Format(), 10.5),
    "find-features, 300 pairs": (searching(34), Format(), 19.1),
    "find-features, 999 images": (searching(34), Format(), 23.3),
    "find-features, held to 12 GiB, 4bit": (searching(34), FOUR, 6.3),
    "find-features, held to 16 GiB, 8bit": (searching(34), EIGHT, 8.82),
    "find-features, held to 24 GiB, float32": (searching(34), SINGLE, 19.02),
    "test-feature, held to 16 GiB": (searching(1), Format(), 9.7),
    "test-feature, held to 16 GiB, 8bit": (searching(1), EIGHT, 7.58),
    "test-feature, held to 24 GiB, float32": (searching(1), SINGLE, 19.06),
    "test-feature, held to 15 GiB, 4bit, float32": (searching(1), SINGLE_FOUR, 8.75),
    "finetune 15-19, batches of 8": (training(range(15, 20), 16, 8), Format(), 13.1),
    "finetune 15-19, held to 10 GiB": (training(range(15, 20), 16, 8), Format(), 9.92),
    "finetune 15-19, held to 24 GiB, float32": (training(range(15, 20), 16, 8), SINGLE, 23.58),
    "finetune 15-19, held to 15 GiB, 4bit, float32": (training(range(15, 20), 16, 8), SINGLE_FOUR, 10.98),
    "finetune 15-19, batches of 64": (training(range(15, 20), 16, 64), Format(), 49),
    "finetune 15-19, batches of 8, 8bit": (training(range(15, 20), 16, 8), EIGHT, 11.1),
    "finetune 15-19, batches of 8, 4bit": (training(range(15, 20), 16, 8), FOUR, 8.4),
    "evaluate, 60 questions": (measuring(), Format(), 10.12),
    "evaluate, 4bit": (measuring(), FOUR, 5.68),
    "evaluate, 8bit": (measuring(), EIGHT, 7.51),
    "evaluate, float32": (measuring(), SINGLE, 20.21),
    "evaluate, 4bit, float32": (measuring(), SINGLE_FOUR, 9.80),
    "grounding": (grounding(), Format(), 14.24),
    "grounding, held to 12 GiB": (grounding(), Format(), 10.41),
    "grounding, 8bit": (grounding(), EIGHT, 12.56),
    "grounding, 4bit": (grounding(), FOUR, 9.80),
    "grounding, held to 24 GiB, float32": (grounding(), SINGLE, 21.44),
    "grounding, held to 15 GiB, 4bit, float32": (grounding(), SINGLE_FOUR, 11.42),
}
"""What was run at MedGemma-4B's shape on a GPU of 80 GiB or more -> job, format of the weights, and peak of allocated
memory [GiB] (tests/benchmarks/README.md, interp/runtime/README.md)."""


def test_the_numbers_of_weights_are_those_of_the_real_shapes(tiny_model):
    model = meta_medgemma()
    assert ModelShape.of(model.config) == MEDGEMMA_4B
    assert MEDGEMMA_4B.parameters == sum(p.numel() for p in model.parameters()) == 4_300_079_472
    for folder in (tiny_model, WORLD / "planted"):
        vlm = load_vlm(folder, "cpu", "float32")
        assert vlm.shape.parameters == sum(p.numel() for p in vlm.model.parameters())
        assert vlm.shape.weight_bytes("float32") == sum(p.nbytes for p in vlm.model.parameters())


@pytest.mark.parametrize(("layers", "rank"), [(range(15, 20), 16), (range(34), 4)])
def test_an_adapters_bytes_are_its_weights_gradients_and_moments(layers, rank):
    vlm = Vlm(meta_medgemma(), None, "google/medgemma-4b-it", None, None)
    parameters = trainable_parameters(add_lora(vlm, list(layers), rank))
    assert adapter_bytes(MEDGEMMA_4B, len(layers), rank) == parameters * 4 * (1 + 1 + 2)


def test_keys_and_values_take_what_the_model_counts(tiny_model):
    vlm = load_vlm(tiny_model, "cpu", "float32")
    questions = [q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed][:3]
    rows = [{"image": q.image, "text": q.question, "closed": True} for q in questions]
    for cached in SuffixRerun(vlm, pd.DataFrame(rows))._batches("prompts"):
        tokens = len(cached.prompts) * cached.keys[0].shape[2]
        assert sum(t.nbytes for t in (*cached.keys, *cached.values)) == vlm.shape.kv_bytes(tokens, "float32")


@pytest.mark.parametrize("what", PEAKS)
def test_measured_peaks_lie_between_least_and_a_quarter_more_than_wanted(what):
    job, format, measured = PEAKS[what]
    need = job.needs(MEDGEMMA_4B, format)
    assert need.least < measured * GIB < 1.25 * need.wanted


def test_the_batches_of_sweeps_shrink_with_the_memory():
    free = [2.0**power for power in range(30, 38)]
    sizes = [rerun_tokens(MEDGEMMA_4B, Format(), int(each)) for each in free]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (FEWEST_TOKENS, RERUN_TOKENS)
    assert all(
        rerun_bytes(MEDGEMMA_4B, Format(), size) <= each / 2
        for size, each in zip(sizes, free, strict=True)
        if size > FEWEST_TOKENS
    )


def test_smaller_batches_of_sweeps_give_the_same(tiny_model):
    vlm = load_vlm(tiny_model, "cpu", "float32")
    questions = [q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed][:12]
    prompts = pd.DataFrame(
        [{"image": q.image, "text": text, "closed": True} for q in questions for text in (q.question, "Is it there?")]
    )
    delta = torch.randn(len(prompts), 3, vlm.d_model, generator=torch.Generator().manual_seed(0))
    large, small = (SuffixRerun(vlm, prompts, batch_tokens=tokens) for tokens in (BATCH_TOKENS, 64))
    assert len(list(small._batches("prompts"))) > len(list(large._batches("prompts")))
    torch.testing.assert_close(small.margins([0, 2, 3], delta), large.margins([0, 2, 3], delta), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        small.gradients([0, 2, 3], delta), large.gradients([0, 2, 3], delta), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("job", "free", "offered"),
    [
        (searching(34), 9.2, ["--batch-tokens 4", "--load-in 8bit", "--load-in 4bit"]),
        (searching(34), 6, ["--load-in 4bit"]),
        (measuring(), 8.5, ["--load-in 8bit", "--load-in 4bit"]),
        (
            training(range(15, 20), 16, 64, 64),
            24,
            ["--micro-batch-size 1", "--load-in 8bit --micro-batch-size 1", "--load-in 4bit --micro-batch-size 1"],
        ),
        (grounding(), 10, ["--load-in 8bit", "--load-in 4bit"]),
        (grounding(), 4, []),
    ],
)
def test_a_job_that_does_not_fit_says_what_would(job, free, offered):
    with pytest.raises(InputError) as refused:
        check_fits(MEDGEMMA_4B, Format(), job, int(free * GIB), on_gpu=True, limited=False)
    said = str(refused.value)
    assert f"and {free:.1f} GiB is free" in said
    for option in offered:
        assert f"{option} (" in said
    sizes = [float(size) for size in re.findall(r" \((\d+\.\d) GiB\)", said)]
    assert all(size <= free for size in sizes)
    assert len(sizes) == len(offered)
    check_fits(MEDGEMMA_4B, Format(), job, 80 * GIB, on_gpu=True, limited=False)


def test_a_job_that_hardly_does_not_fit_is_not_said_to_need_what_is_free():
    least = measuring().needs(MEDGEMMA_4B, Format()).least
    with pytest.raises(InputError) as refused:
        check_fits(MEDGEMMA_4B, Format(), measuring(), least - 1, on_gpu=True, limited=False)
    needed, free = re.search(r"at least (\d+\.\d) GiB .* and (\d+\.\d) GiB is free", str(refused.value)).groups()
    assert float(needed) > float(free)


def test_batches_shrink_until_they_fit():
    free = [2.0**power for power in range(28, 38)]
    for tokens, size in ((passing_tokens, passing_bytes), (answering_tokens, answering_bytes)):
        found = [tokens(MEDGEMMA_4B, SINGLE, int(each)) for each in free]
        assert (found[0], found[-1]) == (FEWEST_TOKENS, BATCH_TOKENS)
        for each, positions in zip(free, found, strict=True):
            assert positions == FEWEST_TOKENS or size(MEDGEMMA_4B, SINGLE, positions) <= each
            assert positions == BATCH_TOKENS or size(MEDGEMMA_4B, SINGLE, 2 * positions) > each
    # The residuals of 34 layers at 4,096 positions take as much as a pass over 16,384.
    few = passing_tokens(MEDGEMMA_4B, Format(), 2 * GIB, captured=34)
    assert 34 * few * MEDGEMMA_4B.width * 2 <= 2 * GIB < 34 * BATCH_TOKENS * MEDGEMMA_4B.width * 2


def test_little_memory_gives_smaller_batches_and_the_same_answers(tiny_model, monkeypatch):
    questions = [q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed][:60]
    prompts, sizes = prompt_table(questions), []

    vlm = load_vlm(tiny_model, "cpu", "float32")
    vlm.layers[0].register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[:2].numel()))
    found = []
    for free in (100 * GIB, 0):
        monkeypatch.setattr("interp.model.room.memory_left", lambda *_, free=free: Memory(free, free))
        sizes.clear()
        measured = measure(vlm, prompts, [2])
        residuals, _ = text_residuals(vlm, prompts, [0, 2])
        largest = max(sizes)
        found.append((largest, measured.margin, measured.residuals, residuals, generate(vlm, prompts[:40], 8)))
    (roomy, *expected, said), (small, *others, again) = found
    assert small <= FEWEST_TOKENS < roomy
    for one, other in zip(expected, others, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)
    assert again == said


def test_grounding_takes_smaller_passes_where_memory_is_short():
    images = [occluded_images(MEDGEMMA_4B, Format(), int(free * GIB)) for free in (0.1, 1, 2, 8)]
    tokens = [gradient_tokens(MEDGEMMA_4B, Format(), int(free * GIB)) for free in (0.1, 1.5, 3, 8)]
    assert (images, tokens) == ([8, 8, 16, 32], [512, 512, 1024, 2048])
    # A T4 has less than 15 GiB, and computes in float32.
    check_fits(MEDGEMMA_4B, Format("float32", "4bit"), grounding(), int(14.5 * GIB), on_gpu=True, limited=True)


def test_a_model_over_two_gpus_needs_on_each_what_was_measured():
    """Screening at the shape of Gemma 3 27B took 39 and 28 GiB (tests/benchmarks/README.md)."""
    shape = ModelShape.of(medgemma_config(large=True))
    need = measuring().needs(shape, Format()).on_each(2)
    assert need.least < 39 * GIB < 1.25 * need.wanted
    check_fits(shape, Format(), measuring(), 48 * GIB, on_gpu=True, limited=False, gpus=2)
    with pytest.raises(InputError, match=r"memory on each of 2 GPUs \(.*What fits: --load-in 8bit"):
        check_fits(shape, Format(), measuring(), 24 * GIB, on_gpu=True, limited=False, gpus=2)
    with pytest.raises(InputError, match="use more GPUs"):
        check_fits(shape, Format(), measuring(), 8 * GIB, on_gpu=True, limited=False, gpus=2)


def test_the_fullest_of_several_gpus_decides(tiny_model, monkeypatch):
    """Two GPUs, of which other programs have taken different parts."""
    devices, shape = [torch.device("cuda", number) for number in (0, 1)], shape_of_folder(tiny_model)
    need = loading().needs(shape, Format()).on_each(2).least
    for free, fits in (({0: 2 * need, 1: need}, True), ({0: 2 * need, 1: need - 1}, False)):
        monkeypatch.setattr("interp.model.load.total_left", lambda device, _, free=free: free[device.index])
        with nullcontext() if fits else pytest.raises(InputError, match="memory on each of 2 GPUs"):
            check_memory(Source(tiny_model, "tiny", None), Format(), loading(), devices, None)


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"needs at least 0\.\d GiB of main memory \(.*allowed by --max-memory"):
        load_vlm(tiny_model, "cpu", "float32", max_memory=0.001, job=searching(4))


def test_other_formats_and_limits_are_named(tiny_model):
    for wrong, says in (
        ({"load_in": "3bit"}, "load_in is '3bit', expected one of 4bit, 8bit, or None"),
        ({"max_memory": -1}, "max_memory is -1, expected a number of GiB above 0"),
        ({"max_memory": float("nan")}, "max_memory is nan"),
    ):
        with pytest.raises(InputError, match=says):
            load_vlm(tiny_model, "cpu", **wrong)


COMMANDS = [
    ("interp", "find-features"),
    ("interp", "test-feature"),
    ("interp", "transfer-check"),
    ("interp", "export-activations"),
    ("interp", "verify"),
    ("finetune",),
    ("finetune", "evaluate"),
    ("finetune", "ablate"),
    ("finetune", "grounding"),
    ("finetune", "benchmark"),
    ("finetune", "verify"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_that_loads_a_model_takes_a_limit(called, command):
    code, shown, _ = called(*command, "--help")
    assert code == 0
    assert "--max-memory" in shown
    # A verification takes the format that the run recorded.
    assert ("--load-in" in shown) == ("verify" not in command)


def test_a_gpu_without_bfloat16_computes_in_float32(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert choose_dtype("auto", gpu) == "float32"
    assert choose_dtype("float16", gpu) == "float16"
    with pytest.raises(
        InputError, match=r"Tesla T4 has compute capability 7\.5, and bfloat16 needs 8\.0\. Use --dtype"
    ):
        choose_dtype("bfloat16", gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert choose_dtype("auto", gpu) == choose_dtype("bfloat16", gpu) == "bfloat16"
    assert choose_dtype("auto", torch.device("cpu")) == "float32"
