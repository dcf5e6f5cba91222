"""Batches of a CPU side by side: the numbers of one after the other, and torch's threads as they were."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from interp.measurement.margins import measure
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model import packing
from interp.model.image_tokens import encode_images
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.runtime import shared_cores
from interp.runtime.errors import InputError
from interp.runtime.shared_cores import map_sharing_cores, threads_with_a_core


@pytest.fixture
def threads():
    """Sets the number of torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_cores_are_divided_among_calls_that_run_at_the_same_time(threads):
    threads(6)
    together = threading.Barrier(3, timeout=10)

    def call(item):
        together.wait()
        return item, torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        assert list(map_sharing_cores(call, range(9), 3)) == [(item, 2, False) for item in range(9)]
    assert all(recorded for _, _, recorded in map_sharing_cores(call, range(3), 3))


def test_the_caller_and_other_threads_keep_all_cores_also_while_results_wait_and_after_they_are_given_up(threads):
    threads(6)

    def elsewhere():
        found = []
        other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        other.start()
        other.join()
        return [torch.get_num_threads(), *found]

    running, may_end = threading.Event(), threading.Event()

    def call(item):
        if item == 1:
            running.set()
            may_end.wait(10)
        return item

    results = map_sharing_cores(call, range(100), 2)
    assert next(results) == 0
    assert elsewhere() == [6, 6]
    assert running.wait(10)
    threading.Timer(0.1, may_end.set).start()
    results.close()
    assert may_end.is_set(), "a call that has begun is waited for"
    assert elsewhere() == [6, 6]
    assert list(map_sharing_cores(lambda item: torch.get_num_threads(), range(4), 2)) == [3] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_process_has_threads_of_its_own(threads):
    threads(2)
    assert list(map_sharing_cores(str, range(3), 2)) == ["0", "1", "2"]
    child = os.fork()
    if not child:
        os._exit(sum(map_sharing_cores(int, range(5), 2)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_process_that_is_forked_while_threads_begin_can_begin_its_own(threads):
    threads(2)
    beginning, may_end = threading.Event(), threading.Event()

    def begin():
        with shared_cores._BEGINNING:
            beginning.set()
            may_end.wait(10)

    other = threading.Thread(target=begin)
    other.start()
    assert beginning.wait(10)
    threading.Timer(0.1, may_end.set).start()
    child = os.fork()
    if not child:
        os._exit(sum(map_sharing_cores(int, range(5), 2)))
    # A process that waits for ever is ended by a signal.
    late = threading.Timer(30, os.kill, (child, signal.SIGKILL))
    late.start()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    late.cancel()
    other.join()


def test_callers_in_several_threads_begin_together_and_each_finds_all_cores(threads):
    threads(4)
    found = []

    def caller():
        own = list(map_sharing_cores(lambda item: torch.get_num_threads(), range(4), 2))
        found.append([*own, torch.get_num_threads()])

    for wave in (4, 1) * 5:
        # So that those of a wave begin threads anew.
        shared_cores._threads.cache_clear()
        callers = [threading.Thread(target=caller) for _ in range(wave)]
        for each in callers:
            each.start()
        for each in callers:
            each.join()
    assert [*found, torch.get_num_threads()] == [[2, 2, 2, 2, 4]] * 25 + [4]


def test_an_interruption_while_threads_begin_leaves_none_that_waits(threads, monkeypatch):
    threads(3)
    shared_cores._threads.cache_clear()
    before = set(threading.enumerate())

    class Interrupted(threading.Barrier):
        def wait(self, timeout=None):
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(shared_cores, "Barrier", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(map_sharing_cores(str, range(3), 3))
    assert set(threading.enumerate()) <= before
    assert torch.get_num_threads() == 3
    monkeypatch.undo()
    assert list(map_sharing_cores(str, range(3), 3)) == ["0", "1", "2"]


@pytest.mark.parametrize(("cores", "most"), [(1, 4), (4, 1)])
def test_one_at_a_time_is_the_callers_own_thread(threads, cores, most):
    threads(cores)
    own = threading.get_ident()
    assert set(map_sharing_cores(lambda item: (threading.get_ident(), torch.get_num_threads()), range(5), most)) == {
        (own, cores)
    }


def test_an_error_ends_the_others_and_gives_the_cores_back(threads):
    threads(2)

    def call(item):
        if item == 3:
            raise ValueError("three")
        return item

    results = map_sharing_cores(call, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert torch.get_num_threads() == 2


def test_every_number_is_that_of_one_batch_after_the_other(tiny_model, own_data, threads, monkeypatch):
    """Margins, residuals, patches and gradients, with a hook that changes a layer, to the last bit."""
    vlm = load_vlm(tiny_model, "cpu", "float32")
    prompts = prompt_table(load_questions(own_data / "questions.jsonl"))
    delta = torch.randn(len(prompts), 4, vlm.d_model, generator=torch.Generator().manual_seed(0))
    names: set[str] = set()

    def hook(output, batch):
        names.add(threading.current_thread().name)
        return output + 0.01 * torch.arange(vlm.d_model)

    vlm.output_hooks = {1: hook}
    # So that a batch is a few prompts, and gradients have as many batches at once as edits do.
    monkeypatch.setattr(packing, "CPU_POSITIONS", 64)

    def numbers():
        rerun = SuffixRerun(vlm, prompts, batch_tokens=16 * 64)
        found = measure(vlm, prompts, [0, 1, 3], batch_tokens=1024)
        return [*found, rerun.margins([2, 0, 3, 0], delta), rerun.gradients([2, 0, 0, 0], delta)]

    alone = numbers()
    assert names == {threading.main_thread().name}
    threads(2)
    together = numbers()
    assert len(names) > 2
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_images_have_the_same_tokens_and_an_unreadable_one_ends_all(tiny_model, own_data, threads):
    vlm = load_vlm(tiny_model, "cpu", "float32")
    paths = sorted({question.image for question in load_questions(own_data / "questions.jsonl")})
    encode_images(vlm, paths, batch_size=1)
    alone = dict(vlm.image_tokens)
    vlm.image_tokens.clear()
    threads(2)
    encode_images(vlm, paths, batch_size=1)
    assert len(paths) > 2
    assert all(torch.equal(vlm.image_tokens[path], alone[path]) for path in paths)
    vlm.image_tokens.clear()
    with pytest.raises(InputError, match="An image cannot be used"):
        encode_images(vlm, [paths[0], "gone.png", *paths[1:]], batch_size=1)
    assert torch.get_num_threads() == 2


def test_threads_take_over_autocast(threads):
    threads(2)

    def product(k):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    with torch.autocast("cpu", torch.bfloat16):
        assert set(map_sharing_cores(product, range(4), 2)) == {torch.bfloat16}
    assert set(map_sharing_cores(product, range(4), 2)) == {torch.float32}


def test_more_threads_than_cores_take_one_each(threads):
    threads(3)
    five = threads_with_a_core(5)
    assert list(five.map(lambda item: torch.get_num_threads(), range(20))) == [1] * 20
    assert threads_with_a_core(5) is five
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 3
