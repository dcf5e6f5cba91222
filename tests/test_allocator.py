"""The C library is told to keep freed memory on Linux alone, and not against the user's own setting."""

import ctypes

import pytest

from interp.runtime import allocator
from interp.runtime.allocator import keep_freed_memory


@pytest.fixture
def opened(monkeypatch):
    """The names of the libraries that are opened, while opening one without a name fails as on Windows."""
    names = []

    def open_library(name):
        names.append(name)
        raise TypeError("argument of type 'NoneType' is not iterable")

    monkeypatch.setattr(ctypes, "CDLL", open_library)
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return names


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems_are_left_alone(monkeypatch, opened, platform):
    monkeypatch.setattr(allocator.sys, "platform", platform)
    keep_freed_memory()
    assert opened == []


def test_the_users_own_setting_is_kept(monkeypatch, opened):
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    with pytest.raises(TypeError):
        keep_freed_memory()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    keep_freed_memory()
    assert opened == [None]
