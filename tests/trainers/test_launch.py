"""A training on two workers of a real Ray cluster: it ends with the same bytes, whoever is killed on the way."""

import math
import os
import random
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from commands.main import main
from schemas.errors import InputError, StoppedError, WorkFailedError
from tests.support.curves import loss_curve
from tests.support.micro_shards import write_micro_shards
from tests.support.micro_trainings import micro_reflector_training
from tests.support.processes import wait_until
from tests.support.tiny_vlm import save_tiny_vlm
from trainers.checkpoint import Checkpoints, save_checkpoint
from trainers.launch import STOP, LaunchConfig, launch
from trainers.loop import LoopConfig, OptimizerConfig
from trainers.reflector import ReflectorConfig, open_training

TWO = LaunchConfig(workers=2, cpus_per_worker=0.5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("launch")
    return write_micro_shards(root / "data", 16), save_tiny_vlm(root / "vlm")


def config(folders, out, **changes):
    loop = LoopConfig(
        steps=12, batch_size=4, micro_batch=2, evaluate_every=12, checkpoint_every=1, report_every=5, loader_workers=0
    )
    return replace(
        micro_reflector_training(str(folders[0]), Path(out)),
        model=ReflectorConfig(str(folders[1]), "micro/reflect", "micro/compare", rank=4, image_px=0),
        optimizer=OptimizerConfig("adamw", 5e-3, max_gradient_norm=1.0),
        loop=replace(loop, **changes),
        held_out_share=0.4,
        num_evaluated=4,
        num_written=2,
    )


def test_a_batch_that_workers_cannot_share_is_refused(folders, tmp_path):
    with pytest.raises(InputError, match="a batch of 5 on 2 ranks"):
        launch(open_training, config(folders, tmp_path, batch_size=5), tmp_path, TWO)
    with pytest.raises(InputError, match="0 workers"):
        LaunchConfig(workers=0)


def test_resume_needs_a_checkpoint(folders, tmp_path, capsys):
    command = ["corrector", "--data", str(folders[0]), "--out", str(tmp_path), "--resume"]
    assert main(command) == 2
    assert f"no checkpoint in {tmp_path / 'checkpoints'}" in capsys.readouterr().err
    started = []
    save_checkpoint(tmp_path / "checkpoints" / "step_00000003.pt", {"step": 3})

    def note_start(config, rank) -> Any:
        started.append(rank)
        return SimpleNamespace(run=lambda stop: None)

    launch(note_start, config(folders, tmp_path), tmp_path, LaunchConfig(resume=True))
    assert len(started) == 1


def test_who_stops_at_once_hears_whether_anything_is_kept(folders, tmp_path):
    def interrupted(config, rank):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="begins anew: there is no checkpoint yet"):
        launch(interrupted, config(folders, tmp_path), tmp_path, LaunchConfig())
    save_checkpoint(tmp_path / "checkpoints" / "step_00000007.pt", {"step": 7})
    with pytest.raises(KeyboardInterrupt, match="goes on from the checkpoint of step 7"):
        launch(interrupted, config(folders, tmp_path), tmp_path, LaunchConfig())


def counted_start(events: dict[int, Path]):
    """`open_training`, each start of which is a line of `starts`, the worker's pid; none goes on before all have begun.
    Workers wait after so many steps for a file."""

    def start(config, rank):
        with open(config.out / "starts", "a") as file:
            file.write(f"{os.getpid()}\n")
        torch.distributed.barrier()
        training = open_training(config, rank)
        losses = training.trainable.losses

        def late_losses(samples):
            if training.step in events:
                wait_until(events[training.step].exists, 300)
            return losses(samples)

        training.trainable.losses = late_losses
        return training

    return start


class KillsWorkers(threading.Thread):
    """SIGKILL to the training worker that began last, as soon as there is a checkpoint of each of the steps, whose file
    comes then: the workers wait for it."""

    def __init__(self, out: Path, killed: dict[int, Path]) -> None:
        super().__init__(daemon=True)
        self.out, self.killed, self.left = out, killed, sorted(killed)
        self.ended = threading.Event()

    def run(self) -> None:
        while self.left and not self.ended.wait(0.02):
            if Checkpoints(self.out / "checkpoints").steps()[-1:] >= self.left[:1]:
                worker = psutil.Process(int((self.out / "starts").read_text().split()[-1]))
                worker.kill()
                worker.wait()
                self.killed[self.left.pop(0)].touch()


class StopsOnce(threading.Thread):
    """Ctrl-C to this process as soon as there is a checkpoint of a step."""

    def __init__(self, checkpoints: Path, step: int) -> None:
        super().__init__(daemon=True)
        self.checkpoints, self.step, self.ended = checkpoints, step, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            if Checkpoints(self.checkpoints).steps()[-1:] >= [self.step]:
                os.kill(os.getpid(), signal.SIGINT)
                return


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False)  # not one that another test started
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_killed_workers_change_no_byte_of_the_adapter_and_no_row_of_the_curve(cluster, folders, tmp_path):
    killed = {step: tmp_path / f"killed_after_{step}" for step in random.Random(3).sample(range(2, 11), 2)}
    killer = KillsWorkers(tmp_path / "killed", killed)
    try:
        launch(open_training, config(folders, tmp_path / "whole"), tmp_path / "whole", TWO)
        killer.start()
        launch(counted_start(killed), config(folders, tmp_path / "killed"), tmp_path / "killed", TWO)
    finally:
        killer.ended.set()
    assert not killer.left
    assert len((tmp_path / "killed" / "starts").read_text().split()) == 2 * (1 + len(killed))
    stopper = StopsOnce(tmp_path / "stopped" / "checkpoints", 3)
    stopper.start()
    until_asked = counted_start({3: tmp_path / "stopped" / STOP})
    try:
        with pytest.raises(StoppedError, match=r"stopped after step [45] of 12, of which there is a checkpoint") as end:
            launch(until_asked, config(folders, tmp_path / "stopped"), tmp_path / "stopped", TWO)
    finally:
        stopper.ended.set()
    after = int(str(end.value).split("step ")[1].split()[0])
    assert Checkpoints(tmp_path / "stopped" / "checkpoints").steps()[-1] == after
    launch(open_training, config(folders, tmp_path / "stopped"), tmp_path / "stopped", TWO)
    name = Path("reflector") / "adapter_model.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert loss_curve(tmp_path / "killed") == loss_curve(tmp_path / "whole")
    assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert loss_curve(tmp_path / "stopped") == loss_curve(tmp_path / "whole")


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_what_would_come_again_ends_a_training_at_once_with_its_own_error(cluster, folders, tmp_path):
    start = counted_start({})

    def no_number_on_the_second(config, rank):
        training = start(config, rank)
        if not rank.is_first:
            broken = torch.stack([p.sum() for p in training.parameters]).sum()[None] * math.nan
            training.trainable.losses = lambda samples: [(["rule"], broken)]
        return training

    with pytest.raises(InputError, match="no such folder") as refused:
        launch(start, replace(config(folders, tmp_path), data=str(tmp_path / "none")), tmp_path, TWO)
    assert refused.value.exit_code == 2
    assert len((tmp_path / "starts").read_text().split()) == 2
    with pytest.raises(WorkFailedError, match=r"step 0: the loss is nan; samples 0 to 3"):
        launch(no_number_on_the_second, config(folders, tmp_path), tmp_path, TWO)
    assert len((tmp_path / "starts").read_text().split()) == 4
