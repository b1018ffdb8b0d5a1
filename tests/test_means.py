import pytest
import torch

from gan_lab import means
from gan_lab.means import Means


@pytest.mark.parametrize("most", [1, 3, 64])
def test_the_mean_of_each_names_values(most, monkeypatch):
    monkeypatch.setattr(means, "MOST_WAITING", most)
    own = Means()
    for number in range(7):
        own.add("number", torch.tensor(float(number), requires_grad=True) * 1)
        own.add("vector", torch.tensor([float(number), 10.0]))
        own.add("share", torch.tensor([True, False, False, number < 4]))
    own.add("once", torch.tensor(5.0))

    names, values = own.pop()
    assert dict(zip(names, values.tolist(), strict=True)) == pytest.approx(
        {"number": 3.0, "vector": 6.5, "share": (4 * 0.5 + 3 * 0.25) / 7, "once": 5.0}, abs=1e-12
    )
    assert values.dtype == torch.float64
    assert not values.requires_grad
    own.add("number", torch.tensor(4.0))
    assert own.pop()[1].tolist() == [4.0]


@pytest.mark.parametrize("after", [1, 5, 8, 17])
def test_a_state_in_between_changes_no_bit(after, monkeypatch):
    monkeypatch.setattr(means, "MOST_WAITING", 8)
    torch.manual_seed(0)
    values = torch.randn(20, 33)
    whole, first, second = Means(), Means(), Means()
    for number, value in enumerate(values):
        whole.add("a", value)
        (first if number < after else second).add("a", value)
        if number == after - 1:
            second.load_state(first.state(), torch.device("cpu"))
    first.state()

    assert second.pop()[1].tolist() == whole.pop()[1].tolist()
    assert first.pop()[1].item() == values[:after].mean(dim=1).double().mean().item()


def test_few_kernels_for_many_values():
    own, waiting = Means(), torch.randn(64)
    with torch.profiler.profile() as profile:
        for _ in range(200):
            own.add("a", waiting)
        assert len(own._waiting["a"]) < means.MOST_WAITING  # however many are recorded
        own.pop()
    ops = [event.name for event in profile.events() if event.name in ("aten::mean", "aten::add_", "aten::stack")]
    assert len(ops) < 15


def test_a_part_of_something_large_does_not_keep_it():
    own = Means()
    own.add("a", torch.arange(2000.0).view(2, 1000)[:, 0])
    own.add("a", torch.arange(2.0))
    assert all(value.untyped_storage().nbytes() == 8 for value in own._waiting["a"])
    assert own.pop()[1].tolist() == [(500 + 0.5) / 2]
