"""The classifier and the random network: reproducible, right about digits, and worse samples score worse."""

import pytest
import torch

from gan_lab.data.digits import digits
from gan_lab.features.classifier import NUM_FEATURES, train_classifier
from gan_lab.features.random_conv import random_conv
from gan_lab.metrics.frechet import frechet_distance, moments
from gan_lab.metrics.kernel import kernel_distance

SEEDS = (0, 1, 2)
ALL = digits(split="all")
ORDER = torch.randperm(len(ALL.samples), generator=torch.Generator().manual_seed(0))
HALF, OTHER = (ALL.samples[part] for part in ORDER.split(899)[:2])
OTHER_LABELS = ALL.labels[ORDER[899:1797]]


def noisy(images: torch.Tensor, std: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)) * std * 255
    return (images.float() + noise).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def classifiers():
    train, test = digits(), digits(split="test")
    return {
        seed: train_classifier(train.samples, train.labels, 10, (test.samples, test.labels), seed=seed)
        for seed in SEEDS
    }


@pytest.fixture(scope="module", params=["cnn", "random"])
def extractors(request):
    if request.param == "cnn":
        return request.getfixturevalue("classifiers")
    return {seed: random_conv(ALL.samples, seed=seed) for seed in SEEDS}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_classifier_knows_digits_of_writers_that_it_has_not_seen(classifiers, seed):
    test = digits(split="test")
    extractor = classifiers[seed]
    right = extractor(test.samples).probabilities.argmax(dim=1) == test.labels

    assert right.double().mean().item() >= 0.93  # 0.95 to 0.98 where this was written
    assert extractor.facts["accuracy"] == round(right.double().mean().item(), 4)
    assert (extractor.facts["held_out"], extractor.facts["trained_on"]) == (355, 1442)
    assert extractor(test.samples).vectors.shape == (355, NUM_FEATURES)


def test_extractors_depend_on_their_seed_alone(extractors):
    assert len({extractor.hash for extractor in extractors.values()}) == len(SEEDS)


def test_the_same_seed_gives_the_same_network_and_no_random_number_is_taken_from_others():
    few, labels = ALL.samples[:300], ALL.labels[:300]
    states, hashes = [], []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        hashes.append((train_classifier(few, labels, 10, (few, labels)).hash, random_conv(few).hash))
        states.append(torch.equal(torch.get_rng_state(), before))

    assert hashes[0] == hashes[1]
    assert states == [True, True]


@pytest.mark.parametrize("seed", SEEDS)
def test_known_better_samples_score_better(extractors, seed):
    extractor = extractors[seed]
    reference = extractor(HALF).vectors

    def scores(images):
        vectors = extractor(images).vectors
        count = len(vectors)
        return (
            frechet_distance(moments(reference[:count]), moments(vectors)),
            kernel_distance(reference[:count], vectors),
        )

    by_noise = [scores(noisy(OTHER, std)) for std in (0.0, 0.1, 0.25, 0.5)]
    # the same number of samples of fewer classes
    by_classes = [scores(OTHER[OTHER_LABELS < kept][:300]) for kept in (10, 7, 4)]
    for series in (by_noise, by_classes):
        for metric in (0, 1):
            values = [values[metric] for values in series]
            assert values == sorted(values)
            assert values[-1] > 2 * abs(values[0])


@pytest.mark.parametrize(("shape", "num"), [((3, 40, 40), 60), ((1, 9, 9), 60), ((1, 28, 28), 200), ((4, 8, 8), 100)])
def test_any_size_number_of_channels_and_of_images(shape, num):
    images = torch.randint(0, 256, (num, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(num) % 2
    for extractor, size in ((train_classifier(images, labels, 2, (images, labels)), 64), (random_conv(images), 128)):
        vectors = extractor(images).vectors
        assert vectors.shape == (num, size)
        assert vectors.isfinite().all()
        resized = shape[1] > 32
        assert extractor.facts["resize"] == ("40 to 32 pixels, bilinear, antialiased" if resized else "none")
        assert extractor.facts["input"] == list(shape)


def test_the_random_network_is_standard_on_what_it_was_calibrated_on():
    vectors = random_conv(ALL.samples[:1024])(ALL.samples[:1024]).vectors

    torch.testing.assert_close(vectors.mean(dim=0), torch.zeros(128), atol=1e-4, rtol=0)
    torch.testing.assert_close(vectors.std(dim=0), torch.ones(128), atol=1e-3, rtol=0)


@pytest.mark.parametrize("value", [0, 128])
def test_images_of_one_colour_give_finite_features(value):
    flat = torch.full((50, 1, 8, 8), value, dtype=torch.uint8)

    assert random_conv(flat)(flat).vectors.isfinite().all()
    assert random_conv(ALL.samples)(flat).vectors.isfinite().all()
