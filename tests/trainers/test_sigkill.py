"""A training process that is killed for good, three times: its corrector and curve are those of one left alone."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.curves import loss_curve
from tests.support.micro_shards import write_micro_shards

ROOT = Path(__file__).parents[2]
STEPS = 24


def start(data, out):
    command = [sys.executable, "-m", "trainers", "corrector", "--data", str(data), "--out", str(out), "--bf16", "False"]
    command += ["--loop.steps", str(STEPS), "--loop.batch-size", "8", "--loop.micro-batch", "8"]
    command += ["--loop.checkpoint-every", "2", "--loop.evaluate-every", "8", "--loop.report-every", "3"]
    command += ["--condition.rank", "4", "--condition.alpha", "4", "--num-evaluated", "4", "--loop.ema-decay", "0.9"]
    command += ["--encode.ahead", "--held-out-share", "0.2"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def run(data, out, kill_at=None):
    """The exit code; with `kill_at` the process is killed as soon as it reports that step."""
    process = start(data, out)
    assert process.stdout is not None
    for line in process.stdout:
        step = re.match(rf"corrector (\d+)/{STEPS}  loss ", line)
        if kill_at is not None and step and int(step[1]) >= kill_at:
            process.send_signal(signal.SIGKILL)
    return process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_sigkills_change_no_byte_of_the_corrector_and_no_row_of_its_curve(tmp_path):
    data = write_micro_shards(tmp_path / "data", 40)
    assert run(data, tmp_path / "whole") == 0
    for step in sorted(random.Random(5).sample(range(3, STEPS), 3)):
        assert run(data, tmp_path / "killed", kill_at=step) == -signal.SIGKILL
    assert run(data, tmp_path / "killed") == 0
    name = Path("corrector") / "pytorch_lora_weights.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert loss_curve(tmp_path / "killed") == loss_curve(tmp_path / "whole")
