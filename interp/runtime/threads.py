"""How the threads of a CPU wait for each other."""

import os


def wait_asleep() -> None:
    """Let torch's threads sleep while they wait; a user's own OMP_WAIT_POLICY is kept.

    By default they spin, which keeps the thread that they wait for from its core as soon as there are more threads than
    free cores: beside other programs, or in a container that may use fewer cores than the machine has. Must be called
    before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
