"""The classifier that is trained on a data set's own labels, on scikit-learn's digits."""

import logging

import pytest
import torch
from torch import Tensor

from gan_lab.data.digits import digits
from gan_lab.data.torchvision_sets import DEBIAN_FASHION_MNIST, fashion_mnist
from gan_lab.features import Extractor, Rows
from gan_lab.features.classifier import classification_accuracy, train_classifier
from gan_lab.metrics.frechet import frechet_distance, moments
from gan_lab.metrics.kernel import kernel_distance

SEEDS = (0, 1, 2)
NUM_RANKED = 340
"""Images a side where classes are left out: of four classes the second half of the digits has 350."""


def trained(seed: int) -> Extractor:
    train, test = digits(), digits(split="test")
    return train_classifier(train.samples, train.labels, 10, (test.samples, test.labels), seed=seed)


@pytest.fixture(scope="module")
def extractors() -> dict[int, Extractor]:
    return {seed: trained(seed) for seed in SEEDS}


def halves() -> tuple[Tensor, Tensor, Tensor]:
    """A random half of all digits; the other half, with its labels."""
    data = digits(split="all")
    order = torch.randperm(len(data.samples), generator=torch.Generator().manual_seed(0))
    images, labels = data.samples[order], data.labels[order]
    half = len(order) // 2
    return images[:half], images[half : 2 * half], labels[half : 2 * half]


def noisy(images: Tensor, level: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + level * noise).round().clamp(0, 255).byte()


def made(num: int, num_channels: int, side: int) -> tuple[Tensor, Tensor]:
    """Two classes: dark pictures and bright ones."""
    labels = torch.arange(num) % 2
    values = torch.randint(0, 128, (num, num_channels, side, side), generator=torch.Generator().manual_seed(0))
    return (values + 127 * labels.view(-1, 1, 1, 1)).byte(), labels


def test_the_seed_decides_the_weights(extractors):
    again = trained(0)
    assert again.hash == extractors[0].hash
    assert again.facts == extractors[0].facts
    assert len({extractor.hash for extractor in extractors.values()}) == len(SEEDS)


def test_rows_of_a_set_are_trained_on_as_a_copy_of_them_is():
    images, labels = made(80, 1, 8)
    chosen, others = torch.randperm(80, generator=torch.Generator().manual_seed(1)).split(40)
    of_rows = train_classifier(Rows(images, chosen), labels[chosen], 2, (Rows(images, others), labels[others]))
    of_copies = train_classifier(images[chosen], labels[chosen], 2, (images[others], labels[others]))
    assert of_rows.hash == of_copies.hash
    assert of_rows.facts == of_copies.facts


def test_torchs_generator_is_left_as_it_was():
    images, labels = made(40, 1, 8)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = train_classifier(images, labels, 2, (images, labels))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert train_classifier(images, labels, 2, (images, labels)).hash == one.hash


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_accuracy_on_fashion_mnist(tmp_path):
    train, test = (fashion_mnist(root=str(tmp_path), split=split, download=False) for split in ("train", "test"))
    extractor = train_classifier(train.samples, train.labels, 10, (test.samples, test.labels))
    assert extractor.facts["held_out"] == 10_000
    assert extractor.facts["accuracy"] >= 0.91


@pytest.mark.parametrize("seed", SEEDS)
def test_the_accuracy_is_high_and_counted_on_held_out_images(extractors, seed):
    test = digits(split="test")
    extractor = extractors[seed]
    network = extractor.network.eval()
    with torch.no_grad():
        right = sum(
            int(network(image[None])[1].argmax()) == int(label)
            for image, label in zip(test.samples, test.labels, strict=True)
        )
    assert extractor.facts["held_out"] == 355
    assert extractor.facts["trained_on"] == 1442
    # one picture at a time may round otherwise than 256 together: one of the 355 may be on the edge
    assert abs(extractor.facts["accuracy"] - right / 355) < 1.5 / 355
    assert extractor.facts["accuracy"] >= 0.93


def test_the_result_is_frozen_and_says_what_it_is(extractors):
    extractor = extractors[0]
    assert (extractor.name, extractor.published) == ("cnn", False)
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())
    found = extractor(digits(split="test").samples)
    assert found.vectors.shape == (355, extractor.facts["num_features"])
    assert found.probabilities is not None
    assert found.probabilities.shape == (355, 10)
    assert found.vectors.dtype == torch.float32
    assert found.vectors.min() >= 0  # after ReLU
    assert extractor.facts["resize"] == "none"
    assert extractor.facts["input"] == [1, 8, 8]


DISTANCES = {
    "frechet": lambda real, fake: frechet_distance(moments(real), moments(fake)),
    "kernel": kernel_distance,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("distance", DISTANCES)
class TestRanksKnownBetterAboveKnownWorse:
    """The order is that of the images, whichever seed the extractor has."""

    def test_noise(self, extractors, distance, seed):
        real, others, _ = halves()
        vectors = extractors[seed](real).vectors
        fakes = (others, noisy(others, 16), noisy(others, 64))  # of 255
        clean, slight, strong = [DISTANCES[distance](vectors, extractors[seed](fake).vectors) for fake in fakes]
        assert clean < slight < strong
        assert strong > 3 * slight

    def test_missing_classes(self, extractors, distance, seed):
        real, others, labels = halves()
        vectors = extractors[seed](real[:NUM_RANKED]).vectors
        fakes = [others[labels < num_classes][:NUM_RANKED] for num_classes in (10, 7, 4)]
        full, seven, four = [DISTANCES[distance](vectors, extractors[seed](fake).vectors) for fake in fakes]
        assert {len(fake) for fake in fakes} == {NUM_RANKED}
        assert full < seven < four
        assert seven > 3 * full


@pytest.mark.parametrize(
    ("num_channels", "side", "resize"),
    [
        (3, 40, "40 to 32 pixels, bilinear, antialiased"),
        (1, 9, "none"),
        (1, 28, "none"),
        (4, 31, "none"),
    ],
)
def test_other_shapes_and_fewer_images_than_a_batch(num_channels, side, resize):
    images, labels = made(50, num_channels, side)
    extractor = train_classifier(images, labels, 2, (images, labels))
    assert extractor.facts["resize"] == resize
    assert extractor.facts["input"] == [num_channels, side, side]
    assert extractor.facts["trained_on"] == extractor.facts["held_out"] == 50
    assert extractor.facts["accuracy"] == 1  # a mean brightness tells the classes apart
    found = extractor(images[:7])
    assert found.vectors.shape == (7, 64)
    assert found.vectors.isfinite().all()


def test_the_log_names_the_accuracy(caplog):
    images, labels = made(50, 1, 8)
    with caplog.at_level(logging.INFO):
        train_classifier(images, labels, 2, (images, 1 - labels))
    assert "held-out accuracy 0.00%" in caplog.text


# ---------------------------------------------------------------------- trained on fakes


def test_of_reals_in_the_place_of_fakes_it_is_the_accuracy_of_the_extractor():
    train, test = digits(), digits(split="test")
    images, labels = train.samples[:150], train.labels[:150]
    extractor = train_classifier(images, labels, 10, (test.samples, test.labels), seed=1)
    accuracy = classification_accuracy(images, labels, 10, (test.samples, test.labels), seed=1)
    assert extractor.facts["accuracy"] == round(accuracy, 4)
    assert accuracy * 355 == pytest.approx(round(accuracy * 355), abs=1e-9)  # a number of images
    assert accuracy > 0.5


def test_it_is_one_for_right_labels_and_nothing_for_swapped_ones():
    images, labels = made(50, 1, 8)
    assert classification_accuracy(images, labels, 2, (images, labels)) == 1
    assert classification_accuracy(images, 1 - labels, 2, (images, labels)) == 0


def test_it_sees_that_fakes_lack_the_variety_of_the_data():
    train, test = digits(), digits(split="test")
    held_out = (test.samples, test.labels)
    few = torch.cat([(train.labels == label).nonzero()[:1, 0] for label in range(10)]).repeat(15)
    assert train.labels[:150].bincount(minlength=10).min() >= 10
    rich = classification_accuracy(train.samples[:150], train.labels[:150], 10, held_out)
    poor = classification_accuracy(train.samples[few], train.labels[few], 10, held_out)
    assert poor < rich - 0.1


def test_judging_fakes_leaves_torchs_generator_as_it_was():
    images, labels = made(40, 1, 8)
    rows = Rows(images, torch.arange(0, 40, 3))
    noise = torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(2)).byte()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = classification_accuracy(noise, labels, 2, (rows, labels[::3]))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert classification_accuracy(noise, labels, 2, (rows, labels[::3])) == one
