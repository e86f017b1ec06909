"""What a training goes on from: whole after a kill, each bit as it was written, and one before where it is not."""

import json
import random
import shutil

import pytest
import torch

from schemas.digests import MANIFEST, check_manifest
from schemas.errors import CorruptDataError, InputError, ReflectionFlowError, StorageError
from tests.support.full_disk import room_for
from trainers.checkpoint import Checkpoints, exported, load_checkpoint, save_checkpoint


def state(step):
    return {
        "step": step,
        "weights": {"w": torch.arange(40.0) + step},
        "optimizer": {"state": {0: {"exp_avg": torch.full((40,), 0.5)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "ema": None,
        "settings": {"loop.seed": 3},
    }


@pytest.fixture
def folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=2)
    for step, score in ((10, 0.5), (20, 0.9), (30, 0.7), (40, 0.6)):
        checkpoints.save(step, state(step), score)
    return tmp_path / "checkpoints"


def what_is_read(folder):
    """All that a resumed training and an export see, to the last bit."""
    checkpoints = Checkpoints(folder)
    best, latest = checkpoints.best(), checkpoints.latest()
    exported = None if best is None else checkpoints.at(best[0])
    return repr((best, latest, exported)), checkpoints.steps()


def test_a_kill_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    save_checkpoint(path, {"step": 1, "weights": torch.ones(3)})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"step": 2, "weights": torch.zeros(3)})
    state = load_checkpoint(path)
    assert state is not None
    assert state["step"] == 1
    assert (state["weights"] == 1).all()


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "model.pt") is None
    assert Checkpoints(tmp_path / "none").latest() is None


def test_every_flipped_bit_that_changes_what_is_read_is_noticed(folder, caplog):
    torch.set_printoptions(profile="full")
    sound, draws = what_is_read(folder), random.Random(5)
    files = sorted(path for path in folder.iterdir())
    assert [path.name for path in files] == ["best.json", "step_00000020.pt", "step_00000030.pt", "step_00000040.pt"]
    told = 0
    for path in files:
        data = path.read_bytes()
        for _ in range(60):
            place = draws.randrange(len(data) * 8)
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            caplog.clear()
            try:
                found = what_is_read(folder)
            except ReflectionFlowError as error:
                found, said = None, str(error)
            else:
                said = caplog.text
            told += path.name in said
            assert found == sound or path.name in said, f"byte {place // 8} of {path.name} changes silently"
        path.write_bytes(data)
    assert told > 150
    assert what_is_read(folder) == sound


def test_a_checkpoint_without_a_digest_is_checked_by_its_archives_sums(tmp_path):
    path, weights = tmp_path / "step_00000005.pt", torch.arange(1000.0)
    torch.save({"step": 5, "weights": weights}, path)
    assert torch.equal(load_checkpoint(path)["weights"], weights)
    data = bytearray(path.read_bytes())
    data[data.index(weights[400:410].numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptDataError, match=r"step_00000005.pt has other bytes"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", [lambda d: d[: len(d) // 2], lambda d: d[:-1], lambda d: b"", lambda d: d + b"\0"])
def test_the_one_before_a_bad_one_is_taken_and_outlives_the_next_save(folder, caplog, change):
    newest = folder / "step_00000040.pt"
    newest.write_bytes(change(newest.read_bytes()))
    checkpoints = Checkpoints(folder, keep_last=1)
    assert checkpoints.latest()["step"] == 30
    assert "step_00000040.pt" in caplog.text
    assert "an older checkpoint is taken" in caplog.text
    checkpoints.save(35, state(35))
    assert {20, 35} <= set(checkpoints.steps())
    assert Checkpoints(folder).latest()["step"] == 35
    checkpoints.save(40, state(40), 0.1)
    assert Checkpoints(folder).latest()["step"] == 40
    assert checkpoints.best() == (20, 0.9)


def test_where_none_reads_it_is_said_how_to_go_on(folder):
    for path in folder.glob("*.pt"):
        path.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"no checkpoint reads[\s\S]*step_00000040.pt[\s\S]*to train anew"):
        Checkpoints(folder).latest()


def test_strange_names_are_nobodys_business(folder):
    shutil.copy(folder / "step_00000040.pt", folder / "step_copy.pt")
    shutil.copy(folder / "step_00000040.pt", folder / "step_00000041 (1).pt")
    for name in (".DS_Store", "._step_00000050.pt", "step_.pt", "step_-0000001.pt", ".tmp-step_00000060.pt-ab"):
        (folder / name).write_bytes(b"x")
    (folder / "step_00000070").mkdir()
    (folder / "step_00000080.pt").mkdir()
    (folder / "step_00000090.pt").symlink_to(folder / "nowhere")
    checkpoints = Checkpoints(folder)
    assert checkpoints.steps() == [20, 30, 40]
    assert checkpoints.latest()["step"] == 40
    checkpoints.save(50, state(50), 0.1)
    assert checkpoints.steps() == [20, 40, 50]
    assert (folder / "step_copy.pt").exists()
    assert not (folder / ".tmp-step_00000060.pt-ab").exists()  # a kill left it


@pytest.mark.parametrize(
    "said",
    [
        *(
            "[]",
            "null",
            "{}",
            '{"step": "20", "score": 0.9}',
            '{"step": 20, "score": NaN}',
            '{"step": 20}',
            "\xff",
            "[",
        ),
        *('{"step": 30, "score": 0.9, "sha256": "00"}', '{"step": null, "score": []}', "[" * 100_000),
    ],
)
def test_a_best_of_another_shape_is_found_again_in_the_checkpoints(folder, caplog, said):
    (folder / "best.json").write_text(said)
    assert Checkpoints(folder).best() == (20, 0.9)
    assert "best.json" in caplog.text
    Checkpoints(folder).save(50, state(50), 0.8)
    assert json.loads((folder / "best.json").read_text())["step"] == 20


def test_a_score_that_is_no_number_is_never_the_best(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save(1, state(1), float("nan"))
    assert checkpoints.best() is None
    assert "nan" in caplog.text
    checkpoints.save(2, state(2), 0.25)
    for step, score in ((3, float("nan")), (4, float("inf"))):
        checkpoints.save(step, state(step), score)
        assert checkpoints.best() == (2, 0.25)
    (tmp_path / "best.json").write_text('{"step": 4, "score": NaN}')  # as it was written once
    checkpoints.save(5, state(5), 0.5)
    assert checkpoints.best() == (5, 0.5)


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.99])
def test_a_full_disk_is_named_and_leaves_nothing_half(folder, share):
    room = int(share * (folder / "step_00000040.pt").stat().st_size)
    names = sorted(path.name for path in folder.iterdir())
    with room_for(room), pytest.raises(StorageError, match=r"step_00000050.pt: [\s\S]*make room"):
        Checkpoints(folder).save(50, state(50), 0.95)
    assert sorted(path.name for path in folder.iterdir()) == names
    assert Checkpoints(folder).latest()["step"] == 40


def test_an_export_is_whole_or_what_was_there_before(tmp_path):
    from safetensors.torch import save_file

    target = tmp_path / "adapter"
    with exported(target) as place:
        save_file({"w": torch.zeros(9)}, place / "w.safetensors")
    (target / "notes.txt").write_text("mine")
    with room_for(40), pytest.raises(StorageError, match="adapter: nothing can be written"), exported(target) as place:
        save_file({"w": torch.ones(9)}, place / "w.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
    check_manifest(target)
    with exported(target) as place:
        save_file({"w": torch.ones(9)}, place / "w.safetensors")
    assert (target / "notes.txt").read_text() == "mine"
    data = bytearray((target / "w.safetensors").read_bytes())
    data[-1] ^= 1
    (target / "w.safetensors").write_bytes(data)
    with pytest.raises(CorruptDataError, match=rf"w.safetensors has other bytes than were written \(see {MANIFEST}"):
        check_manifest(target)
