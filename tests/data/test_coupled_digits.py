import pytest
import torch

from gan_lab.data import Data
from gan_lab.data.coupled import coupled, coupled_digits, domains
from gan_lab.data.digits import digits


def numbered(num: int, channels: int = 1) -> Data:
    """``num`` pictures of one pixel that tell their own index."""
    return Data(torch.arange(num, dtype=torch.uint8).view(num, 1, 1, 1).expand(num, channels, 1, 1), None, None)


def partners(num: int, seed: int) -> list[int]:
    """The index of the picture whose negative stands behind each picture."""
    return [255 - int(negative) for negative in coupled(numbered(num), seed).samples[:, 1]]


@pytest.mark.parametrize(("split", "num"), [("train", 1442), ("test", 355), ("all", 1797)])
@pytest.mark.parametrize("image_size", [None, 12])
def test_the_first_channel_is_the_digits_and_the_second_their_negatives_in_another_order(split, num, image_size):
    data = coupled_digits(split=split, image_size=image_size)
    base = digits(split=split, image_size=image_size)
    side = image_size or 8

    assert data.samples.shape == (num, 2, side, side)
    assert data.samples.dtype == torch.uint8
    assert torch.equal(data.samples[:, :1], base.samples)
    negatives = sorted(picture.flatten().tolist() for picture in 255 - data.samples[:, 1].int())
    assert negatives == sorted(picture.flatten().tolist() for picture in base.samples)
    own = (data.samples[:, 0].int() + data.samples[:, 1] == 255).flatten(1).all(1)
    assert not own.any()  # no two pictures are alike, so a sum of 255 everywhere would be a digit and its own negative


def test_domains_are_the_images_of_each_made_positive():
    data = coupled_digits()
    first, second = domains(data.samples)

    assert torch.equal(first, digits().samples)
    assert second.dtype == torch.uint8
    assert torch.equal(second, 255 - data.samples[:, 1:])
    wide = torch.randint(256, (5, 6, 4, 4), dtype=torch.uint8)
    assert torch.equal(domains(wide)[0], wide[:, :3])
    assert torch.equal(domains(wide)[1], 255 - wide[:, 3:])


def test_there_is_no_label():
    data = coupled_digits()

    assert data.labels is None
    assert data.classes is None
    assert data.coupled
    assert data.parts is not None
    assert torch.equal(data.parts.samples, digits().samples)
    assert data.modes is None
    assert data.samples_key is None


def test_the_classes_of_a_pair_are_independent():
    """Of 1,442 pairs, as many show the same digit twice as chance has it: about a tenth."""
    base = digits()
    labels = {picture.numpy().tobytes(): int(label) for picture, label in zip(base.samples, base.labels, strict=True)}
    samples = coupled_digits().samples
    first = [labels[picture.numpy().tobytes()] for picture in samples[:, :1]]
    second = [labels[picture.numpy().tobytes()] for picture in 255 - samples[:, 1:]]
    same = sum(a == b for a, b in zip(first, second, strict=True))
    chance = (base.labels.bincount().double() / len(base.labels)).square().sum().item()

    assert abs(same - chance * 1442) < 4 * (1442 * chance * (1 - chance)) ** 0.5


@pytest.mark.parametrize("num", [2, 3, 10, 200])
def test_every_picture_is_a_partner_once_and_never_its_own(num):
    for seed in range(20):
        found = partners(num, seed)

        assert sorted(found) == list(range(num))
        assert all(own != partner for own, partner in enumerate(found))


def test_every_cycle_is_as_likely_as_any_other():
    """Of four pictures, there are 3! = 6 cycles: a chi-square of 5 degrees of freedom, below 20.5 in 999 of 1000."""
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(1200):
        found = tuple(partners(4, seed))
        counts[found] = counts.get(found, 0) + 1

    assert len(counts) == 6
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 20.5


def test_the_seed_alone_decides():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = coupled_digits(seed=0).samples
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)

    assert torch.equal(coupled_digits(seed=0).samples, first)
    assert not torch.equal(coupled_digits(seed=1).samples, first)


def test_channels_of_a_domain_stay_together():
    samples = coupled(numbered(5, channels=3), seed=0).samples

    assert samples.shape == (5, 6, 1, 1)
    assert torch.equal(samples[:, :3], numbered(5, channels=3).samples)
    for channel in (4, 5):
        assert torch.equal(samples[:, channel], samples[:, 3])


def test_points_and_a_single_image_are_refused():
    with pytest.raises(AssertionError, match="points have no negative"):
        coupled(Data(torch.zeros(5, 2), None, None), seed=0)
    with pytest.raises(AssertionError, match="its own negative"):
        coupled(numbered(1), seed=0)
