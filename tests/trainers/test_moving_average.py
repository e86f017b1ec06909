import torch

from trainers.moving_average import Ema


def test_ema_is_applied_and_taken_back():
    model = torch.nn.Linear(2, 2)
    ema = Ema(model, decay=0.5)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update()
    moved = model.weight.detach().clone()
    with ema.applied():
        inside = model.weight.detach().clone()
    assert torch.equal(model.weight, moved)
    assert ((inside > start) & (inside < moved)).all()
    copy = Ema(torch.nn.Linear(2, 2), decay=0.5)
    copy.restore(ema.state())
    assert torch.equal(copy.state()["average"][0], ema.state()["average"][0])
