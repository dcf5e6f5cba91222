"""Python's search for garbage spares what imports leave behind, and nothing else."""

import subprocess
import sys

PROGRAM = """
import gc, weakref
from interp.runtime.collector import COLLECT_AFTER, IMPORTS, collect_seldom

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

collect_seldom()
collect_seldom()
kept = [[] for _ in range(COLLECT_AFTER * (IMPORTS // 2))]
asked = cycle()
gc.collect()
print(asked() is None)
kept += [[] for _ in range(COLLECT_AFTER * IMPORTS)]
late = cycle()
kept += [[] for _ in range(2 * COLLECT_AFTER)]
print(late() is None, gc.get_freeze_count() > COLLECT_AFTER * (IMPORTS - 1))
"""


def test_cycles_are_found_when_asked_for_and_after_the_imports():
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["True"] * 3
