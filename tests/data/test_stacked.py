import math
import urllib.request
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_lab.data import Data
from gan_lab.data.digits import digits
from gan_lab.data.stacked import _stacked, stacked_digits, stacked_mnist
from gan_lab.errors import RunError


def numbered(num: int) -> Data:
    """``num`` pictures of one pixel that tell their own index; the label is its last digit."""
    indices = torch.arange(num)
    return Data(indices.to(torch.uint8).view(num, 1, 1, 1), indices % 10, tuple("0123456789"))


def uneven() -> Data:
    """55 pictures: one 0, two 1s, .. ten 9s."""
    labels = torch.arange(10).repeat_interleave(torch.arange(1, 11))
    return Data(labels.to(torch.uint8).view(-1, 1, 1, 1), labels, tuple("0123456789"))


def all_digits() -> Data:
    return digits(split="all")


def frequencies(base: Data) -> Tensor:
    """float64 (1000,): the exact chances of the labels of stacks of ``base``."""
    share = base.labels.bincount(minlength=10).double() / len(base.labels)
    return torch.einsum("i,j,k->ijk", share, share, share).flatten()


def write_idx_files(folder, parts=("train", "t10k")) -> None:
    """The pictures of 28x28 are filled with 10 * label + 1 in train, of which there are 10, and + 2 in test, 4."""
    folder.mkdir(parents=True)
    for part in parts:
        labels = np.arange(10 if part == "train" else 4)
        values = 10 * labels + (1 if part == "train" else 2)
        images = np.broadcast_to(values[:, None, None], (len(labels), 28, 28))
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / name).write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize("image_size", [None, 12])
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_the_label_is_what_the_channels_show(split, image_size):
    data = stacked_digits(num_samples=500, split=split, image_size=image_size)
    base = digits(split=split, image_size=image_size)
    label_of = {
        picture.numpy().tobytes(): int(label) for picture, label in zip(base.samples[:, 0], base.labels, strict=True)
    }
    assert len(label_of) == len(base.samples)  # no two pictures are alike

    side = image_size or 8
    assert data.samples.shape == (500, 3, side, side)
    assert data.samples.dtype == torch.uint8
    assert data.labels.dtype == torch.int64
    shown = [[label_of[channel.numpy().tobytes()] for channel in sample] for sample in data.samples]
    assert data.labels.tolist() == [100 * first + 10 * second + third for first, second, third in shown]


def test_the_classes_are_the_three_digits():
    data = stacked_digits(num_samples=10)

    assert len(data.classes) == 1000
    assert [data.classes[label] for label in (0, 7, 42, 999)] == ["000", "007", "042", "999"]
    assert data.modes is None


@pytest.mark.parametrize("image_size", [None, 12])
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_the_parts_are_the_base_set_of_the_split(split, image_size):
    parts = stacked_digits(num_samples=10, split=split, image_size=image_size).parts
    base = digits(split=split, image_size=image_size)

    assert torch.equal(parts.samples, base.samples)
    assert torch.equal(parts.labels, base.labels)
    assert parts.classes == base.classes
    assert base.parts is None


def test_the_defaults_are_those_of_pacgan():
    data = stacked_digits()

    assert len(data.samples) == len(data.labels) == 128_000
    assert len(data.parts.samples) == 1797  # train and test together


def test_the_seed_alone_decides_the_draws():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = stacked_digits(num_samples=100, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = (stacked_digits(num_samples=100, seed=seed) for seed in (0, 1))

    assert torch.equal(again.samples, first.samples)
    assert torch.equal(again.labels, first.labels)
    assert not torch.equal(other.labels, first.labels)


# Pearson's statistic of K cells is chi-square with K - 1 degrees of freedom: mean K - 1, variance 2 (K - 1). Bounded
# from both sides, by five standard errors: a statistic that is too small shows draws without replacement.
def assert_chi_square(counts: Tensor, expected: Tensor) -> None:
    statistic = ((counts.double() - expected) ** 2 / expected).sum().item()
    freedom = len(counts) - 1
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


def test_every_picture_is_as_likely_as_any_other_and_the_channels_are_independent():
    num, num_samples = 50, 128_000
    drawn = _stacked(numbered(num), num_samples, seed=0).samples.flatten(1).long()

    for channel in range(3):
        assert_chi_square(drawn[:, channel].bincount(minlength=num), torch.full((num,), num_samples / num))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        pairs = num * drawn[:, one] + drawn[:, other]
        assert_chi_square(pairs.bincount(minlength=num**2), torch.full((num**2,), num_samples / num**2))


@pytest.mark.parametrize("base", [all_digits, uneven])
def test_the_labels_have_the_frequencies_of_three_independent_digits(base):
    data = _stacked(base(), 128_000, seed=0)

    assert_chi_square(data.labels.bincount(minlength=1000), 128_000 * frequencies(base()))


@pytest.mark.parametrize("base", [all_digits, uneven])
def test_the_divergence_of_26000_samples_from_uniform_has_its_floor(base):
    """What the papers' KL is for perfect samples, when it is taken to the uniform distribution over K = 1000 modes.

    With the chances p of the modes and the frequencies q of n samples, KL(q | uniform) = log K - H(q), and (Miller
    1955) E H(q) = H(p) - (K - 1) / 2n + (1 - sum 1/p) / 12n^2 + O(n^-3). So its mean is 999 / 52000 = 0.0192, which is
    the sampling alone, + log K - H(p), three times that of one digit, + a correction of 1e-4. Its variance is at most
    twice that of the two terms apart: 2n KL(q | p) is chi-square with K - 1 degrees of freedom, and the mean of
    log(p K) over n samples has the variance of one over n.
    """
    num_samples, num_modes, num_seeds = 26_000, 1000, 9
    p = frequencies(base())
    assert p.sum().item() == pytest.approx(1)
    own = (p * (p * num_modes).log()).sum().item()
    share = base().labels.bincount(minlength=10).double() / len(base().labels)
    assert own == pytest.approx(3 * (share * (share * 10).log()).sum().item())
    correction = ((1 / p).sum().item() - 1) / (12 * num_samples**2)
    expected = (num_modes - 1) / (2 * num_samples) + own + correction
    sampling_variance = 2 * (num_modes - 1) / (2 * num_samples) ** 2
    own_variance = ((p * (p * num_modes).log() ** 2).sum().item() - own**2) / num_samples
    standard_error = math.sqrt(2 * (sampling_variance + own_variance) / num_seeds)

    values = []
    for seed in range(num_seeds):
        q = _stacked(base(), num_samples, seed).labels.bincount(minlength=num_modes).double() / num_samples
        values.append(torch.special.xlogy(q, q * num_modes).sum().item())

    assert abs(sum(values) / num_seeds - expected) < 4 * standard_error
    assert standard_error < 0.1 * expected


def test_the_floor_of_the_digits_is_almost_that_of_equal_frequencies():
    """Near equal chances a divergence is half of chi-square: 10 / 2 * sum (count / 1797 - 1/10)^2 for each channel."""
    p = frequencies(all_digits())
    squares = 1.7**2 + 2.3**2 + 2.7**2 + 3.3**2 + 1.3**2 + 2.3**2 + 1.3**2 + 0.7**2 + 5.7**2 + 0.3**2

    own = (p * (p * 1000).log()).sum().item()
    assert own == pytest.approx(3 * 5 * squares / 1797**2, rel=0.01)
    assert own == pytest.approx(0.00032, abs=5e-6)  # beside 999 / 52000 = 0.01921


@pytest.mark.parametrize(("split", "values", "count"), [("train", {1}, 10), ("test", {2}, 4), ("all", {1, 2}, 14)])
def test_mnist_is_stacked_from_the_files_of_the_split(tmp_path, no_network, split, values, count):
    write_idx_files(tmp_path / "MNIST" / "raw")

    data = stacked_mnist(root=str(tmp_path), num_samples=400, split=split)

    assert data.samples.shape == (400, 3, 28, 28)
    assert data.samples.dtype == torch.uint8
    pixels = data.samples[:, :, 5, 6].long()
    assert torch.equal(data.samples, data.samples[:, :, 5:6, 6:7].expand_as(data.samples))
    assert set((pixels % 10).flatten().tolist()) == values
    first, second, third = (pixels // 10).unbind(dim=1)
    assert torch.equal(data.labels, 100 * first + 10 * second + third)
    assert data.parts.samples.shape == (count, 1, 28, 28)


def test_the_default_of_stacked_mnist_is_everything(tmp_path, no_network):
    write_idx_files(tmp_path / "mnist")

    data = stacked_mnist(root=str(tmp_path))

    assert len(data.samples) == 128_000
    assert len(data.parts.samples) == 14


def test_stacked_mnist_is_resized_on_request(tmp_path, no_network):
    write_idx_files(tmp_path / "mnist")

    data = stacked_mnist(root=str(tmp_path), num_samples=5, image_size=32)

    assert data.samples.shape == (5, 3, 32, 32)
    assert data.parts.samples.shape == (14, 1, 32, 32)


def test_missing_mnist_is_refused_and_a_split_needs_only_its_own_files(tmp_path, no_network):
    write_idx_files(tmp_path / "mnist", parts=("train",))

    assert len(stacked_mnist(root=str(tmp_path), num_samples=5, split="train", download=False).samples) == 5
    with pytest.raises(RunError, match=r"t10k-images-idx3-ubyte"):
        stacked_mnist(root=str(tmp_path), num_samples=5, download=False)
