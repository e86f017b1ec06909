"""`Training` goes on from its checkpoint as if nothing had happened."""

import torch

from microworld.training.training import Training, checkpoint_path
from microworld.training.training_loop import LONGEST_STEP_S, MicroTrainingConfig, TrainingClock

INPUTS = torch.randn(40, 8, 4, generator=torch.Generator().manual_seed(0))


def start(tmp_path, name="toy") -> Training:
    torch.manual_seed(1)
    frozen, trained = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
    model = torch.nn.Sequential(frozen, trained)
    frozen.requires_grad_(False)
    matrices, rest = [trained.weight], [trained.bias]
    optimizers = [(torch.optim.Muon(matrices, 1e-2), 1e-2), (torch.optim.AdamW(rest, 1e-2), 1e-2)]
    config = MicroTrainingConfig(minutes=1e9, work_dir=tmp_path)  # the schedule stays where it is
    return Training(config, name, model, optimizers, ema_decay=0.9, warmup=0.0)


def weight_of(training: Training, layer: int) -> torch.Tensor:
    return training.model.get_parameter(f"{layer}.weight")


def go_on(training: Training, upto: int) -> None:
    while training.clock.num_steps < upto:
        loss = (training.model(INPUTS[training.clock.num_steps]) - 1).square().mean()
        training.step(loss, 8, {"loss": loss.item()})


def test_a_resumed_training_ends_with_the_same_weights_average_and_counts(tmp_path):
    whole = start(tmp_path, "whole")
    go_on(whole, 30)
    part = start(tmp_path)
    assert not part.resumed
    go_on(part, 12)
    part.checkpoint()
    go_on(part, 17)  # lost: not in the checkpoint
    again = start(tmp_path)
    assert again.resumed
    assert again.clock.num_steps == 12
    assert again.seed(5) == [0, 5, 12]
    go_on(again, 30)
    assert torch.equal(weight_of(again, 1), weight_of(whole, 1))
    assert again.clock.num_samples == whole.clock.num_samples == 240
    with again.ema.applied(), whole.ema.applied():
        assert torch.equal(weight_of(again, 1), weight_of(whole, 1))
    assert not torch.equal(weight_of(again, 1), weight_of(start(tmp_path, "fresh"), 1))


def test_frozen_weights_stay_as_they_are_and_out_of_the_checkpoint(tmp_path):
    training = start(tmp_path)
    before = weight_of(training, 0).clone()
    go_on(training, 5)
    training.checkpoint()
    assert torch.equal(weight_of(training, 0), before)
    saved = torch.load(checkpoint_path(training.config, "toy"), weights_only=True)
    assert set(saved["model"]) == {"1.weight", "1.bias"}


def test_a_pass_that_only_compiles_changes_nothing(tmp_path):
    training = start(tmp_path)
    before = weight_of(training, 1).clone()
    training.warm_up(lambda: training.model(INPUTS[0]).square().mean())
    assert torch.equal(weight_of(training, 1), before)
    assert weight_of(training, 1).grad is None
    assert training.clock.num_steps == 0


def test_time_in_which_the_process_was_stopped_is_no_training_time():
    clock = TrainingClock(minutes=10, name="toy")
    clock._tick -= 3600
    clock.step(1, {})
    assert clock.spent_s <= LONGEST_STEP_S
