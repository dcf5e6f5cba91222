"""Calls that a thread makes are made in order, a few wait at most, and none of their errors is lost."""

import threading

import pytest

from interp.runtime.calls_beside import MAX_WAITING, CallsBeside
from interp.runtime.prefetch import map_beside


def test_calls_are_made_in_order_and_all_of_them_before_it_closes():
    calls, made = CallsBeside(), []
    for k in range(20):
        calls.add(lambda k=k: made.append((k, threading.current_thread() is threading.main_thread())))
    calls.close()
    assert made == [(k, False) for k in range(20)]


def test_whoever_adds_waits_while_too_many_do():
    calls, go = CallsBeside(), threading.Event()
    for _ in range(MAX_WAITING):
        calls.add(go.wait)
    one_more = threading.Thread(target=calls.add, args=(lambda: None,))
    one_more.start()
    one_more.join(0.2)
    assert one_more.is_alive()
    go.set()
    one_more.join(10)
    assert not one_more.is_alive()
    calls.close()


def test_an_error_is_raised_in_whoever_adds_or_closes():
    go = threading.Event()

    def fail():
        go.wait()
        raise ValueError("disk")

    calls = CallsBeside()
    calls.add(fail)
    threading.Timer(0.1, go.set).start()
    with pytest.raises(ValueError, match="disk"):
        list(map(calls.add, [lambda: None] * (MAX_WAITING + 1)))
    calls.close()
    go.clear()
    last = CallsBeside()
    last.add(fail)
    go.set()
    with pytest.raises(ValueError, match="disk"):
        last.close()


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
