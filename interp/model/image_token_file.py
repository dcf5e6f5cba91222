"""Image tokens in a memory-mapped file: all processes of a machine read the same pages, and none holds them itself.

A training asks about every image in every epoch. The tokens of 12,000 images of MedGemma take 16 GB, which fit on a
disk but not into the memory of each of eight processes. The operating system keeps as much of the file in memory as
there is room for.
"""

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from interp.images.decode import NO_IMAGE
from interp.model.image_tokens import encode_images
from interp.model.vlm import Vlm
from interp.runtime.async_copies import gather_async, to_host_async
from interp.runtime.distributed import Team, local_rank
from interp.storage.atomic import PARTIAL
from interp.storage.write_errors import write_errors

BLOCK = 512
"""Images whose tokens a process holds in memory at a time; a multiple of the batch of `encode_images`."""
EXCHANGE_SIZE = 64
"""Images per process whose tokens are exchanged at once."""


def encode_into_file(vlm: Vlm, paths: Sequence[str], team: Team, folder: Path) -> None:
    """Encode images as `encode_images` does, with their tokens in a file in `folder` that `vlm.image_tokens` map.

    Each process of `team` encodes its share. The file has no name once all have opened it, so it vanishes with them.
    Raises InputError for an image that cannot be read, and if there is no room for the file.
    """
    vlm.image_tokens.setdefault(NO_IMAGE, torch.empty(0, vlm.d_model))
    missing = [path for path in dict.fromkeys(paths) if path not in vlm.image_tokens]
    if not missing:
        return
    # One file a machine, because a mapping of a network's file system may not see what another machine writes.
    writes = local_rank() == 0
    writers = [rank for rank, first in enumerate(team.gather_values(writes)) if first]
    file = folder / f"{PARTIAL}image-tokens-{platform.node()}"
    shape = torch.Size((len(missing), vlm.model.config.mm_tokens_per_image, vlm.d_model))
    if writes:
        _allocate(file, shape.numel() * vlm.tower_dtype.itemsize)
    team.barrier()
    table = torch.from_file(str(file), shared=True, size=shape.numel(), dtype=vlm.tower_dtype).view(shape)
    team.barrier()
    if writes:
        # Windows keeps an open file; what is left is removed at the next start.
        with suppress(OSError):
            file.unlink()
    place = {path: row for row, path in enumerate(missing)}
    parts = [team.block(missing, rank) for rank in range(team.size)]
    for start in range(0, max(map(len, parts)), BLOCK):
        of_all = [part[start : start + BLOCK] for part in parts]
        mine = of_all[team.rank]
        encode_images(vlm, mine)
        for first in range(0, max(map(len, of_all)), EXCHANGE_SIZE):
            shares = [part[first : first + EXCHANGE_SIZE] for part in of_all]
            found = _gathered(vlm, shares, writers, team)
            if writes:
                table[[place[path] for path in chain(*shares)]] = found
        for path in mine:
            del vlm.image_tokens[path]
    team.barrier()
    vlm.image_tokens.update(zip(missing, table, strict=True))


def _gathered(vlm: Vlm, shares: Sequence[Sequence[str]], writers: Sequence[int], team: Team) -> Tensor:
    """The tokens of some images of every process, in the order of ranks, in main memory of the processes `writers`."""
    own = [vlm.image_tokens[path] for path in shares[team.rank]]
    if team.size == 1:
        return torch.stack(own)
    none = torch.empty(0, vlm.model.config.mm_tokens_per_image, vlm.d_model, dtype=vlm.tower_dtype)
    sent = gather_async([none, *(tokens[None] for tokens in own)], vlm.device)
    lengths = [len(part) for part in shares]
    found = {writer: team.gather_to(writer, sent, lengths) for writer in writers}.get(team.rank)
    return to_host_async(torch.cat(found))() if found else none


def _allocate(file: Path, size: int) -> None:
    """Create a file of `size` bytes, readable by its owner only; a full disk shows here, not at a later write."""
    with write_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, size)
            else:
                os.ftruncate(handle, size)
        except OSError:
            file.unlink()
            raise
        finally:
            os.close(handle)
