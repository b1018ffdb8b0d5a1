"""What every extractor has in common: its hash, its batches, its probabilities."""

import pytest
import torch
from torch import Tensor, nn

from gan_lab.features import NUM_HASH_DIGITS, Extractor, Rows, weights_hash


class Network(nn.Module):
    """Batch normalisation, which differs between training and evaluation; logits of 5 classes, or none."""

    def __init__(self, num_classes: int = 5):
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, num_classes) if num_classes else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        vectors = self.norm(self.convolution(images.float() / 255)).amax(dim=(2, 3))
        return vectors, None if self.head is None else 3 * self.head(vectors)


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network()


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (70, 2, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def state() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.zeros(2, dtype=torch.bfloat16)}


CHANGES = {
    "name": lambda s: {"A": s["a"], "b": s["b"], "c": s["c"]},
    "names exchanged": lambda s: {"a": s["a"], "b": s["c"], "c": s["b"]},
    "shape": lambda s: s | {"a": s["a"].view(3, 2)},
    "no axis": lambda s: s | {"b": s["b"].view(1)},
    "integers of the same bytes": lambda s: s | {"a": s["a"].view(torch.int32)},
    "another float of the same bytes": lambda s: s | {"c": s["c"].half()},
    "order of values": lambda s: s | {"a": s["a"].flip(1)},
    "the last bit of a value": lambda s: s | {"a": torch.nextafter(s["a"], s["a"] + 1)},
    "the sign of zero": lambda s: s | {"c": -s["c"]},
    "one more": lambda s: s | {"d": torch.zeros(0)},
    "one less": lambda s: {"a": s["a"], "b": s["b"]},
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_hash_changes_with_the_weights(change):
    assert weights_hash(CHANGES[change](state())) != weights_hash(state())


def test_the_hash_is_of_the_content_alone():
    one = weights_hash(state())
    assert len(one) == NUM_HASH_DIGITS
    assert int(one, 16) >= 0
    assert weights_hash(dict(reversed(state().items()))) == one
    assert weights_hash({name: nn.Parameter(v) if v.is_floating_point() else v for name, v in state().items()}) == one

    weights = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    copy = weights.to(memory_format=torch.channels_last)
    assert copy.stride() != weights.stride()
    assert weights_hash({"w": copy}) == weights_hash({"w": weights})
    assert weights_hash({"w": torch.cat([weights, weights])[::2][:4]}) != weights_hash({"w": weights})


def test_the_extractors_hash_is_that_of_its_network(network):
    extractor = Extractor("a", network, {})
    assert extractor.hash == weights_hash(network.state_dict())
    assert Extractor("b", network, {"x": 1}, published=True).hash == extractor.hash
    before = extractor.hash
    with torch.no_grad():
        network.norm.running_mean += 1  # type: ignore[operator]
    assert extractor.hash != before


@pytest.mark.parametrize("batch_size", [1, 32, 69, 70, 1000])
def test_batches_give_what_one_go_gives(network, images, batch_size):
    network.eval()
    with torch.no_grad():
        vectors, logits = network(images)
    found = Extractor("a", network, {})(images, batch_size)
    torch.testing.assert_close(found.vectors, vectors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.probabilities, torch.softmax(logits, dim=1), rtol=1e-5, atol=1e-6)


def test_the_network_is_neither_trained_nor_differentiated(network, images):
    network.train()
    extractor = Extractor("a", network, {})
    before = extractor.hash  # of the running statistics too
    found = extractor(images)
    assert not any(module.training for module in network.modules())
    assert extractor.hash == before
    assert not found.vectors.requires_grad
    assert found.probabilities is not None
    assert not found.probabilities.requires_grad


def test_probabilities_sum_to_1_and_are_missing_without_logits(network, images):
    found = Extractor("a", network, {})(images)
    assert found.probabilities is not None
    assert found.probabilities.shape == (70, 5)
    assert found.probabilities.min() >= 0
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(70))

    found = Extractor("a", Network(num_classes=0), {})(images)
    assert found.vectors.shape == (70, 4)
    assert found.probabilities is None


def test_results_of_half_precision_are_float32(network, images):
    class Half(Network):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
            vectors, logits = super().forward(images)
            assert logits is not None
            return vectors.bfloat16(), logits.bfloat16()

    found = Extractor("a", Half(), {})(images)
    assert found.probabilities is not None
    assert found.vectors.dtype == found.probabilities.dtype == torch.float32
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(70))  # not so when bfloat16 is normalised


def test_rows_are_read_when_they_are_asked_for(network, images):
    """Features of chosen images, of which never more than a batch is copied."""
    chosen = torch.tensor([69, 3, 3, *range(40, 20, -1)])
    rows = Rows(images, chosen)
    asked: list[int] = []

    class Watched(Rows):
        def __getitem__(self, chosen: Tensor | slice) -> Tensor:
            asked.append(len(super().__getitem__(chosen)))
            return super().__getitem__(chosen)

    assert len(rows) == 23
    assert rows.shape == (23, 2, 6, 6)
    assert torch.equal(rows[5:9], images[chosen][5:9])
    assert torch.equal(rows[torch.tensor([22, 0])], images[[21, 69]])
    extractor = Extractor("test", network, {})
    found, expected = extractor(Watched(images, chosen), batch_size=10), extractor(images[chosen], batch_size=10)
    assert torch.equal(found.vectors, expected.vectors)
    assert torch.equal(found.probabilities, expected.probabilities)
    assert asked == [10, 10, 3]
