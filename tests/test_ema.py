"""The averaged generator: closed forms of its memory."""

import pytest
import torch
from torch import nn

from gan_lab.ema import Average, ema_decay


@pytest.mark.parametrize(
    ("images", "images_seen", "half_life", "rampup", "decay"),
    [
        (10_000, 10**9, 10_000, None, 0.5),
        (10_000, 10**9, 10_000, 0.05, 0.5),
        (5_000, 10**9, 10_000, None, 0.5**0.5),
        (64, 0, 6_400, None, 0.5**0.01),
        (64, 6_400, 10_000, 0.05, 0.5**0.2),  # half-life 0.05 * 6400 = 320
        (64, 64, 10_000, 0.05, 0.5**20),  # half-life 3.2: the random start is gone at once
        (64, 200_000, 10_000, 0.05, 0.5**0.0064),  # the ramp meets the half-life here
        (64, 400_000, 10_000, 0.05, 0.5**0.0064),
        (64, 0, 10_000, 0.05, 0.0),
        (64, 640, 0, None, 0.0),
        (64, 640, 0, 0.05, 0.0),
    ],
)
def test_decays(images, images_seen, half_life, rampup, decay):
    assert ema_decay(images, images_seen, half_life, rampup) == pytest.approx(decay, rel=1e-12)


@pytest.mark.parametrize("batch", [1, 8, 250])
def test_half_of_the_start_remains_after_the_half_life_whatever_the_batch(batch):
    average, module = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(average.weight)
    nn.init.zeros_(module.weight)
    for seen in range(batch, 1000 + batch, batch):
        Average(average, module).update(ema_decay(batch, seen, 1000, None))

    assert average.weight.item() == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9, 0.999])
def test_the_average_is_the_closed_form(decay):
    weights = [3.0, -1.0, 7.0, 0.5]
    average, module = nn.Linear(2, 1).double(), nn.Linear(2, 1).double()
    for parameter in average.parameters():
        nn.init.constant_(parameter, 2.0)
    for weight in weights:
        for parameter in module.parameters():
            nn.init.constant_(parameter, weight)
        Average(average, module).update(decay)
    closed = decay**4 * 2.0 + (1 - decay) * sum(decay ** (3 - k) * weight for k, weight in enumerate(weights))

    for parameter in average.parameters():
        assert parameter.flatten().tolist() == pytest.approx([closed] * parameter.numel(), rel=1e-12)


def test_decay_zero_copies_to_the_last_bit():
    average, module = nn.Linear(5, 5), nn.Linear(5, 5)
    Average(average, module).update(0.0)

    assert torch.equal(average.weight, module.weight)


def test_buffers_are_copied_and_the_raw_module_is_untouched():
    average, module = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    module(torch.randn(16, 3) * 2 + 5)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    Average(average, module).update(0.9)

    assert module.num_batches_tracked == 1
    for name, buffer in average.named_buffers():
        assert torch.equal(buffer, before[name]), name
        assert buffer.data_ptr() != dict(module.named_buffers())[name].data_ptr()
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_shared_weights_move_once():
    class Twice(nn.Module):
        def __init__(self, value: float):
            super().__init__()
            self.one = nn.Linear(1, 1, bias=False)
            self.other = nn.Linear(1, 1, bias=False)
            self.other.weight = self.one.weight
            nn.init.constant_(self.one.weight, value)

    average = Twice(1.0)
    Average(average, Twice(0.0)).update(0.5)

    assert average.other.weight.item() == 0.5


def test_no_graph_is_kept():
    average, module = nn.Linear(2, 2), nn.Linear(2, 2)
    Average(average, module).update(0.5)

    assert average.weight.is_leaf
    assert average.weight.grad_fn is None
