"""A training process that is killed for good, three times: its corrector and curve are those of one left alone."""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from commands.main import main
from tests.support.curves import loss_curve
from tests.support.held_processes import freeze_after
from tests.support.micro_shards import write_micro_shards
from trainers import loop

CONTEXT = multiprocessing.get_context("forkserver")  # five processes, and the imports once
CONTEXT.set_forkserver_preload(["torch", "diffusers", "transformers", "peft", "trainers.corrector"])
STEPS, EVERY = 24, 3


def arguments(data, out):
    argv = ["corrector", "--data", str(data), "--out", str(out), "--bf16", "False"]
    argv += ["--loop.steps", str(STEPS), "--loop.batch-size", "8", "--loop.micro-batch", "8"]
    argv += ["--loop.checkpoint-every", "2", "--loop.evaluate-every", "8", "--loop.report-every", str(EVERY)]
    argv += ["--condition.rank", "4", "--condition.alpha", "4", "--num-evaluated", "4", "--loop.ema-decay", "0.9"]
    return [*argv, "--encode.ahead", "--held-out-share", "0.2"]


def reported(step):
    return f"corrector {step}/{STEPS}  loss "


def train(argv, output, kill_at):
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout.reconfigure(line_buffering=True)
    if kill_at is not None:
        freeze_after(loop, reported(kill_at))
    sys.exit(main(argv))


def run(data, out, kill_at=None):
    """The exit code; with `kill_at` the process is killed when it has reported that step, where it stands still."""
    said = data.parent / "said.txt"
    said.write_text("")
    process = CONTEXT.Process(target=train, args=(arguments(data, out), str(said), kill_at))
    process.start()
    while process.is_alive():
        if kill_at is not None and reported(kill_at) in said.read_text():
            process.kill()
            break
        time.sleep(0.002)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), said.read_text()
    return process.exitcode


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_sigkills_change_no_byte_of_the_corrector_and_no_row_of_its_curve(tmp_path):
    data = write_micro_shards(tmp_path / "data", 40)
    assert run(data, tmp_path / "whole") == 0
    for step in sorted(random.Random(5).sample(range(EVERY, STEPS + 1, EVERY), 3)):
        assert run(data, tmp_path / "killed", kill_at=step) == -signal.SIGKILL
    assert run(data, tmp_path / "killed") == 0
    name = Path("corrector") / "pytorch_lora_weights.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert loss_curve(tmp_path / "killed") == loss_curve(tmp_path / "whole")
