"""What `interp doctor` prints: one screen of 80 columns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from interp.runtime.console import results_console
from interp.schemas.machine import Fit, HubRepository, Machine
from interp.views.table import Table, tabulate, words
from interp.views.terminal.show import bold, rich_table

if TYPE_CHECKING:
    from rich.console import Console

PACKAGES = ("gatescope", "python", "torch", "transformers")
"""The packages whose versions are shown."""
HEADING = 10
"""Columns before each line's text."""
ACCESS = {
    "open": "may download",
    "closed": "terms not accepted",
    "unreachable": "hub unreachable",
    "not asked": "access: --online",
}
"""Access to a repository -> what is said of it."""


def show_machine(machine: Machine, console: "Console | None" = None) -> None:
    """Print what a machine has, which commands fit, and what to do next."""
    console = console or results_console()
    for heading, text in _lines(machine):
        console.print(f"{bold(heading.ljust(HEADING))}", end="")
        console.print(text, soft_wrap=True, markup=False)
    table = fits_table(machine)
    console.print(f"\n{bold(table.caption)}", soft_wrap=True)
    console.print(rich_table(table))
    for sentence in advice(machine):
        console.print(sentence, soft_wrap=False, markup=False)


def _lines(machine: Machine) -> Iterator[tuple[str, str]]:
    versions = {name: machine.software[name] for name in PACKAGES if name in machine.software}
    yield "software", ", ".join(f"{name} {version}" for name, version in versions.items())
    driver = f"driver {machine.driver}" if machine.driver else "no NVIDIA driver"
    yield "GPU", f"{driver}, torch built for {f'CUDA {machine.cuda}' if machine.cuda else 'the CPU only'}"
    for gpu in machine.gpus:
        brain = "bfloat16" if gpu.bfloat16 else "no bfloat16"
        free = f"{gpu.free_gib} of {gpu.total_gib} GiB free"
        yield "", f"{gpu.name}, {free}, {brain} ({gpu.capability})"
    yield "CPU", f"{machine.cores} cores, {machine.memory_gib} GiB of memory free"
    for place, disk in enumerate(machine.disks):
        yield "" if place else "disk", f"{disk.free_gib} GiB free for {disk.purpose}, in {disk.path}"
    login = "logged in" if machine.login else "no login: `hf auth login`"
    yield "hub", f"{login}{'; HF_HUB_OFFLINE forbids the network' if machine.offline else ''}"
    for repository in machine.repositories:
        yield "", _repository(repository)
    told = [f"{each.name} {'missing' if each.missing else 'ready'}" for each in machine.extras]
    yield "extras", ", ".join(told) or "unknown, since gatescope is not installed as a package"


def _repository(repository: HubRepository) -> str:
    if repository.cached:
        return f"{repository.id}: cached"
    size = f"{repository.size_gb:g} GB, " if repository.size_gb else ""
    return f"{repository.id}: {size}not cached; {ACCESS[repository.access]}"


def fits_table(machine: Machine) -> Table:
    """One row for each command: the least memory with each format of the weights, and what it takes at most."""
    commands = list(dict.fromkeys(fit.command for fit in machine.fits))
    of = {(fit.command, fit.load_in): fit for fit in machine.fits}

    def cell(fit: Fit) -> str:
        return f"{fit.least_gib:g}{'' if fit.fits else ' no'}"

    return tabulate(
        f"{machine.shape}, {machine.dtype}: least {machine.place} [GiB]; no: not in {machine.free_gib:g}",
        [
            words("command", lambda command: command),
            words("saved", lambda command: cell(of[command, None])),
            words("8-bit", lambda command: cell(of[command, "8bit"])),
            words("4-bit", lambda command: cell(of[command, "4bit"])),
            words("most", lambda command: f"{of[command, None].wanted_gib:g}"),
        ],
        commands,
    )


def advice(machine: Machine) -> list[str]:
    """What to do with such a machine, a sentence each."""
    said = []
    plain = [fit for fit in machine.fits if fit.load_in is None]
    smaller = [fit for fit in machine.fits if fit.load_in is not None]
    if not machine.gpus:
        said.append("The embedded world needs no GPU; a model of 4B needs one.")
    if machine.assumed:
        said.append("For a card without bfloat16 (T4, V100, RTX 20) add --dtype float32.")
    elif machine.dtype == "float16":
        said.append("In float16 Gemma 3 overflows: use bfloat16 or float32.")
    elif any(not gpu.bfloat16 for gpu in machine.gpus):
        said.append("No bfloat16 here, so models run in float32; in float16 Gemma 3 overflows.")
    if not all(fit.fits for fit in plain) and any(fit.fits for fit in smaller):
        said.append("--load-in 8bit or 4bit quantizes the weights while they are loaded.")
    if not any(fit.fits for fit in machine.fits):
        said.append(f"Nothing fits at the shape of {machine.shape}: use another machine, or a smaller model.")
    if not machine.login and not all(repository.cached for repository in machine.repositories):
        said.append("MedGemma and PSF-Med are gated: accept their terms, then run `hf auth login`.")
    return said
