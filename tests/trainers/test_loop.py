"""The loop around every training: what is read when, what a moving average is, what is exported, what stops it."""

import contextlib
import json
import os
import sys
import time
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from schemas.digests import file_digest
from schemas.errors import InputError, StoppedError, StorageError, WorkFailedError
from tests.support.curves import loss_curve
from tests.support.full_disk import room_for
from tests.support.plain_shards import write_shards
from tests.support.ranks import on_two_ranks
from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.curve import Curve
from trainers.loop import ALONE, LoopConfig, OptimizerConfig, Rank, TrainingLoop
from trainers.shard_dataset import EVEN_MIX, TrainingOrder
from trainers.shard_index import open_index

LOOP = LoopConfig(
    steps=12, batch_size=4, micro_batch=2, evaluate_every=3, checkpoint_every=3, report_every=6, loader_workers=0
)
SGD = OptimizerConfig("adamw", 0.1, weight_decay=0.0, max_gradient_norm=100.0)


@dataclass(frozen=True)
class SlopeTraining:
    data: str = "shards"
    loop: LoopConfig = LOOP
    optimizer: OptimizerConfig = SGD


class Slope:
    """A line through (brightness, prompt length), whose best evaluation is at step `best`."""

    name = "slope"

    def __init__(self, best=6):
        torch.manual_seed(0)
        self.config = SlopeTraining()
        self.module = torch.nn.Linear(1, 1)
        self.best, self.evaluated, self.exported, self.breaks_at = best, [], None, None
        self.seen = 0

    def losses(self, samples):
        self.seen += 1
        brightness = torch.tensor([[t.good.mean() / 255] for t in samples], dtype=torch.float32)
        wanted = torch.tensor([[len(t.prompt) / 10] for t in samples])
        losses = (self.module(brightness) - wanted).square().mean(1)
        if self.breaks_at is not None and self.seen > self.breaks_at:
            losses = losses * float("nan")
        yield [t.subset for t in samples], losses

    def evaluate(self):
        self.evaluated.append(self.module.weight.item())
        step = 3 * len(self.evaluated)
        return {"distance": float(abs(step - self.best)), "score": -float(abs(step - self.best))}

    def draw_samples(self, step):
        pass

    def export(self):
        self.exported = self.module.weight.item()


@pytest.fixture(scope="module")
def order(tmp_path_factory):
    return TrainingOrder(open_index(str(write_shards(tmp_path_factory.mktemp("data"), ["rule"] * 20))), EVEN_MIX, 4, 0)


def loop(order, out, trainable=None, data="shards", optimizer=SGD, rank=ALONE, **changes):
    trainable = trainable or Slope()
    trainable.config = SlopeTraining(data, replace(LOOP, **changes), optimizer)
    return TrainingLoop(trainable, order, trainable.config.loop, optimizer, out, rank)


def test_figures_read_now_and_then_are_the_same_figures(order, tmp_path):
    def rows(name, **changes):
        found = {}
        training = loop(order, tmp_path / name, **changes)
        training.run(lambda step, row: found.setdefault(step, row))
        return found, training

    (each, one), (seldom, other) = rows("a"), rows("b", read_every=5)
    assert list(seldom) == list(each) == list(range(1, 13))
    assert all(seldom[step] == each[step] for step in each)
    assert torch.equal(one.parameters[0], other.parameters[0])


def test_a_loss_that_is_no_number_leaves_sound_checkpoints_however_seldom_it_is_looked_at(order, tmp_path):
    trainable = Slope()
    trainable.breaks_at = 8  # two micro-batches a step: from step 4 on
    training = loop(order, tmp_path, trainable, read_every=100, report_every=100)
    with pytest.raises(WorkFailedError, match=r"step 4: the loss is nan; samples 16 to 19"):
        training.run()
    assert training.checkpoints.steps() == [3]
    assert loop(order, tmp_path).parameters[0].isfinite().all()


def test_the_moving_average_is_evaluated_and_exported_and_the_weights_go_on(order, tmp_path):
    trainable, plain = Slope(), Slope()
    training = loop(order, tmp_path / "a", trainable, ema_decay=0.9)
    training.run()
    loop(order, tmp_path / "b", plain).run()
    assert torch.equal(trainable.module.weight, plain.module.weight)
    assert trainable.exported == pytest.approx(training.ema._average[0].item())
    assert trainable.exported != plain.exported
    assert trainable.evaluated[-1] == trainable.exported
    again = loop(order, tmp_path / "a", ema_decay=0.9)
    assert again.ema._average[0].item() == trainable.exported
    with pytest.raises(InputError, match="ema_decay"):
        loop(order, tmp_path / "c", ema_decay=1.0)


def test_the_best_weights_are_exported_where_that_is_asked_for(order, tmp_path):
    last, best = Slope(), Slope()
    loop(order, tmp_path / "last", last).run()
    training = loop(order, tmp_path / "best", best, export="best", keep_last=1)
    training.run()
    assert training.checkpoints.best()[0] == 6
    assert best.exported == best.evaluated[1]
    assert last.exported == last.evaluated[3] != best.exported


def test_a_folder_goes_on_with_its_own_training_alone(order, tmp_path):
    loop(order, tmp_path, steps=6).run()
    faster = replace(SGD, learning_rate=9.0)
    with pytest.raises(InputError, match=r"another training: optimizer.learning_rate was 0.1, is 9.0\n"):
        loop(order, tmp_path, data="other", optimizer=faster, steps=6)
    with pytest.raises(InputError, match=r"ema_decay was 0.0, is 0.5; loop.seed was 0, is 1\n"):
        loop(order, tmp_path, seed=1, ema_decay=0.5)
    with pytest.raises(InputError, match="trained for 6 steps already"):
        loop(order, tmp_path, steps=5)
    often = {"micro_batch": 1, "report_every": 1, "evaluate_every": 6, "keep_last": 1, "export": "best"}
    longer = loop(order, tmp_path, data=str(Path("shards").resolve()), steps=12, loader_workers=1, **often)
    assert longer.step == 6
    longer.run()
    assert longer.step == 12


def test_evaluations_come_at_the_steps_that_were_asked_for_each_with_a_checkpoint(order, tmp_path):
    training = loop(order, tmp_path, checkpoint_every=5, evaluate_every=2, keep_last=20)
    training.run()
    assert [row["step"] for row in loss_curve(tmp_path) if "distance" in row] == [2, 4, 6, 8, 10, 12]
    assert training.checkpoints.steps() == [2, 4, 5, 6, 8, 10, 12]


@pytest.mark.parametrize("name", ["report_every", "evaluate_every", "checkpoint_every"])
def test_every_zero_steps_is_refused(order, tmp_path, name):
    with pytest.raises(InputError, match=f"field: --loop.{name.replace('_', '-')}"):
        loop(order, tmp_path, **cast(Any, {name: 0}))


@pytest.mark.parametrize(
    ("part", "doing"),
    [
        ("losses", "the step"),
        ("evaluate", "the evaluation"),
        ("draw_samples", "drawing samples"),
        ("export", "the export"),
    ],
)
def test_running_out_of_memory_says_where_and_what_to_do(order, tmp_path, part, doing):
    trainable = Slope()
    setattr(trainable, part, lambda *_: torch.empty(2**50, dtype=torch.uint8))
    expected = rf"out of memory in {doing} with micro-batches of 2[\s\S]*--loop.micro-batch 1"
    with pytest.raises(WorkFailedError, match=expected):
        loop(order, tmp_path, trainable).run()


def test_an_optimizer_that_finds_no_memory_is_named_as_well(order, tmp_path):
    training = loop(order, tmp_path)
    training.optimizer.step = lambda: torch.empty(2**50, dtype=torch.uint8)
    with pytest.raises(WorkFailedError, match="step 0: out of memory in the step"):
        training.run()


def test_broken_samples_are_counted_over_restarts_and_named_at_the_end(tmp_path, capsys):
    folder = write_shards(tmp_path / "data", ["rule"] * 10, broken=(3,))
    order = TrainingOrder(open_index(str(folder)), EVEN_MIX, 4, 0)
    whole = loop(order, tmp_path / "whole")
    whole.run()
    assert f"{whole.num_broken} samples did not read" in capsys.readouterr().out
    loop(order, tmp_path / "parts", steps=6).run()
    rest = loop(order, tmp_path / "parts")
    rest.run()
    assert rest.num_broken == whole.num_broken > 0


class Killed(Exception):
    pass


def run_until(training, kill_at):
    """Train, and break off in the middle of a step. (A slope knows its step by its evaluations.)"""
    training.trainable.evaluated += [None] * (training.step // 3)

    def on_step(step, row):
        if step == kill_at:
            raise Killed

    with contextlib.suppress(Killed):
        training.run(on_step)


@pytest.mark.parametrize("read_every", [1, 100])
def test_asked_to_stop_it_leaves_a_checkpoint_of_the_step_at_hand_and_goes_on_from_there(order, tmp_path, read_every):
    run_until(loop(order, tmp_path / "whole", read_every=read_every), None)
    stopped = loop(order, tmp_path / "stopped", read_every=read_every)
    with pytest.raises(StoppedError, match="slope: stopped after step 5 of 12"):
        stopped.run(stop=lambda: stopped.step == 4)
    assert stopped.checkpoints.steps()[-1] == 5
    again = loop(order, tmp_path / "stopped", read_every=read_every)
    assert again.step == 5
    run_until(again, None)
    assert loss_curve(tmp_path / "stopped") == loss_curve(tmp_path / "whole")


@pytest.mark.parametrize("kills", [(5,), (2, 8, 11), (6, 7)])
def test_kills_leave_the_curve_as_it_is_without_them(order, tmp_path, kills):
    changes: dict[str, Any] = {"report_every": 4, "checkpoint_every": 3}
    loop(order, tmp_path / "whole", **changes).run()
    for step in kills:
        run_until(loop(order, tmp_path / "killed", **changes), step)
    with open(tmp_path / "killed" / "curve.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # a row that was being written
    run_until(loop(order, tmp_path / "killed", **changes), None)
    assert [row["step"] for row in loss_curve(tmp_path / "whole")] == [3, 4, 6, 8, 9, 12, 12]
    assert loss_curve(tmp_path / "killed") == loss_curve(tmp_path / "whole")


def one_of_two(number, folder, out):
    """One rank of two, as Ray would start it."""
    order = TrainingOrder(open_index(str(folder)), EVEN_MIX, 4, 0)
    training = loop(order, out, rank=Rank(number, 2), micro_batch=1)
    training.run()
    (out / f"broken_{number}").write_text(str(training.num_broken))


def test_two_ranks_report_what_both_of_them_saw(tmp_path):
    folder = write_shards(tmp_path / "data", ["rule", "editing"] * 5, broken=(3,))
    alone = loop(TrainingOrder(open_index(str(folder)), EVEN_MIX, 4, 0), tmp_path / "alone")
    alone.run()
    (tmp_path / "two").mkdir()
    on_two_ranks(one_of_two, folder, tmp_path / "two", meeting=tmp_path / "meeting")
    for one, two in zip(loss_curve(tmp_path / "alone"), loss_curve(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    counted = {int((tmp_path / "two" / f"broken_{number}").read_text()) for number in (0, 1)}
    assert counted == {alone.num_broken}
    assert alone.num_broken > 1


def test_the_curve_has_the_rate_and_the_time_spent_waiting(order, tmp_path):
    loop(order, tmp_path).run()
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    reported = [row for row in rows if "loss" in row]
    assert [row["step"] for row in reported] == [6, 12]
    assert all(0 <= row["data_wait"] <= 1 and row["samples_per_s"] > 0 for row in reported)


def test_what_is_drawn_is_a_picture_in_tensorboard(order, tmp_path):
    class Draws(Slope):
        def draw_samples(self, step):
            Image.new("RGB", (12, 8), (step, 0, 0)).save(tmp_path / f"{step}.png")
            return tmp_path / f"{step}.png"

    loop(order, tmp_path / "out", Draws()).run()
    (file,) = (tmp_path / "out" / "tensorboard").iterdir()
    events = [Event.FromString(data) for data in records_of(file)]
    shown = [(e.step, v.tag, v.image.width, v.image.height) for e in events for v in e.summary.value if v.image.height]
    assert shown == [(step, "samples", 12, 8) for step in (3, 6, 9, 12)]


def records_of(file):
    """The records of an events file: length, checksum, data, checksum."""
    data = file.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_weights_and_biases_gets_the_curve_when_its_key_is_set(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "no real key")
    monkeypatch.setitem(sys.modules, "wandb", None)
    Curve(tmp_path / "without").close()
    assert "wandb is not installed" in caplog.text
    said = []
    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace(name="wandb")
    run = types.SimpleNamespace(log=lambda values, step: said.append((step, values)), finish=lambda: said.append("end"))
    module.Image = lambda path: ("image", path)
    module.init = lambda **settings: said.append(settings) or run
    monkeypatch.setitem(sys.modules, "wandb", module)
    curve = Curve(tmp_path / "with", "slope")
    curve.write(3, {"loss": 0.5})
    Image.new("RGB", (4, 2)).save(tmp_path / "drawn.png")
    curve.write_picture(3, "samples", tmp_path / "drawn.png")
    curve.close()
    assert said[0]["resume"] == "allow"
    assert said[1:] == [(3, {"loss": 0.5}), (3, {"samples": ("image", str(tmp_path / "drawn.png"))}), "end"]
    Curve(tmp_path / "with", "slope").close()
    assert said[4]["id"] == said[0]["id"]


def test_a_full_disk_ends_a_training_at_once_and_it_goes_on_when_there_is_room(order, tmp_path):
    often: dict[str, Any] = {"steps": 100, "report_every": 1, "checkpoint_every": 10, "evaluate_every": 10}
    with room_for(5_000), pytest.raises(StorageError, match=r"(?s)nothing can be written any more.*make room"):
        loop(order, tmp_path, **often).run()
    stopped = loop(order, tmp_path, **often)
    assert stopped.step in range(10, 100, 10)
    stopped.run()
    assert [row["step"] for row in loss_curve(tmp_path) if "loss" in row] == list(range(1, 101))


def opened(folder, out):
    return loop(TrainingOrder(open_index(str(folder), out / "cache"), EVEN_MIX, 4, 0), out, data=str(folder))


def test_data_is_known_by_what_is_in_it(tmp_path):
    folder, out = write_shards(tmp_path / "data", ["rule"] * 20), tmp_path / "out"
    first = opened(folder, out)
    first.run()
    moved = folder.rename(tmp_path / "elsewhere")
    for number, shard in enumerate(sorted(moved.glob("*.tar"))):
        shard.rename(moved / f"part_{number}.tar")
    assert opened(moved, out).step == first.step

    shard = moved / "part_1.tar"
    data, stat = shard.read_bytes(), shard.stat()
    shard.write_bytes(data.replace(b"reflection 9", b"reflection 4"))  # as many bytes, at the same places
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match=r"trained on other data: part_1.tar has other contents\n  field: --data"):
        opened(moved, out)
    shard.unlink()
    with pytest.raises(InputError, match=r"genref_000001.tar is missing\n"):
        opened(moved, out)
    shard.write_bytes(data)
    (moved / "part_9.tar").write_bytes(data.replace(b"prompt 9", b"prompt 3"))
    with pytest.raises(InputError, match=r"part_9.tar is new"):
        opened(moved, out)


def test_data_that_was_read_through_once_is_known_again_until_it_changes(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "data", ["rule"] * 20)
    monkeypatch.setattr("trainers.data_contents._FRESH_S", -1.0)  # as if written long ago
    first = open_index(str(folder), tmp_path / "cache").digests
    read = []
    monkeypatch.setattr("trainers.data_contents.file_digest", lambda path: read.append(path.name) or file_digest(path))
    assert open_index(str(folder), tmp_path / "cache").digests == first
    assert read == []
    shard = folder / "genref_000001.tar"
    time.sleep(0.02)
    shard.write_bytes(shard.read_bytes().replace(b"prompt 9", b"prompt 1"))
    assert open_index(str(folder), tmp_path / "cache").digests[1] != first[1]
    assert read == ["genref_000001.tar"]


def test_a_checkpoint_from_before_data_was_known_by_its_contents_knows_its_place(order, tmp_path):
    loop(order, tmp_path, steps=6).run()
    path = tmp_path / "checkpoints" / "step_00000006.pt"
    state = load_checkpoint(path)
    assert state is not None
    del state["data"]
    save_checkpoint(path, state)
    with pytest.raises(InputError, match=r"data was .*shards, is .*other\n"):
        loop(order, tmp_path, data="other", steps=6)
    assert loop(order, tmp_path, steps=6).step == 6


def test_pairs_steps_and_the_first_step_are_told_and_what_is_done_after_a_restart(order, tmp_path, capsys):
    loop(order, tmp_path, steps=2, report_every=50).run()
    said = capsys.readouterr()
    name = Slope.name
    assert f"{name}: 20 pairs, 2 steps of 4\n" in said.out
    assert f"{name} 1/2  the first step\n" in said.err
    assert f"{name} 1/2  the first step took " in said.out
    loop(order, tmp_path, steps=3, report_every=50).run()
    said = capsys.readouterr()
    assert f"{name}: 20 pairs, 3 steps of 4, of which 2 are done" in said.out
    assert f"{name} 3/3  the first step" in said.err
    rate = json.loads((tmp_path / "rate.json").read_text())
    assert (rate["device"], rate["workers"]) == ("cpu", 1)
    assert rate["samples_per_s"] > 0
