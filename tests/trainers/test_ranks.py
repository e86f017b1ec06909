"""Ranks of tests end well whatever their threads still do, and badly where their work fails."""

import threading

import pytest
import torch

from tests.support.ranks import on_two_ranks


def busy_to_the_end(rank, folder):
    """Work that leaves a thread behind, which goes on with tensors while the process ends."""

    def go_on():
        tensor = torch.zeros(100)
        while True:
            tensor + tensor

    for _ in range(4):
        threading.Thread(target=go_on, daemon=True).start()
    total = torch.tensor([rank + 1.0])
    torch.distributed.all_reduce(total)
    (folder / f"rank_{rank}").write_text(str(int(total)))


def failing(rank):
    if rank:
        raise ValueError("of the second rank")


def test_a_thread_that_is_still_at_work_spoils_no_end(tmp_path):
    on_two_ranks(busy_to_the_end, tmp_path, meeting=tmp_path / "meeting")
    assert [(tmp_path / f"rank_{rank}").read_text() for rank in (0, 1)] == ["3", "3"]
    assert not (tmp_path / "meeting").exists()


def test_a_rank_that_fails_is_told(tmp_path):
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="of the second rank"):
        on_two_ranks(failing, meeting=tmp_path / "meeting")
