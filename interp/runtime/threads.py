"""How threads wait for each other."""

import os
import sys

SPINS = 1000
"""Turns that a waiting thread spins before it sleeps, a few microseconds; GNU's default lasts milliseconds."""
TURN = 0.0005
"""Time after which a Python thread lets another one go on that waits [s]; Python's default is ten times that."""
TURN_BESIDE_GPU = 0.0001
"""The same where a thread launches a GPU's work, each time in a few microseconds [s]."""


def sleep_while_waiting() -> None:
    """Let torch's threads sleep when they wait for long; what the user has set is kept.

    By default they spin on, which keeps the thread that they wait for from its core as soon as there are more threads
    than free cores: beside other programs, or in a container that may use fewer cores than the machine has. To sleep at
    once would cost a third more time where cores are free. Must be called before torch is imported. The variable is
    that of GNU's OpenMP, which torch brings on Linux.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def take_short_turns(turn: float = TURN) -> None:
    """Let Python threads take turns often: the one that launches a GPU's work waits less for those that read images."""
    sys.setswitchinterval(turn)
