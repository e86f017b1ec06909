import pytest
import torch

from trainers.checkpoint import load_checkpoint, save_checkpoint


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
