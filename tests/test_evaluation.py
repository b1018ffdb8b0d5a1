"""The evaluator: names, counts, floors, cards, cached references, and figures against independent ones."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import gan_lab.evaluation as module
from gan_lab.data import Data
from gan_lab.data.digits import digits
from gan_lab.data.points import gaussian_ring
from gan_lab.data.stacked import stacked_digits
from gan_lab.errors import ConfigError
from gan_lab.evaluation import Evaluator, better, card_id, in_words, metric_names, predicted_classes
from gan_lab.features import Extractor
from gan_lab.features.cache import Cache

EVERY = (
    *("frechet", "kernel", "manifold", "sliced_wasserstein", "feature_sliced_wasserstein"),
    *("class_score", "modes", "memorisation", "diversity"),
)
TRAIN, TEST = digits(), digits(split="test")
CHOSEN = torch.randperm(1442, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def evaluator(cache) -> Evaluator:
    return Evaluator(TRAIN, TEST, EVERY, cache, split="train")


def noisy(images: torch.Tensor, std: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)) * std * 255
    return (images.float() + noise).round().clamp(0, 255).to(torch.uint8)


# ------------------------------------------------------------------ names and counts


@pytest.mark.parametrize("extractor", ["auto", "cnn", "random", "none"])
def test_the_names_announced_are_the_names_written(cache, extractor):
    scores = Evaluator(TRAIN, TEST, EVERY, cache, num_samples=100, extractor_name=extractor).score(TRAIN.samples[:100])
    announced = metric_names(EVERY, images=True, extractor=extractor)

    if extractor == "random":
        announced.remove("class_score")  # needs labels, which a random network knows nothing of
    assert list(scores) == announced


def test_names_for_points(cache):
    data = gaussian_ring()
    evaluator = Evaluator(data, None, EVERY, cache)

    assert list(evaluator.score(data.samples[:2500])) == metric_names(EVERY, images=False)
    assert evaluator.extractor is None


def test_published_names_are_for_inception_alone(cache, monkeypatch):
    class Stub(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(64, 16)

        def forward(self, images):
            vectors = self.layer(images.float().flatten(1))
            return vectors, vectors[:, :10]

    monkeypatch.setattr(module, "inception", lambda weights: Extractor("stub", Stub(), {}, published=True))
    evaluator = Evaluator(TRAIN, None, ("frechet", "kernel", "class_score"), cache, 100, "inception")
    scores = evaluator.score(TRAIN.samples[:100])

    assert list(scores) == ["fid", "kid", "inception_score"]
    assert list(scores) == metric_names(("frechet", "kernel", "class_score"), images=True, extractor="inception")


@pytest.mark.parametrize(
    ("data", "num_samples", "num"),
    [(TRAIN, 10_000, 721), (TRAIN, 500, 500), (gaussian_ring(), 10_000, 2500), (gaussian_ring(), 100, 100)],
)
def test_as_many_fakes_as_reals_at_most_half_of_the_data(cache, data, num_samples, num):
    evaluator = Evaluator(data, None, ("sliced_wasserstein",), cache, num_samples)

    assert evaluator.num == evaluator.card["num_fake"] == evaluator.card["num_real"] == num
    with pytest.raises(ValueError, match=f"{num} samples are scored here, got {num + 1}"):
        evaluator.score(data.samples[: num + 1])


def test_which_extractor(cache):
    def name(data, asked="auto"):
        extractor = Evaluator(data, None, EVERY, cache, extractor_name=asked).extractor
        return None if extractor is None else extractor.name

    unlabelled = Data(TRAIN.samples, None, None)
    assert name(TRAIN) == "cnn"
    assert name(TRAIN, "random") == name(unlabelled) == "random"
    assert name(Data(TRAIN.samples[:150], TRAIN.labels[:150], TRAIN.classes)) == "random"  # 15 a class
    assert name(TRAIN, "none") is None
    with pytest.raises(ConfigError, match="evaluation.extractor=cnn: a classifier needs labels"):
        name(unlabelled, "cnn")


# ------------------------------------------------------------------ figures


def test_the_floor_is_the_score_of_the_other_half(evaluator):
    reference, others = evaluator._halves
    together = {tuple(image.flatten().tolist()) for image in torch.cat([reference, others])}
    scores = evaluator.score(others)

    assert len(reference) == len(others) == 721
    assert together <= {tuple(image.flatten().tolist()) for image in TRAIN.samples}
    for name, value in evaluator.floor.items():
        if name not in ("nearest_train_ratio", "authentic"):  # whose floor is that of held-out images
            assert scores[name] == value, name
    assert evaluator.floor["nearest_train_ratio"] == 1
    assert scores["authentic"] == 0  # they are training images
    assert evaluator.floor["authentic"] > 0.2


def test_the_reference_itself_scores_best(evaluator):
    scores = evaluator.score(evaluator._halves[0])

    assert scores["fd"] == pytest.approx(0, abs=1e-6)
    assert scores["sliced_wasserstein"] == scores["feature_sliced_wasserstein"] == 0
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1


def test_the_frechet_distance_by_another_way(evaluator):
    fake = noisy(TRAIN.samples[CHOSEN[:721]], 0.2)
    real, other = (evaluator.extractor(images).vectors.double().numpy() for images in (evaluator._halves[0], fake))
    one, two = np.cov(real.T), np.cov(other.T)
    roots = np.sqrt(np.linalg.eigvals(one @ two).astype(complex)).real  # torch-fidelity's form
    expected = ((real.mean(0) - other.mean(0)) ** 2).sum() + np.trace(one + two) - 2 * roots.sum()

    assert evaluator.score(fake)["fd"] == pytest.approx(expected, rel=1e-5)


def test_more_noise_scores_worse(evaluator):
    series = [evaluator.score(noisy(TRAIN.samples[CHOSEN[:721]], std)) for std in (0.1, 0.3, 0.6)]

    for name in ("fd", "kd", "sliced_wasserstein", "feature_sliced_wasserstein", "coverage", "precision"):
        values = [scores[name] for scores in series]
        assert better(name, values[0], values[1]), name
        assert better(name, values[1], values[2]), name


def test_samples_of_fewer_classes_are_told(evaluator):
    few = TRAIN.samples[TRAIN.labels < 5][:721]
    scores = evaluator.score(few)

    assert scores["modes_covered"] == 5
    assert scores["mode_kl"] == pytest.approx(math.log(2), abs=0.02)
    assert scores["recall"] < 0.7 * evaluator.floor["recall"]


def test_stacked_digits_are_scored_on_each_channel(cache):
    data = stacked_digits(num_samples=8000)
    evaluator = Evaluator(data, None, ("modes", "frechet"), cache)
    probabilities = evaluator.extractor(data.samples).probabilities
    classes, _ = predicted_classes(probabilities)
    digits_right = probabilities.argmax(dim=2) == torch.stack(
        [data.labels // 100, data.labels // 10 % 10, data.labels % 10], 1
    )

    assert probabilities.shape == (8000, 3, 10)
    assert evaluator.extractor(data.samples[:7]).vectors.shape == (7, 3 * 64)
    assert digits_right.double().mean() >= 0.99  # the classifier has seen nine in ten of them
    assert (classes == data.labels).double().mean() >= 0.97
    scores = evaluator.score(data.samples[:4000])
    # 4,000 draws from 1,000 modes miss 1000 e^-4 = 18 of them; E[KL] = 999 / 8000, and a little for unequal digits
    assert scores["modes_covered"] == pytest.approx(1000 * (1 - math.exp(-4)), abs=5 * math.sqrt(18))
    assert scores["mode_kl"] == pytest.approx(999 / 8000, rel=0.25)


def test_classes_of_channels_are_the_digits_of_one_number():
    probabilities = torch.full((2, 3, 10), 0.01)
    for sample, channels in enumerate([(0, 4, 2), (9, 9, 9)]):
        for channel, digit in enumerate(channels):
            probabilities[sample, channel, digit] = 0.9 - 0.1 * channel
    classes, sureness = predicted_classes(probabilities)

    assert classes.tolist() == [42, 999]
    torch.testing.assert_close(sureness, torch.tensor([0.7, 0.7]))
    classes, sureness = predicted_classes(torch.tensor([[0.2, 0.8], [0.6, 0.4]]))
    assert (classes.tolist(), sureness.tolist()) == ([1, 0], pytest.approx([0.8, 0.6]))


def test_directions():
    for name in ("fd", "kd", "sliced_wasserstein", "mode_kl", "loss/generator"):
        assert better(name, 1.0, 2.0)
        assert not better(name, 2.0, 2.0)
    for name in ("precision", "recall", "coverage", "class_score", "modes_covered", "authentic", "diversity"):
        assert better(name, 2.0, 1.0)
    for name in ("fd", "recall"):
        assert not better(name, math.nan, 1.0)


# ------------------------------------------------------------------ cards and cache


def test_the_card_says_what_must_be_equal(cache, evaluator):
    card = evaluator.card

    assert (card["num_fake"], card["num_real"], card["split"], card["seed"]) == (721, 721, "train", 0)
    assert (card["extractor_name"], card["extractor_hash"]) == ("cnn", evaluator.extractor.hash)
    assert (card["resize"], card["quantised"]) == ("none", "uint8")
    assert card["accuracy"] >= 0.93
    others = [
        Evaluator(TRAIN, TEST, EVERY[:3], cache, split="train"),
        Evaluator(TRAIN, TEST, EVERY, cache, num_samples=100, split="train"),
        Evaluator(TRAIN, TEST, EVERY, cache, split="all"),
        Evaluator(TRAIN, TEST, EVERY, cache, split="train", seed=1),
        Evaluator(TRAIN, TEST, EVERY, cache, split="train", extractor_name="random"),
        Evaluator(TEST, None, EVERY, cache, split="train"),
    ]
    assert len({card_id(card), *(card_id(other.card) for other in others)}) == 7
    assert card_id(Evaluator(TRAIN, TEST, EVERY, cache, split="train").card) == card_id(card)
    assert card_id({**card, "weights": "raw", "noise_seed": 3, "images_seen": 5, "scored": "x"}) == card_id(card)


def test_the_reference_is_measured_once(cache, evaluator, monkeypatch):
    floor, seen = evaluator.floor, []
    call = Extractor.__call__
    monkeypatch.setattr(Extractor, "__call__", lambda self, images, *rest: seen.append(1) or call(self, images, *rest))

    again = Evaluator(TRAIN, TEST, EVERY, cache, split="train")
    assert again.floor == floor
    assert again.extractor.hash == evaluator.extractor.hash
    assert seen == []
    changed = TRAIN._replace(samples=TRAIN.samples.flip(0))
    for other in (
        Evaluator(TRAIN, TEST, EVERY, cache, num_samples=300),
        Evaluator(TRAIN, TEST, EVERY, cache, seed=1, extractor_name="random"),
        Evaluator(changed, TEST, EVERY, cache, extractor_name="random"),
        Evaluator(TRAIN, None, EVERY, cache, extractor_name="random"),
    ):
        seen.clear()
        other.prepare()
        assert seen, other


def test_figures_do_not_depend_on_who_made_the_extractor(tmp_path):
    fake = noisy(TRAIN.samples[:200], 0.1)
    made, read = (Evaluator(TRAIN, TEST, EVERY, Cache(tmp_path), num_samples=200).score(fake) for _ in range(2))

    assert made == read


def test_words():
    text = in_words({"fd": 10.0, "recall": 0.5, "kd": 0.25}, {"fd": 4.0, "recall": 0.0})

    assert text == "fd 10 (floor 4, 2.50x), recall 0.5 (floor 0), kd 0.25"
