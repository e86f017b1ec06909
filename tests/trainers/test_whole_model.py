"""All weights of a VLM, in shards over two gloo ranks: the same losses as alone, the same numbers after a restart, on
as many ranks or fewer, and a folder that loads as any model."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inference.interfaces import ChatRequest
from inference.vlm.adapters import base_model_of, load_vlm
from inference.vlm.in_process import InProcessVlm
from microworld.family import micro_qwen
from schemas.errors import CorruptDataError, InputError
from schemas.shards import encode_shard
from tests.support.curves import loss_curve
from tests.support.micro_shards import write_micro_shards
from tests.support.micro_trainings import micro_reflector_training
from tests.support.plain_shards import plain_sample
from tests.support.ranks import on_two_ranks
from tests.support.tiny_vlm import save_tiny_vlm
from trainers.checkpoint import Checkpoints
from trainers.loop import LoopConfig, OptimizerConfig, Rank
from trainers.reflector import ReflectorConfig, open_training
from trainers.training_plan import plan_reflector

pytestmark = pytest.mark.timeout(900)  # ranks are processes, which import torch

LOOP = LoopConfig(
    steps=4, batch_size=4, micro_batch=1, evaluate_every=4, checkpoint_every=2, report_every=1, loader_workers=0
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Shards, a tiny VLM, and the training by one process and by two."""
    root = tmp_path_factory.mktemp("whole")
    write_micro_shards(root / "data", 16)
    # Triplets that teach nothing: their rank has no loss, and takes part all the same.
    (root / "data" / "mute.tar").write_bytes(encode_shard([plain_sample(n, "rule", reflection=" ") for n in range(8)]))
    save_tiny_vlm(root / "vlm")
    open_training(config(root, "alone")).run()
    on_two(root, "two")
    return root


def config(root, out, **changes):
    return replace(
        micro_reflector_training(str(root / "data"), root / out),
        model=ReflectorConfig(str(root / "vlm"), "micro/reflect", "micro/compare", full=True, image_px=0),
        optimizer=OptimizerConfig("adamw", 1e-3, max_gradient_norm=1.0),
        loop=replace(LOOP, **changes),
        held_out_share=0.4,
        num_evaluated=3,
        num_written=1,
    )


def one_of_two(number, root, out, changes):
    """One rank, as Ray Train would start it."""
    open_training(config(root, out, **changes), Rank(number, 2)).run()


def on_two(root, out, **changes):
    on_two_ranks(one_of_two, root, out, changes, meeting=root / f"{out}.meeting")


def weights(folder):
    return load_vlm(folder, "float32")[0].state_dict()


def test_two_ranks_have_the_losses_of_one(root):
    one, two = loss_curve(root / "alone"), loss_curve(root / "two")
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-3)
    losses = [row["loss"] for row in two if "loss" in row]
    assert losses[-1] < losses[0]


def test_the_result_is_a_whole_model_that_loads_as_any_other(root):
    folder = root / "two" / "reflector"
    assert base_model_of(folder) is None
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    one, two, base = weights(root / "alone" / "reflector"), weights(folder), weights(root / "vlm")
    assert all(torch.allclose(one[name], two[name], atol=1e-2) for name in base)
    moved = [name for name in base if not torch.equal(two[name], base[name])]
    assert any("visual" in name for name in moved)
    assert any("language_model.layers" in name for name in moved)
    answer = InProcessVlm(micro_qwen(str(folder), max_new_tokens=4)).answer([ChatRequest("A star?")])
    assert len(answer) == 1
    lines = (root / "two" / "samples" / "reflections_000004.jsonl").read_text().splitlines()
    assert len(lines) == 1


@pytest.mark.slow
def test_a_restart_changes_no_number_and_other_ranks_go_on(root):
    on_two(root, "parts", steps=2)
    (stopped,) = Checkpoints(root / "parts" / "checkpoints").steps()
    assert stopped == 2
    assert (root / "parts" / "checkpoints" / "step_00000002").is_dir()
    (root / "parts" / "checkpoints" / ".tmp-step_00000003").mkdir()  # of a kill while it was written
    again = open_training(config(root, "parts"))  # one rank reads what two wrote
    assert again.step == 2
    before = [p.detach().clone() for p in again.parameters]
    on_two(root, "parts")
    assert loss_curve(root / "parts")[-3:] == loss_curve(root / "two")[-3:]
    one, two = weights(root / "parts" / "reflector"), weights(root / "two" / "reflector")
    assert all(torch.equal(one[name], two[name]) for name in two)
    after = open_training(config(root, "parts")).parameters
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_checkpoint_of_another_training_or_model_is_refused(root, tmp_path):
    lora = replace(config(root, "two"), model=replace(config(root, "two").model, full=False))
    with pytest.raises(InputError, match="full"):
        open_training(lora)
    with pytest.raises(InputError, match=r"optimizer.learning_rate was 0.001"):
        open_training(replace(config(root, "two"), optimizer=OptimizerConfig("adamw", 1.0, max_gradient_norm=1.0)))


def test_a_checkpoint_that_changed_is_named_and_the_one_before_is_taken(root, tmp_path, caplog):
    shutil.copytree(root / "alone" / "checkpoints", tmp_path / "cut" / "checkpoints")
    newest, cut = (
        tmp_path / "cut" / "checkpoints" / "step_00000004",
        replace(config(root, "alone"), out=tmp_path / "cut"),
    )
    draws = random.Random(4)
    for path in sorted(newest.iterdir()):
        data = path.read_bytes()
        place = draws.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draws.randrange(8)]) + data[place + 1 :])
        caplog.clear()
        with pytest.raises(CorruptDataError, match=path.name):
            open_training(cut).checkpoints.at(4)
        path.write_bytes(data)
    for part in newest.glob("*.distcp"):
        part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    assert open_training(cut).step == 2
    assert "has other bytes than were written" in caplog.text
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step_00000002")
    with pytest.raises(InputError, match="to train anew"):
        open_training(cut)


def test_what_cannot_be_trained_whole_is_refused(root):
    with pytest.raises(InputError, match=r"expected: --optimizer.name adamw --loop.ema-decay 0"):
        open_training(replace(config(root, "x"), optimizer=OptimizerConfig("prodigy")))
    with pytest.raises(InputError, match="ema-decay"):
        open_training(config(root, "x", ema_decay=0.9))


def test_a_plan_shares_the_model_out_among_the_workers():
    seven = replace(micro_reflector_training("", Path()), model=ReflectorConfig(full=True))
    one, eight = plan_reflector(seven), plan_reflector(seven, 8)
    assert one.memory_gib["optimizer"] == pytest.approx(8 * eight.memory_gib["optimizer"])
    assert one.trained_parameters == 8_292_166_656
    assert 120 < one.memory_gib["optimizer"] + one.memory_gib["trained and gradients"] < 128
