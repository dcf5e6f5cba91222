"""What `interp doctor` says of a machine; `--json` prints it."""

from typing import Literal

from pydantic import Field

from interp.schemas.record import Record


class Gpu(Record):
    """One GPU that torch can use."""

    name: str = Field(description="name of the card")
    total_gib: float = Field(description="its memory [GiB]")
    free_gib: float = Field(description="memory that no program uses now [GiB]")
    capability: str = Field(description="compute capability, as 8.0")
    bfloat16: bool = Field(description="whether it computes bfloat16 itself: compute capability 8.0 or higher")


class Disk(Record):
    """A place where commands write much."""

    purpose: str = Field(description="what is written there")
    path: str = Field(description="the folder, with ~ for the home folder")
    free_gib: float = Field(description="free space [GiB]")


class HubRepository(Record):
    """A repository of the Hugging Face hub that the published study needs."""

    id: str = Field(description="owner/name")
    kind: Literal["model", "dataset"] = Field(description="kind of the repository")
    purpose: str = Field(description="what it is for")
    size_gb: float | None = Field(description="size of the download [10^9 bytes]; null where it is small")
    cached: bool = Field(description="whether a snapshot of it is in the cache")
    access: Literal["open", "closed", "unreachable", "not asked"] = Field(
        description="whether this login may download it: closed until its terms are accepted; not asked without "
        "--online"
    )


class Extra(Record):
    """An optional part of the installation, as in `pip install ".[quantized]"` in a checkout."""

    name: str = Field(description="name of the extra")
    missing: list[str] = Field(description="its packages that are not installed")


class Fit(Record):
    """Whether a command fits into memory with weights of one format."""

    command: str = Field(description="the command and what decides its memory")
    load_in: Literal["4bit", "8bit"] | None = Field(description="quantization of the decoder; null for none")
    least_gib: float = Field(description="memory without which it cannot run [GiB]")
    wanted_gib: float = Field(description="memory that it takes where there is enough [GiB]")
    fits: bool = Field(description="whether the least is free")


class Machine(Record):
    """A machine, seen from this program. Nothing here was loaded or downloaded."""

    software: dict[str, str] = Field(description="package -> version")
    driver: str | None = Field(description="version of the NVIDIA driver; null without one")
    cuda: str | None = Field(description="version of CUDA that torch was built for; null for a CPU build")
    gpus: list[Gpu] = Field(description="the GPUs that torch can use")
    cores: int = Field(description="CPU cores that this process may use")
    memory_gib: float = Field(description="main memory that is free [GiB], within the limits of a container")
    disks: list[Disk] = Field(description="free space where commands write")
    login: bool = Field(description="whether a token of the hub is there")
    offline: bool = Field(description="whether HF_HUB_OFFLINE forbids the network")
    repositories: list[HubRepository] = Field(description="what the published study downloads")
    extras: list[Extra] = Field(description="optional parts of the installation")
    shape: str = Field(description="the model whose shape the fits are computed for")
    dtype: str = Field(description="number format that the fits are computed for")
    assumed: bool = Field(description="whether it was assumed of a GPU that is not here")
    place: Literal["GPU memory", "main memory"] = Field(description="the memory that the model would be in")
    free_gib: float = Field(description="how much of it is free, or was asked about [GiB]")
    fits: list[Fit] = Field(description="what each command needs, and whether it is there")
