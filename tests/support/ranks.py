"""Two ranks of a training, as processes that meet over gloo."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

NUM_RANKS = 2


def on_two_ranks(work: Callable[..., None], *arguments: Any, meeting: Path) -> None:
    """work(rank, *arguments) in a process each. ProcessRaisedException, ProcessExitedException where one fails.
    meeting: a file that is not there yet; it is gone afterwards."""
    torch.multiprocessing.spawn(_one, (work, arguments, meeting), nprocs=NUM_RANKS)
    meeting.unlink(missing_ok=True)


def _one(rank: int, work: Callable[..., None], arguments: tuple[Any, ...], meeting: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{meeting}", world_size=NUM_RANKS, rank=rank)
    work(rank, *arguments)
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not by an ordinary end: a thread of torch that still lets go of a tensor while the interpreter is taken down
    # ends the process with SIGABRT ("terminate called without an active exception"; pytorch/pytorch#190489).
    os._exit(0)
