"""What is scored against what, under which names, and what is kept of it."""

import json
import math
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.stats import poisson
from torch import Tensor, nn

import gan_lab.evaluation
from gan_lab.conditioning import AuxiliaryClassifier, Codes, Conditioning
from gan_lab.data import Data, Layout, as_training_input, some_of
from gan_lab.data.coupled import coupled_digits
from gan_lab.data.digits import digits
from gan_lab.data.points import gaussian_ring
from gan_lab.data.stacked import stacked_digits
from gan_lab.errors import ConfigError
from gan_lab.evaluation import (
    LARGER_IS_BETTER,
    MEASURES,
    NUM_POINTS,
    WHAT_WAS_SCORED,
    Channelwise,
    DomainsEvaluator,
    Evaluator,
    ExtractorName,
    Facts,
    Metric,
    better,
    card_id,
    in_words,
    metric_names,
    predicted_classes,
    worse,
)
from gan_lab.features import Extractor, Rows
from gan_lab.features.cache import Cache, content_key
from gan_lab.reading import names_read, read_classes

ALL: tuple[Metric, ...] = get_args(Metric)
OF_LABELS = [metric for metric, measure in MEASURES.items() if measure.of_labels]
NUM = 300


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """The classifiers are trained once for all tests."""
    return Cache(tmp_path_factory.mktemp("cache"))


def of_digits(cache: Cache, metrics: tuple[Metric, ...] = ALL, **options: Any) -> Evaluator:
    settings: dict[str, Any] = {"num_samples": NUM, "extractor_name": "cnn", "split": "train", **options}
    return Evaluator(digits(), digits(split="test"), metrics, cache, **settings)


def of_points(cache: Cache, metrics: tuple[Metric, ...] = ALL, **options: Any) -> Evaluator:
    settings: dict[str, Any] = {"num_points": 12_000, "seed": 0}
    data, held_out = gaussian_ring(**settings), gaussian_ring(**settings | {"seed": 1})
    return Evaluator(data, held_out, metrics, cache, **{"num_samples": NUM, **options})


def of_stacks(cache: Cache, metrics: tuple[Metric, ...], **options: Any) -> Evaluator:
    data, held_out = stacked_digits(num_samples=4000), stacked_digits(num_samples=500, split="test")
    return Evaluator(data, held_out, metrics, cache, extractor_name="cnn", **options)


def of_pairs(cache: Cache, metrics: tuple[Metric, ...], **options: Any) -> DomainsEvaluator:
    settings: dict[str, Any] = {"num_samples": NUM, "extractor_name": "cnn", **options}
    return DomainsEvaluator(coupled_digits(), coupled_digits(split="test"), metrics, cache, **settings)


@pytest.fixture(scope="module")
def stacked(cache: Cache) -> Evaluator:
    return of_stacks(cache, ("modes",))


def other_half(evaluator: Evaluator) -> tuple[Tensor, Tensor]:
    """The reference, and the samples of the floor: consecutive parts of a random order of the data."""
    samples = evaluator.data.samples
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(evaluator.seed))
    return samples[order[: evaluator.num]], samples[order[evaluator.num : 2 * evaluator.num]]


def noisy(images: Tensor, level: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + level * noise).round().clamp(0, 255).byte()


class Stub(nn.Module):
    """uint8 images (N, C, H, W) -> (vectors (N, 16), logits (N, 10)): fixed random projections."""

    def __init__(self, num_values: int = 64):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.projection = nn.Parameter(torch.randn(num_values, 26, generator=generator), requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vectors, logits = (images.float().flatten(1) / 255 @ self.projection).split([16, 10], dim=1)
        return vectors, logits


def published(weights: str | None = None) -> Extractor:
    return Extractor("inception-v3-compat", Stub(), {"published_weights": True, "weights": weights}, published=True)


# ----------------------------------------------------------------------- names


class TestNames:
    """`metric_names` says before a run what `score` will return."""

    @pytest.mark.parametrize("name", ["cnn", "none", "random"])
    def test_digits(self, cache, name: ExtractorName):
        evaluator = of_digits(cache, extractor_name=name)
        assert_names(evaluator, metric_names(ALL, Facts(extractor=name)))

    @pytest.mark.parametrize("metric", [metric for metric in ALL if metric != "class_score"])
    @pytest.mark.parametrize("name", ["cnn", "random", "none"])
    def test_one_metric(self, cache, metric: Metric, name: ExtractorName):
        evaluator = of_digits(cache, (metric,), extractor_name=name, num_samples=50)
        assert_names(evaluator, metric_names((metric,), Facts(extractor=name)))

    @pytest.mark.parametrize("name", get_args(ExtractorName))
    def test_points_have_no_features(self, cache, name: ExtractorName):
        evaluator = of_points(cache, extractor_name=name)
        names = metric_names(ALL, Facts("points", name))
        assert_names(evaluator, names)
        assert set(names) == {
            *("precision", "recall", "density", "coverage", "sliced_wasserstein"),
            *("modes_covered", "high_quality", "mode_kl", "mixture_kl", "diversity"),
        }

    def test_stacked(self, cache):
        evaluator = of_stacks(cache, ALL, num_samples=NUM)
        assert_names(evaluator, metric_names(ALL, Facts("stacked", "cnn")))

    @pytest.mark.parametrize("metric", OF_LABELS)
    def test_stacks_that_were_asked_for_by_label(self, cache, metric: Metric):
        """Nothing judges the label of a whole stack."""
        evaluator = of_stacks(cache, (metric,), num_samples=NUM, conditional=True)
        assert evaluator.data.labels is not None
        found = evaluator.score(evaluator.data.samples[: evaluator.num], evaluator.data.labels[: evaluator.num])
        names = metric_names((metric,), Facts("stacked", "cnn", conditional=True))
        assert sorted(found) == sorted(names)

    @pytest.mark.parametrize("name", ["cnn", "random", "none"])
    def test_coupled(self, cache, name: ExtractorName):
        evaluator = of_pairs(cache, ALL, extractor_name=name)
        assert_names(evaluator, metric_names(ALL, Facts("coupled", name)))

    def test_published(self, cache, monkeypatch):
        monkeypatch.setattr(gan_lab.evaluation, "inception", published)
        evaluator = of_digits(cache, extractor_name="inception", inception_weights="w.pth")
        names = metric_names(ALL, Facts(extractor="inception"))
        assert_names(evaluator, names)
        assert {"fid", "kid", "inception_score"} <= set(names)
        assert not {"fd", "kd", "class_score", "modes_covered", "high_quality"} & set(names)
        assert evaluator.card["published_weights"] is True
        assert evaluator.card["weights"] == "w.pth"
        assert evaluator.card["extractor_name"] == "inception-v3-compat"

    @pytest.mark.parametrize("layout", ["images", "points"])
    def test_of_data_that_say_little(self, cache, layout):
        """Neither labels nor held-out samples, nor a mixture."""
        data = digits() if layout == "images" else gaussian_ring(num_points=1000)
        few = data._replace(labels=None, classes=None, modes=None, mode_std=None)
        evaluator = Evaluator(few, None, ALL, cache, num_samples=50)
        names = metric_names(evaluator.metrics, evaluator.facts)
        assert list(evaluator.score(other_half(evaluator)[1])) == names
        assert ("authentic" in names) == (layout == "images")
        assert not {"modes_covered", "nearest_train_ratio"} & set(names)

    def test_the_table_has_every_metric(self):
        assert tuple(MEASURES) == ALL

    def test_names_follow_the_order_of_the_metrics(self):
        assert metric_names(("diversity", "frechet"), Facts()) == ["diversity", "fd"]
        assert metric_names((), Facts()) == []


def assert_names(evaluator: Evaluator, names: list[str]) -> None:
    scores = evaluator.score(other_half(evaluator)[1])
    assert len(names) == len(set(names))
    assert list(scores) == names
    assert set(evaluator.floor) == set(names)
    assert all(isinstance(value, float) for value in scores.values())


DIRECTIONS = {
    **dict.fromkeys(("fd", "fid", "kd", "kid", "sliced_wasserstein", "feature_sliced_wasserstein"), -1),
    **dict.fromkeys(("mode_kl", "mixture_kl"), -1),
    **dict.fromkeys(("precision", "recall", "density", "coverage", "class_score", "inception_score"), 1),
    **dict.fromkeys(("modes_covered", "modes_with_5", "high_quality", "diversity", "nearest_train_ratio"), 1),
    "authentic": 1,
    **dict.fromkeys(("label_accuracy", "classification_accuracy", "classes/accuracy", "clusters/purity"), 1),
    **dict.fromkeys(("pair_agreement", "images_per_second"), 1),
    **dict.fromkeys(("class_fd", "clusters/error"), -1),
}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_the_better_of_two_values(name):
    low, high = (2.0, 1.0) if DIRECTIONS[name] < 0 else (1.0, 2.0)
    assert better(name, high, low)
    assert not better(name, low, high)
    assert not better(name, high, high)
    assert not better(name, math.nan, high)
    assert not better(name, math.nan, low)


def test_every_metric_has_a_direction():
    names = {
        name
        for layout in get_args(Layout)
        for extractor in get_args(ExtractorName)
        for name in metric_names(ALL, Facts(layout, extractor, conditional=True))
    }
    others = {"classes/accuracy", "clusters/purity", "clusters/error", "images_per_second"}
    assert names | others == set(DIRECTIONS)
    assert {name for name, direction in DIRECTIONS.items() if direction > 0} == LARGER_IS_BETTER


def test_scores_in_words():
    words = in_words({"fd": 12.0, "kd": 0.5, "recall": 0.81234, "new": 3.0}, {"fd": 8.0, "kd": -0.1, "recall": 0.9})
    assert words == "fd 12 (floor 8, 1.50x), kd 0.5 (floor -0.1), recall 0.8123 (floor 0.9, 0.90x), new 3"


def test_scores_in_words_have_no_ratio_that_is_not_finite():
    infinite, nan = math.inf, math.nan
    words = in_words({"mode_kl": infinite, "fd": nan, "kd": 2.0}, {"mode_kl": 0.5, "fd": 2.0, "kd": infinite})
    assert words == "mode_kl inf (floor 0.5), fd nan (floor 2), kd 2 (floor inf)"


# ---------------------------------------------------------------------- classes


def test_classes_of_probabilities_by_hand():
    classes, sureness = predicted_classes(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]]))
    assert classes.tolist() == [1, 0]
    assert sureness.tolist() == pytest.approx([0.7, 0.5])


def test_classes_of_channels_by_hand():
    """Digits 2, 0, 1 to base 3 are 2 * 9 + 0 * 3 + 1 = 19; the least sure channel has 0.4."""
    one = [[0.0, 0.1, 0.9], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1]]
    other = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.1, 0.0, 0.9]]
    classes, sureness = predicted_classes(torch.tensor([one, other]))
    assert classes.tolist() == [19, 0 * 9 + 2 * 3 + 2]
    assert sureness.tolist() == pytest.approx([0.4, 0.9])

    decimal = torch.eye(10)[torch.tensor([[4, 0, 7], [0, 0, 0], [9, 9, 9]])]
    assert predicted_classes(decimal)[0].tolist() == [407, 0, 999]
    assert predicted_classes(decimal)[0].dtype == torch.int64


def test_channels_are_judged_apart():
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = Stub()
    vectors, logits = Channelwise(network)(images)
    assert logits is not None
    assert vectors.shape == (5, 48)
    assert logits.shape == (5, 3, 10)
    for channel in range(3):
        one, of_one = network(images[:, channel : channel + 1])
        torch.testing.assert_close(vectors[:, 16 * channel : 16 * (channel + 1)], one)
        torch.testing.assert_close(logits[:, channel], of_one)


@pytest.fixture(scope="module")
def evaluator(cache: Cache) -> Evaluator:
    return of_digits(cache, ("labels", "class_frechet", "classification"), conditional=True)


@pytest.fixture(scope="module")
def right(evaluator: Evaluator) -> Tensor:
    """The labels of the images that the floor is of."""
    return evaluator.data.labels[evaluator._chosen[1]]


class TestLabels:
    """Real images as fakes, with their own labels and with those of other samples."""

    def test_right_labels_score_the_floor(self, evaluator, right):
        scores = evaluator.score(other_half(evaluator)[1], right)
        assert scores["label_accuracy"] == 1  # the classifier has learned from them
        assert scores["class_fd"] == pytest.approx(evaluator.floor["class_fd"], rel=1e-5)
        assert scores["classification_accuracy"] == evaluator.floor["classification_accuracy"] > 0.85

    def test_labels_that_are_one_too_high_are_all_wrong(self, evaluator, right):
        scores = evaluator.score(other_half(evaluator)[1], (right + 1) % 10)
        assert scores["label_accuracy"] == 0
        assert scores["class_fd"] > 5 * evaluator.floor["class_fd"]
        assert scores["classification_accuracy"] < 0.1

    def test_two_labels_that_are_swapped_cost_their_share(self, evaluator, right):
        swapped = torch.where(right == 3, 7, torch.where(right == 7, 3, right))
        scores = evaluator.score(other_half(evaluator)[1], swapped)
        share = ((right == 3) | (right == 7)).double().mean().item()
        assert scores["label_accuracy"] == pytest.approx(1 - share)
        distances = evaluator.class_distances(other_half(evaluator)[1], swapped)
        own = evaluator.class_distances(other_half(evaluator)[1], right)
        assert sorted(name for name in own if distances[name] > 2 * own[name]) == ["3", "7"]
        assert distances["0"] == own["0"]

    def test_the_distance_of_labels_is_the_mean_of_the_classes(self, evaluator, right):
        each = evaluator.class_distances(other_half(evaluator)[1], right)
        assert list(each) == [str(digit) for digit in range(10)]
        assert sum(each.values()) / 10 == pytest.approx(evaluator.floor["class_fd"], rel=1e-5)

    def test_nothing_of_classes_where_it_was_not_asked_for(self, cache, right):
        evaluator = of_digits(cache, ("labels",), conditional=True)
        assert evaluator.class_distances(other_half(evaluator)[1], right) == {}


class Knowing(nn.Module):
    """Gives each image of digits(split="test") its class, by looking it up, and a wrong one to every `wrong`-th."""

    def __init__(self, num_before: int, order: list[int], wrong: int = 0):
        super().__init__()
        held_out = digits(split="test")
        self.keys = as_training_input(held_out.samples).flatten(1)
        self.found = torch.tensor(order)[held_out.labels]
        if wrong:
            self.found[::wrong] = (self.found[::wrong] + 1) % 10
        self.num_before = num_before

    def forward(self, images: Tensor) -> Tensor:
        rows = torch.cdist(images.flatten(1), self.keys).argmin(dim=1)
        outputs = nn.functional.one_hot(self.found[rows], 10).float()
        return torch.cat([torch.randn(len(images), self.num_before), outputs, torch.randn(len(images), 2)], dim=1)


class TestReading:
    """What D or the encoder sees in held-out samples; InfoGAN's outputs, of which the first is the logit."""

    def test_categories_in_another_order_are_right(self, cache):
        network = Knowing(1, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
        found = read_classes(network, Codes(num_categories=10, num_continuous=2), of_digits(cache))
        assert found == {"clusters/purity": 1, "clusters/error": 0}

    def test_every_fifth_is_wrong(self, cache):
        num = len(digits(split="test").samples)
        found = read_classes(Knowing(1, list(range(10)), wrong=5), Codes(num_continuous=2), of_digits(cache))
        assert found["clusters/error"] == pytest.approx(math.ceil(num / 5) / num)
        assert found["clusters/purity"] == pytest.approx(1 - math.ceil(num / 5) / num)

    def test_fewer_categories_than_classes_have_no_error(self, cache):
        found = read_classes(Knowing(1, list(range(10))), Codes(num_categories=5), of_digits(cache))
        assert list(found) == names_read("categories", 5, 10) == ["clusters/purity"]
        assert found["clusters/purity"] < 0.7

    def test_labels_must_be_the_datas_own(self, cache):
        class Told(Knowing):
            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images)[:, :-2]

        conditioning = AuxiliaryClassifier(num_classes=10)
        assert read_classes(Told(1, list(range(10))), conditioning, of_digits(cache)) == {"classes/accuracy": 1}
        moved = Told(1, [*range(1, 10), 0])
        assert read_classes(moved, conditioning, of_digits(cache)) == {"classes/accuracy": 0}

    def test_nothing_where_nobody_tries(self, cache):
        assert read_classes(nn.Identity(), Conditioning(), of_digits(cache)) == {}
        unlabelled = Evaluator(digits()._replace(labels=None, classes=None), None, (), cache)
        assert read_classes(nn.Identity(), Codes(), unlabelled) == {}


# --------------------------------------------------------------- reference and floor


@pytest.mark.parametrize(
    ("num_samples", "num_data", "num"), [(50, 200, 50), (100, 200, 100), (150, 200, 100), (10_000, 201, 100)]
)
def test_as_many_as_half_of_the_images_are_scored(cache, num_samples, num_data, num):
    data = Data(torch.zeros(num_data, 1, 8, 8, dtype=torch.uint8), None, None)
    assert Evaluator(data, None, (), cache, num_samples=num_samples).num == num


@pytest.mark.parametrize(
    ("num_samples", "num_points", "num"), [(100, 10_000, 100), (10_000, 10_000, NUM_POINTS), (10_000, 3000, 1500)]
)
def test_2500_points_at_most_are_scored(cache, num_samples, num_points, num):
    evaluator = Evaluator(gaussian_ring(num_points=num_points), None, (), cache, num_samples=num_samples)
    assert evaluator.num == num
    assert NUM_POINTS == 2500


def test_another_number_of_samples_is_refused(cache):
    evaluator = of_points(cache)
    points = evaluator.data.samples
    for num in (0, NUM - 1, NUM + 1):
        with pytest.raises(ValueError, match=rf"{NUM} samples are scored here, got {num}"):
            evaluator.score(points[:num])


MEMORISATION = {"nearest_train_ratio", "authentic"}


def test_the_floor_is_the_score_of_the_other_half(cache):
    for evaluator in (of_digits(cache), of_digits(cache, extractor_name="random"), of_points(cache)):
        reference, others = other_half(evaluator)
        scores = evaluator.score(others)
        assert len(evaluator.floor) > 5
        for name in set(evaluator.floor) - MEMORISATION:
            assert evaluator.floor[name] == pytest.approx(scores[name], rel=1e-5, abs=1e-9), name
        assert {name: scores[name] for name in scores if name not in MEMORISATION} != {
            name: value for name, value in evaluator.score(reference).items() if name not in MEMORISATION
        }


def test_the_floor_of_labels_is_that_of_held_out_images_which_the_classifier_has_not_learned_from(cache):
    evaluator = of_digits(cache, ("labels",), conditional=True)
    held_out = digits(split="test")
    chosen = torch.randperm(355, generator=torch.Generator().manual_seed(0))[:NUM]
    unseen = evaluator.score(held_out.samples[chosen], held_out.labels[chosen])
    seen = evaluator.score(other_half(evaluator)[1], digits().labels[evaluator._chosen[1]])
    assert evaluator.floor == pytest.approx(unseen)
    assert unseen["label_accuracy"] < seen["label_accuracy"] == 1


def test_memorisation_is_of_what_was_trained_on_not_of_all_data(cache):
    training = some_of(digits(), 144)
    whole, part = (of_digits(cache, ("memorisation",), training=samples) for samples in (None, training))
    key = training.samples.flatten(1).float()
    unseen = digits().samples[torch.cdist(digits().samples.flatten(1).float(), key).min(dim=1).values > 0]
    new, *others = (images for images in unseen.split(NUM) if len(images) == NUM)
    assert whole.score(new) == {"nearest_train_ratio": 0, "authentic": 0}
    assert part.score(new)["nearest_train_ratio"] == pytest.approx(1, abs=0.15)
    authentic = [part.score(images)["authentic"] for images in (new, *others)]
    assert sum(authentic) / len(authentic) == pytest.approx(part.floor["authentic"], abs=0.1)
    copies = part.score(training.samples.repeat(3, 1, 1, 1)[:NUM])
    assert copies == {"nearest_train_ratio": pytest.approx(0, abs=1e-3), "authentic": 0}
    assert card_id(part.card) == card_id(whole.card)  # all else is comparable
    assert "training_data" in part.card
    assert "training_data" not in of_digits(cache, ("frechet",), training=training).card


def test_memorisation_of_two_domains_is_of_the_images_of_both_that_were_trained_on(cache):
    data = coupled_digits()
    pairs = of_pairs(cache, ("memorisation",))
    part = of_pairs(cache, ("memorisation",), training=some_of(data, 144))
    fakes = data.samples[:NUM]
    assert pairs.score(fakes)["authentic"] == 0
    assert part.score(fakes)["authentic"] > 0.2  # most of these pairs were not trained on
    assert part.score(some_of(data, 144).samples.repeat(3, 1, 1, 1)[:NUM])["authentic"] == 0


def test_the_floor_of_memorisation_is_that_of_held_out_images(cache):
    evaluator = of_digits(cache)
    chosen = torch.randperm(355, generator=torch.Generator().manual_seed(0))[:NUM]
    held_out = evaluator.score(digits(split="test").samples[chosen])
    assert evaluator.floor["nearest_train_ratio"] == 1
    assert held_out["nearest_train_ratio"] == pytest.approx(1)
    assert evaluator.floor["authentic"] == pytest.approx(held_out["authentic"])
    copies = evaluator.score(other_half(evaluator)[1])  # training images
    assert copies["nearest_train_ratio"] < 1e-3
    assert copies["authentic"] == 0


@pytest.mark.parametrize("name", ["cnn", "random", "none"])
def test_the_reference_scores_nearly_0(cache, name):
    evaluator = of_digits(cache, extractor_name=name)
    scores = evaluator.score(other_half(evaluator)[0])
    assert scores["sliced_wasserstein"] == 0
    if name != "none":
        # roots of rounding: sqrt(eps) of a trace of about 300
        assert scores["fd"] < 1e-5
        assert scores["feature_sliced_wasserstein"] < 1e-4
        assert scores["precision"] == scores["recall"] == scores["coverage"] == 1


def test_points_of_the_reference_score_0(cache):
    evaluator = of_points(cache)
    scores = evaluator.score(other_half(evaluator)[0])
    assert scores["sliced_wasserstein"] == 0
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1
    assert scores["modes_covered"] == 8


def test_pixels_without_an_extractor_are_compared_in_the_same_units(cache):
    evaluator = of_digits(cache, extractor_name="none")
    scores = evaluator.score(other_half(evaluator)[0])
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1
    largest = 2 * 64**0.5  # the diagonal of [-1, 1]^64
    assert evaluator.floor["diversity"] < largest


def test_the_seed_chooses_the_reference(cache):
    one, other = (of_points(cache, ("sliced_wasserstein",), seed=seed) for seed in (0, 1))
    assert one.floor != other.floor
    reference, _ = other_half(one)
    assert one.score(reference)["sliced_wasserstein"] == 0
    assert other.score(reference)["sliced_wasserstein"] > 0


def test_the_frechet_distance_by_numpy(cache):
    """|m - m'|^2 + Tr(S + S' - 2 (S S')^1/2), the last trace from the eigenvalues of the product."""
    evaluator = of_digits(cache, ("frechet",))
    assert evaluator.extractor is not None
    reference, others = other_half(evaluator)
    fakes = noisy(others, 32)
    network = evaluator.extractor.network.eval()
    with torch.no_grad():
        real, fake = (network(images)[0].double().numpy() for images in (reference, fakes))
    one, other = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    values = np.linalg.eigvals(one @ other).real.clip(min=0)
    distance = np.square(real.mean(axis=0) - fake.mean(axis=0)).sum()
    distance += np.trace(one) + np.trace(other) - 2 * np.sqrt(values).sum()
    assert evaluator.score(fakes)["fd"] == pytest.approx(distance, rel=1e-4)


def test_more_noise_is_worse(cache):
    evaluator = of_digits(cache, ("frechet", "kernel", "manifold", "sliced_wasserstein"), num_samples=700)
    _, others = other_half(evaluator)
    scores = [evaluator.score(noisy(others, level)) for level in (0, 16, 32, 64, 128)]
    for name in ("fd", "kd", "coverage", "sliced_wasserstein"):
        values = [score[name] for score in scores]
        assert all(better(name, one, other) for one, other in pairwise(values)), (name, values)


def test_fewer_classes_are_worse(cache):
    evaluator = of_digits(cache, num_samples=200)
    data = evaluator.data
    assert data.labels is not None
    scores = [evaluator.score(data.samples[data.labels < num_classes][:200]) for num_classes in (10, 7, 4)]
    for name in ("fd", "kd", "recall", "coverage", "class_score", "mode_kl", "modes_with_5"):
        full, seven, four = (score[name] for score in scores)
        assert better(name, full, seven), name
        assert better(name, seven, four), name


def test_modes_of_points(cache):
    """A perfect sampler of 2,500 points: 98.89 % within 3 standard deviations, of equal shares of 8 modes."""
    evaluator = of_points(cache, num_samples=10_000)
    assert evaluator.num == 2500
    scores = evaluator.score(gaussian_ring(num_points=2500, seed=9).samples)
    share = 1 - math.exp(-4.5)
    assert scores["modes_covered"] == 8
    assert abs(scores["high_quality"] - share) < 4 * (share * (1 - share) / 2500) ** 0.5
    assert 0 <= scores["mode_kl"] < 30 / (2 * 2500)  # 2 N KL is about chi2 with 7 degrees; above 30 once in 10,000

    two = gaussian_ring(num_points=20_000, seed=9)
    assert two.labels is not None
    scores = evaluator.score(two.samples[two.labels < 2][:2500])
    assert scores["modes_covered"] == 2
    assert scores["mode_kl"] == pytest.approx(math.log(4), abs=0.01)


# -------------------------------------------------------------------------- card


def test_the_card_says_what_was_compared(cache):
    evaluator = of_digits(cache)
    assert evaluator.extractor is not None
    card = evaluator.card
    assert (card["num_fake"], card["num_real"], card["split"], card["quantised"]) == (NUM, NUM, "train", "uint8")
    assert card["metrics"] == [metric for metric in ALL if metric not in OF_LABELS]
    assert card["extractor_hash"] == evaluator.extractor.hash
    assert card["extractor_name"] == "cnn"
    assert card["held_out"] == 355
    points = of_points(cache).card
    assert points["quantised"] == "none (points)"
    assert "extractor_name" not in points


def test_the_name_of_a_card_ignores_what_was_scored(cache):
    card = of_digits(cache).card
    name = card_id(card)
    assert len(name) == 8
    scored = {"weights": "ema", "noise_seed": 3, "images_seen": 1000, "scored": "images/", "metrics": ["frechet"]}
    scored["training_data"] = "0123456789ab"
    assert set(scored) == set(WHAT_WAS_SCORED)
    assert card_id({**card, **scored}) == card_id({**card, **scored, "weights": "raw", "noise_seed": 4}) == name
    assert card_id(dict(reversed(card.items()))) == name
    assert card_id(json.loads(json.dumps(card))) == name  # as scores are kept in files


def test_the_name_of_a_card_changes_with_everything_else(cache):
    card = of_digits(cache).card
    del card["metrics"]
    names = {card_id(card), card_id({**card, "new": None})}
    for key in card:
        names |= {card_id({**card, key: "other"}), card_id({k: v for k, v in card.items() if k != key})}
    assert len(names) == 2 + 2 * len(card)


def test_the_name_changes_with_the_settings(cache):
    few: tuple[Metric, ...] = ("sliced_wasserstein",)
    data = digits()
    evaluators = [
        of_digits(cache, few, extractor_name="none"),
        of_digits(cache, few, extractor_name="none", num_samples=NUM - 1),
        of_digits(cache, few, extractor_name="none", seed=1),
        of_digits(cache, few, extractor_name="none", split="all"),
        of_digits(cache, few, extractor_name="random"),
        of_digits(cache, few, extractor_name="random", seed=1),
        Evaluator(data, data, few, cache, num_samples=NUM, extractor_name="none", split="train"),
        Evaluator(data._replace(samples=255 - data.samples), None, few, cache, num_samples=NUM, split="train"),
    ]
    names = [card_id(evaluator.card) for evaluator in evaluators]
    assert len(set(names)) == len(names)
    assert card_id(of_digits(cache, few, extractor_name="none").card) == names[0]


def test_a_figure_and_its_card_are_the_same_beside_other_metrics(cache):
    few: tuple[Metric, ...] = ("sliced_wasserstein", "frechet")
    one, other = of_digits(cache, few), of_digits(cache)
    fake = digits().samples[:NUM]
    alone, among = one.score(fake), other.score(fake)

    assert card_id(one.card) == card_id(other.card)
    assert len(alone) < len(among)
    assert all(among[name] == value for name, value in alone.items())


# ------------------------------------------------------------------------- cache


@pytest.fixture
def num_images(monkeypatch) -> list[int]:
    """How many images the extractor was called with, call by call."""
    calls: list[int] = []
    original = Extractor.__call__

    def counted(self: Extractor, images: Tensor, batch_size: int = 256):
        calls.append(len(images))
        return original(self, images, batch_size)

    monkeypatch.setattr(Extractor, "__call__", counted)
    return calls


def references(cache: Cache) -> set[str]:
    return {path.name for path in cache.folder.glob("reference-*.pt")}


def test_the_reference_is_measured_once(cache, tmp_path, num_images):
    of_digits(cache).prepare()
    fresh = Cache(tmp_path)
    for path in cache.folder.glob("extractor-*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())

    num_images.clear()
    first = of_digits(fresh)
    first.prepare()
    assert sorted(num_images) == sorted([NUM, NUM, NUM, 1442])  # reference, floor, held out; train

    num_images.clear()
    second = of_digits(fresh)
    second.prepare()
    assert num_images == []
    assert second.floor == first.floor
    assert second.card == first.card
    fakes = noisy(other_half(first)[1], 20)
    scores = second.score(fakes)
    assert num_images == [NUM]
    assert scores == first.score(fakes)


def test_references_of_other_settings_are_others(tmp_path):
    cache = Cache(tmp_path)
    few: tuple[Metric, ...] = ("sliced_wasserstein",)
    data = digits()
    settings: list[Evaluator] = [
        of_digits(cache, few, extractor_name="none"),
        of_digits(cache, few, extractor_name="none", num_samples=NUM - 1),
        of_digits(cache, few, extractor_name="none", seed=1),
        of_digits(cache, ("sliced_wasserstein", "diversity"), extractor_name="none"),
        of_digits(cache, few, extractor_name="random"),
        Evaluator(data, None, few, cache, num_samples=NUM, extractor_name="none"),
        Evaluator(data, digits(split="all"), few, cache, num_samples=NUM, extractor_name="none"),
        Evaluator(data._replace(samples=255 - data.samples), None, few, cache, NUM, "none"),
        Evaluator(data._replace(samples=data.samples.flip(0)), None, few, cache, NUM, "none"),
    ]
    for number, evaluator in enumerate(settings, 1):
        evaluator.prepare()
        assert len(references(cache)) == number
    for evaluator in settings:
        of_same = Evaluator(**{**vars_of(evaluator), "split": "another name"})
        of_same.prepare()
        assert of_same.floor == evaluator.floor
    assert len(references(cache)) == len(settings)


def vars_of(evaluator: Evaluator) -> dict[str, Any]:
    return {name: getattr(evaluator, name) for name in Evaluator.__dataclass_fields__}


@pytest.mark.parametrize("name", ["cnn", "random", "none"])
def test_samples_whose_key_is_known_are_not_read_for_it(cache, monkeypatch, name: ExtractorName):
    """What was measured without a known key serves with one, and the figures have the same card."""
    expected = of_digits(cache, extractor_name=name)
    card, floor = expected.card, expected.floor
    train, test = (data._replace(samples_key=content_key(data.samples)) for data in (digits(), digits(split="test")))
    evaluator = Evaluator(train, test, ALL, cache, num_samples=NUM, extractor_name=name, split="train")
    num_references = len(references(cache))

    def key_of_few(*parts: Any) -> str:
        assert not any(isinstance(part, Tensor) and part.ndim == 4 for part in parts)
        return content_key(*parts)

    monkeypatch.setattr(gan_lab.evaluation, "content_key", key_of_few)
    assert evaluator.card == card
    assert evaluator.floor == floor
    assert len(references(cache)) == num_references


def test_changed_code_of_metrics_measures_again(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    of_points(cache).prepare()
    monkeypatch.setattr(gan_lab.evaluation, "_code_of_metrics", lambda: "changed")
    of_points(cache).prepare()
    assert len(references(cache)) == 2


# ---------------------------------------------------------------- which extractor


def trained_instead(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Replaces training by a stub; the list gets the numbers of training and of held-out images."""
    calls: list[tuple[int, int]] = []

    def train(images: Tensor, labels: Tensor, num_classes: int, held_out: tuple[Tensor, Tensor], **_: Any) -> Extractor:
        assert len(images) == len(labels)
        assert len(held_out[0]) == len(held_out[1])
        calls.append((len(images), len(held_out[0])))
        return Extractor("cnn", Stub(), {"input": [1, 8, 8]})

    monkeypatch.setattr(gan_lab.evaluation, "train_classifier", train)
    return calls


def test_auto_is_a_classifier_for_labelled_images(tmp_path, monkeypatch):
    calls = trained_instead(monkeypatch)
    data, held_out = digits(), digits(split="test")
    extractor = Evaluator(data, held_out, (), Cache(tmp_path / "1")).extractor
    assert extractor is not None
    assert extractor.name == "cnn"
    assert calls == [(1442, 355)]


@pytest.mark.parametrize("unlabelled", [False, True])
def test_without_labelled_held_out_images_a_tenth_is_set_apart(tmp_path, monkeypatch, unlabelled):
    calls = trained_instead(monkeypatch)
    held_out = digits(split="test")._replace(labels=None, classes=None) if unlabelled else None
    _ = Evaluator(digits(), held_out, (), Cache(tmp_path)).extractor
    assert calls == [(1442 - 144, 144)]


def test_images_are_set_apart_without_copying_the_others(tmp_path, monkeypatch):
    """The set may be larger than memory."""
    data = digits()
    order = torch.randperm(1442, generator=torch.Generator().manual_seed(0))

    def train(images: Any, labels: Tensor, num_classes: int, held_out: tuple[Any, Tensor], **_: Any) -> Extractor:
        for part, of_part, chosen in ((*held_out, order[:144]), (images, labels, order[144:])):
            assert isinstance(part, Rows)
            assert part.samples is data.samples
            assert torch.equal(part[: len(part)], data.samples[chosen])
            assert data.labels is not None
            assert torch.equal(of_part, data.labels[chosen])
        return Extractor("cnn", Stub(), {"input": [1, 8, 8]})

    monkeypatch.setattr(gan_lab.evaluation, "train_classifier", train)
    assert Evaluator(data, None, (), Cache(tmp_path)).extractor is not None


@pytest.mark.parametrize("others_first", [False, True])
def test_the_extractor_does_not_depend_on_who_came_first(tmp_path, monkeypatch, others_first):
    calls = trained_instead(monkeypatch)
    cache = Cache(tmp_path)
    for held_out in (digits(split="test"), None)[:: -1 if others_first else 1]:
        _ = Evaluator(digits(), held_out, (), cache).extractor
    assert sorted(calls) == [(1298, 144), (1442, 355)]


def test_auto_is_random_for_images_without_labels(cache):
    data = digits()._replace(labels=None, classes=None)
    evaluator = Evaluator(data, None, ALL, cache, num_samples=NUM)
    assert evaluator.extractor is not None
    assert evaluator.extractor.name == "random"
    scores = evaluator.score(other_half(evaluator)[1])
    assert {"fd", "kd", "precision", "authentic"} <= set(scores)
    assert not {"class_score", "modes_covered", "nearest_train_ratio"} & set(scores)
    assert "authentic" not in evaluator.floor


FEW = {
    "no labels": lambda data: data._replace(labels=None, classes=None),
    "one class": lambda data: data._replace(labels=torch.zeros_like(data.labels), classes=("all",)),
    "too few in a class": lambda data: data._replace(samples=data.samples[:199], labels=data.labels[:199]),
}


@pytest.mark.parametrize("name", FEW)
def test_a_classifier_is_refused_without_enough_labels(tmp_path, name):
    data = FEW[name](digits())
    with pytest.raises(ConfigError, match=r"evaluation\.extractor=random"):
        _ = Evaluator(data, None, (), Cache(tmp_path), extractor_name="cnn").extractor
    extractor = Evaluator(data, None, (), Cache(tmp_path)).extractor
    assert extractor is not None
    assert extractor.name == "random"


def test_200_digits_are_enough(tmp_path, monkeypatch):
    calls = trained_instead(monkeypatch)
    data = digits()
    assert data.labels is not None
    few = data._replace(samples=data.samples[:200], labels=data.labels[:200])
    _ = Evaluator(few, None, (), Cache(tmp_path), extractor_name="cnn").extractor
    assert calls == [(180, 20)]


@pytest.mark.parametrize("name", ["cnn", "random"])
def test_an_extractor_from_the_cache_is_the_one_that_was_made(cache, tmp_path, name):
    metrics: tuple[Metric, ...] = ("frechet",)
    data = digits()
    assert data.labels is not None
    few = data._replace(samples=data.samples[:250], labels=data.labels[:250])
    made, read = (
        Evaluator(few, None, metrics, Cache(tmp_path), num_samples=100, extractor_name=name) for _ in range(2)
    )
    fakes = noisy(few.samples[:100], 20)
    assert made.score(fakes) == read.score(fakes)
    assert made.extractor is not None
    assert read.extractor is not None
    assert read.extractor is not made.extractor
    assert read.extractor.hash == made.extractor.hash
    assert read.card == made.card
    assert not any(parameter.requires_grad for parameter in read.extractor.network.parameters())


@pytest.mark.parametrize("name", ["cnn", "random"])
def test_making_an_extractor_leaves_torchs_generator_as_it_was(tmp_path, name):
    assert_leaves_the_generator(digits(), name, Cache(tmp_path))


@pytest.mark.parametrize("name", ["cnn", "random"])
def test_reading_an_extractor_leaves_torchs_generator_as_it_was(tmp_path, name):
    assert_leaves_the_generator(digits(), name, Cache(tmp_path))
    assert_leaves_the_generator(digits(), name, Cache(tmp_path))


def assert_leaves_the_generator(data: Data, name: ExtractorName, cache: Cache) -> None:
    assert data.labels is not None
    few = data._replace(samples=data.samples[:250], labels=data.labels[:250])
    evaluator = Evaluator(few, None, ("frechet", "kernel", "class_score"), cache, 100, name)
    before = torch.get_rng_state()
    evaluator.score(few.samples[:100])
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------- stacked digits


class TestStacked:
    """2,000 of 4,000 stacks of three digits, which are 1,000 modes, against the other 2,000."""

    def test_one_classifier_of_the_parts_judges_each_channel(self, stacked):
        assert stacked.num == 2000
        assert isinstance(stacked.extractor.network, Channelwise)
        assert stacked.extractor.facts["extractor"].endswith("on each channel")
        assert stacked.extractor.facts["input"] == [1, 8, 8]
        found = stacked.extractor(stacked.data.samples[:10])
        assert found.vectors.shape == (10, 3 * 64)
        assert found.probabilities.shape == (10, 3, 10)

    def test_classes_agree_with_labels(self, stacked):
        """The classifier saw nine tenths of the digits, and names the others right at 95 %: 99.5 % of all."""
        classes, _ = predicted_classes(stacked.extractor(stacked.data.samples).probabilities)
        for place in (100, 10, 1):
            right = (classes // place % 10 == stacked.data.labels // place % 10).double().mean()
            assert right >= 0.99
        assert (classes == stacked.data.labels).double().mean() >= 0.97

    def test_real_stacks_cover_as_many_modes_as_their_number_can(self, stacked):
        """2,000 independent draws of 1,000 modes are Poisson counts c of mean 2, given their sum.

        So modes_covered is the sum of [c > 0], modes_with_5 of [c >= 5] and mode_kl the mean of (c / 2) ln (c / 2),
        whose variance is what c, whose sum is known, does not explain. The digits are a little uneven, 174 to 183 of
        each, and of 100 stacks the classifier gets 3 wrong: both move the expectations by less than the bound.
        """
        counts = np.arange(40)
        chances = poisson.pmf(counts, 2)
        rate = counts / 2
        functions = {
            "modes_covered": 1000.0 * (counts > 0),
            "modes_with_5": 1000.0 * (counts >= 5),
            "mode_kl": np.where(counts > 0, rate * np.log(np.maximum(rate, 0.5)), 0),
        }
        fresh = stacked_digits(num_samples=2000, seed=5).samples
        for name, values in functions.items():
            mean = chances @ values
            covariance = chances @ ((values - mean) * (counts - 2))
            std = math.sqrt((chances @ (values - mean) ** 2 - covariance**2 / 2) / 1000)
            for found in (stacked.floor[name], stacked.score(fresh)[name]):
                assert abs(found - mean) < 5 * std, name
        assert 800 < stacked.floor["modes_covered"] <= 1000

    def test_a_collapse_is_seen(self, stacked):
        data = stacked_digits(num_samples=8000, seed=6)
        few = data.samples[(data.labels // 100 < 5)][:2000]  # five of ten first digits
        scores = stacked.score(few)
        # 500 modes have 4 each on average: all but exp(-4) of them appear; some 1 % of first digits are misjudged
        assert abs(scores["modes_covered"] - 500 * (1 - math.exp(-4))) < 30
        assert scores["mode_kl"] > stacked.floor["mode_kl"] + 0.3  # ln 2, less what 4 draws a mode are more even than 2
        one = stacked.score(data.samples[:1].repeat(2000, 1, 1, 1))
        assert one["modes_covered"] == one["modes_with_5"] == 1
        assert one["mode_kl"] == pytest.approx(math.log(1000))


# ----------------------------------------------------------------------- pairs of two domains


def test_every_metric_of_pairs_is_that_of_the_worse_domain(cache):
    pairs, single = of_pairs(cache, ALL), of_digits(cache, ALL)
    images, _ = other_half(single)
    first, second = noisy(images, 20), noisy(images, 80)
    one, other = single.score(first), single.score(second)
    worse = {
        name: min(one[name], other[name]) if name in LARGER_IS_BETTER else max(one[name], other[name]) for name in one
    }
    assert worse["fd"] == other["fd"] > one["fd"]
    for pair in (torch.cat([first, 255 - second], dim=1), torch.cat([second, 255 - first], dim=1)):
        found = pairs.score(pair)
        assert found.pop("pair_agreement") <= 1.0
        assert found == pytest.approx(worse)
    assert pairs.floor == single.floor | {"pair_agreement": 1.0}


def test_the_card_of_pairs_says_how_they_are_scored(cache):
    """Without an extractor nothing else would tell their figures from those of whole samples."""
    pairs = of_pairs(cache, ("diversity",), extractor_name="none")
    whole = Evaluator(pairs.data, pairs.held_out, ("diversity",), cache, num_samples=NUM, extractor_name="none")
    assert card_id(pairs.card) != card_id(whole.card)
    assert "pair_agreement" not in pairs.floor


def test_a_collapse_of_one_domain_shows(cache):
    pairs = of_pairs(cache, ("modes", "manifold", "diversity"))
    images, _ = other_half(of_digits(cache))
    found = pairs.score(torch.cat([images, 255 - images[:1].expand_as(images)], dim=1))
    assert found["modes_covered"] == 1
    assert found["diversity"] == pytest.approx(0.0, abs=1e-6)
    assert found["recall"] < 0.01


def test_pairs_agree_as_often_as_they_show_one_class(cache):
    pairs = of_pairs(cache, ("frechet",))
    base = digits()
    assert base.labels is not None
    chosen = torch.arange(pairs.num)
    images, labels = base.samples[chosen], base.labels[chosen]
    assert pairs.score(torch.cat([images, 255 - images], dim=1))["pair_agreement"] == 1.0

    shift = torch.randperm(pairs.num, generator=torch.Generator().manual_seed(2))
    mixed = torch.cat([images, 255 - images[shift]], dim=1)
    expected = (labels == labels[shift]).double().mean().item()
    assert pairs.score(mixed)["pair_agreement"] == pytest.approx(expected, abs=0.02)  # the classifier errs
    # Unequal classes, and not swapped domains, are what counts.
    swapped = torch.cat([images[shift], 255 - images], dim=1)
    assert pairs.score(swapped)["pair_agreement"] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("metric", "expected"), [("fd", 2.0), ("recall", 1.0)])
def test_the_worse_of_two_values(metric, expected):
    assert worse(metric, 1.0, 2.0) == worse(metric, 2.0, 1.0) == expected
    assert math.isnan(worse(metric, math.nan, 1.0))
    assert math.isnan(worse(metric, 1.0, math.nan))
