"""Threads that load Triton's launchers at the same time get their own; Triton itself needs a GPU (test_fused)."""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import pytest

from interp.model.kernel_launchers import one_at_a_time

LAUNCHER = """
#include <Python.h>
static PyObject *launch(PyObject *self, PyObject *args) {{ return PyLong_FromLong({number}); }}
static PyMethodDef methods[] = {{{{"launch", launch, METH_NOARGS, ""}}, {{NULL}}}};
static struct PyModuleDef definition = {{PyModuleDef_HEAD_INIT, "launcher", NULL, -1, methods}};
PyMODINIT_FUNC PyInit_launcher(void) {{ return PyModule_Create(&definition); }}
"""
"""A module as Triton's, whose `launch` returns a number."""


@pytest.fixture(scope="module")
def launchers(tmp_path_factory):
    """Paths of four modules of one name, whose `launch` return 0 to 3."""
    if not shutil.which("gcc"):
        pytest.skip("needs a C compiler")
    paths = []
    for number in range(4):
        source = tmp_path_factory.mktemp("launcher") / "launcher.c"
        source.write_text(LAUNCHER.format(number=number))
        made = source.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))
        include = sysconfig.get_paths()["include"]
        subprocess.check_call(["gcc", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(made)])
        paths.append(str(made))
    return paths


def load(name, path):
    """As Triton loads it."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_module_that_is_loaded_again_shares_its_functions_with_others_unless_each_has_a_copy(launchers):
    """What goes wrong between two threads: one loads after another, which then takes its launcher."""
    apart = one_at_a_time(load)
    for path in launchers:
        load("launcher", path)
    first, second = (load("launcher", path) for path in launchers[:2])
    assert first.launch() == second.launch() == 1
    assert [module.launch() for module in [apart("launcher", path) for path in launchers]] == [0, 1, 2, 3]


def test_threads_that_load_modules_of_one_name_get_their_own(launchers):
    apart, turn = one_at_a_time(load), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            wanted = [k % 4 for k in range(4000)]
            found = pool.map(lambda k: apart("launcher", launchers[k]).launch(), wanted)
            assert list(found) == wanted
    finally:
        sys.setswitchinterval(turn)
