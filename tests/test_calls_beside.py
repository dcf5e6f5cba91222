"""Calls that a thread makes are made in order, a few wait at most, and none of their errors is lost."""

import threading

import pytest
import torch

from interp.runtime.calls_beside import MAX_WAITING, CallsBeside
from interp.runtime.prefetch import map_beside


def test_calls_are_made_in_order_and_all_of_them_before_it_closes():
    made = []
    with CallsBeside() as calls:
        for k in range(20):
            calls.add(lambda k=k: made.append((k, threading.current_thread() is threading.main_thread())))
    assert made == [(k, False) for k in range(20)]


@pytest.mark.parametrize("most", [1, 2, 4])
def test_whoever_adds_waits_while_too_many_do(most):
    go = threading.Event()
    with CallsBeside(most) as calls:
        for _ in range(most):
            calls.add(go.wait)
        one_more = threading.Thread(target=calls.add, args=(lambda: None,))
        one_more.start()
        one_more.join(0.2)
        assert one_more.is_alive()
        go.set()
        one_more.join(10)
        assert not one_more.is_alive()


@pytest.fixture
def failing():
    """Two functions: a call that fails once it may, and what lets it."""
    go = threading.Event()

    def fail():
        assert go.wait(10)
        raise ValueError("disk")

    return fail, go.set


def test_an_error_is_raised_in_whoever_adds_and_nothing_is_called_after_it(failing):
    fail, let, made = *failing, []

    def add_too_many():
        with CallsBeside() as calls:
            calls.add(fail)
            threading.Timer(0.1, let).start()
            for k in range(MAX_WAITING + 1):
                calls.add(lambda k=k: made.append(k))

    with pytest.raises(ValueError, match="disk"):
        add_too_many()
    assert not made


def test_an_error_is_raised_in_whoever_closes_and_nothing_is_called_after_it(failing):
    fail, let, made = *failing, []

    def close_early():
        with CallsBeside() as calls:
            calls.add(fail)
            calls.add(lambda: made.append("after"))
            let()

    with pytest.raises(ValueError, match="disk"):
        close_early()
    assert not made


def test_an_error_of_the_work_itself_is_not_replaced_by_one_of_the_thread(failing):
    fail, let = failing

    def interrupted():
        with CallsBeside() as calls:
            calls.add(fail)
            let()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_gradients_and_inference_mode_are_those_of_whoever_adds(mode):
    with mode(), CallsBeside() as calls:
        written = torch.zeros(3)
        calls.add(lambda: written.add_(1))
        calls.add(lambda: written.mul_(2 if torch.is_grad_enabled() == (mode is torch.enable_grad) else 0))
    assert written.tolist() == [2.0] * 3


def test_work_beside_goes_on_and_what_has_not_begun_when_it_closes_is_cancelled():
    begun, go = [], threading.Event()

    def work(k):
        begun.append(k)
        assert go.wait(10)
        return k * k

    with map_beside(work, range(4), 2) as results:
        go.set()
        assert list(results) == [0, 1, 4, 9]
    begun.clear()
    go.clear()
    with map_beside(work, range(50), 2):
        threading.Timer(0.05, go.set).start()
    assert len(begun) < 10


def test_without_threads_work_is_done_when_it_is_taken():
    done = []
    with map_beside(lambda k: done.append(k), range(3), 0) as results:
        assert done == []
        next(results)
        assert done == [0]
