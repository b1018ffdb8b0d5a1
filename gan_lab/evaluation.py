"""How good samples are: every metric against one reference, with its floor and a card that says what was done.

Equal numbers of fakes and reals everywhere, because the number of samples moves these metrics more than the method
does: the reference is one random half of the data (at most `num_samples` of it); the floor is the score of as many
samples of the other half, what a perfect generator would get.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gan_lab.data import Data, as_training_input
from gan_lab.data.coupled import domains
from gan_lab.errors import ConfigError
from gan_lab.features import NUM_HASH_DIGITS, Extractor, Features, Rows
from gan_lab.features.cache import Cache, code_key, content_key
from gan_lab.features.classifier import Classifier, classification_accuracy, train_classifier
from gan_lab.features.inception import inception
from gan_lab.features.random_conv import RandomConv, random_conv
from gan_lab.metrics.diversity import pairwise_diversity
from gan_lab.metrics.frechet import frechet_distance, moments
from gan_lab.metrics.inception import inception_score
from gan_lab.metrics.kernel import kernel_distance
from gan_lab.metrics.labels import label_accuracy, per_class_frechet
from gan_lab.metrics.manifold import manifold_metrics, neighbour_distances
from gan_lab.metrics.memorisation import memorisation
from gan_lab.metrics.modes import class_coverage, mode_coverage
from gan_lab.metrics.sliced import sliced_wasserstein

log = logging.getLogger(__name__)

Metric = Literal[
    "frechet", "kernel", "manifold", "sliced_wasserstein", "feature_sliced_wasserstein", "class_score", "modes",
    "memorisation", "diversity", "labels", "class_frechet", "classification",
]  # fmt: skip
ExtractorName = Literal["auto", "cnn", "random", "inception", "none"]

LARGER_IS_BETTER = frozenset(
    {
        *("precision", "recall", "density", "coverage", "class_score", "inception_score", "modes_covered"),
        *("modes_with_5", "high_quality", "diversity", "nearest_train_ratio", "authentic"),
        *("label_accuracy", "classification_accuracy", "classes/accuracy", "clusters/purity", "pair_agreement"),
        "images_per_second",
    }
)
"""Of every other metric, less is better."""

LABEL_METRICS = frozenset({"labels", "class_frechet", "classification"})
"""Metrics of fakes that were asked for by label."""

Layout = Literal["single", "stacked", "coupled"]
"""What a sample of the data is: an image (or a point), gray ones on its channels, or those of two domains."""

WHAT_WAS_SCORED = ("weights", "noise_seed", "images_seen", "scored", "metrics")
"""What is on a card, but no part of how each figure was measured."""

NUM_POINTS = 2500
"""Points that the 2-D protocol scores (Srivastava et al. 2017; Lin et al. 2018)."""

MOST_IN_MANIFOLD = 10_000
"""Samples a side for precision, recall, density and coverage, whose cost grows with the square."""

FEWEST_IN_A_CLASS = 20
"""A classifier is trained only where each class has so many images on average."""


def metric_names(
    metrics: Sequence[Metric],
    *,
    images: bool,
    extractor: ExtractorName = "auto",
    conditional: bool = False,
    layout: Layout = "single",
) -> list[str]:
    """The names under which metrics are written; those that need the data's labels, or held-out data, as if there were
    some. conditional: the fakes have labels too. layout: of the data's samples, which have classes where coupled."""
    published = extractor == "inception"
    knows_classes = extractor in ("auto", "cnn")
    judges_labels = conditional and knows_classes and layout == "single"
    with_features = {
        "frechet": ["fid" if published else "fd"],
        "kernel": ["kid" if published else "kd"],
        "feature_sliced_wasserstein": ["feature_sliced_wasserstein"],
        "class_score": ["inception_score" if published else "class_score"],
        "memorisation": ["nearest_train_ratio", "authentic"],
        "class_frechet": ["class_fd"] if conditional else [],
        "labels": ["label_accuracy"] if judges_labels else [],
        "classification": ["classification_accuracy"] if judges_labels else [],
    }
    names = {
        "manifold": ["precision", "recall", "density", "coverage"],
        "sliced_wasserstein": ["sliced_wasserstein"],
        "modes": [
            "modes_covered",
            *(["modes_with_5", "mode_kl", "high_quality"] if images else ["high_quality", "mode_kl", "mixture_kl"]),
        ],
        "diversity": ["diversity"],
        **(with_features if images and extractor != "none" else {}),
    }
    if images and not knows_classes:
        del names["modes"]
    if extractor == "random":
        names.pop("class_score", None)
    written = [name for metric in metrics for name in names.get(metric, ())]
    return [*written, "pair_agreement"] if layout == "coupled" and knows_classes else written


class Channelwise(nn.Module):
    """uint8 images (N, C, H, W) -> (vectors (N, C * D), logits (N, C, K)): one gray network on each channel."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        vectors, logits = self.network(images.flatten(0, 1).unsqueeze(1))
        shape = images.shape[:2]
        return vectors.unflatten(0, shape).flatten(1), None if logits is None else logits.unflatten(0, shape)


def predicted_classes(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Classes (N,) and how sure they are (N,), of probabilities (N, K), or (N, C, K) for C channels judged apart.

    With channels, the class is the number whose digits to base K are the channels' classes, and the channel that is
    least sure counts.
    """
    if probabilities.ndim == 2:
        probabilities = probabilities.unsqueeze(1)
    sureness, digits = probabilities.max(dim=2)
    num_channels, num_classes = probabilities.shape[1:]
    places = num_classes ** torch.arange(num_channels - 1, -1, -1)
    return (digits * places).sum(dim=1), sureness.amin(dim=1)


def samples_key(data: Data) -> str:
    """The `content_key` of the samples, which are read only where it is not known already."""
    return content_key(data.samples) if data.samples_key is None else data.samples_key


def make_extractor(
    name: ExtractorName,
    data: Data,
    held_out: Data | None,
    cache: Cache,
    *,
    seed: int,
    inception_weights: str | None,
    device: torch.device | str,
) -> Extractor | None:
    """The extractor for a data set; None for points and for `none`. auto: cnn where there are labels, else random."""
    if data.samples.ndim == 2 or name == "none":
        return None
    if name == "inception":
        return inception(weights=inception_weights)
    if data.parts is not None:
        part = make_extractor(name, data.parts, None, cache, seed=seed, inception_weights=None, device=device)
        assert part is not None
        facts = {**part.facts, "extractor": f"{part.facts['extractor']}, on each channel"}
        return Extractor(part.name, Channelwise(part.network), facts)
    num_classes = len(data.classes or ())
    labelled = data.labels is not None and num_classes > 1 and len(data.samples) >= FEWEST_IN_A_CLASS * num_classes
    if name == "cnn" and not labelled:
        raise ConfigError(
            f"evaluation.extractor=cnn: a classifier needs labels, at least two classes and {FEWEST_IN_A_CLASS} images "
            "in each; use evaluation.extractor=random"
        )
    if not labelled or name == "random":
        key = content_key(code_key(), samples_key(data), seed)
        return _kept(cache, "random", key, RandomConv, lambda: random_conv(data.samples, seed=seed))
    assert data.labels is not None
    images: Tensor | Rows = data.samples
    labels = data.labels
    test: tuple[Tensor | Rows, Tensor]
    if held_out is None or held_out.labels is None:  # a tenth is set apart, for the accuracy
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        aside, rest = order[: len(order) // 10], order[len(order) // 10 :]
        test = (Rows(data.samples, aside), labels[aside])
        images, labels = Rows(data.samples, rest), labels[rest]
        tested_on = None
    else:
        test = (held_out.samples, held_out.labels)
        tested_on = samples_key(held_out)

    def make() -> Extractor:
        log.info(f"training the feature extractor on {len(images):,} labelled images, once for this data set ...")
        return train_classifier(images, labels, num_classes, test, seed=seed, device=device)

    key = content_key(code_key(), samples_key(data), labels, tested_on, test[1], num_classes, seed)
    return _kept(cache, "cnn", key, lambda channels, side: Classifier(channels, side, num_classes), make)


def _kept(
    cache: Cache, name: str, key: str, network_of: Callable[[int, int], nn.Module], make: Callable[[], Extractor]
) -> Extractor:
    """An extractor from the cache, made by `make` if it is not there; the network is built by (channels, side)."""
    made: list[Extractor] = []

    def content() -> dict[str, Any]:
        extractor = make()
        made.append(extractor)
        weights = {key: value.cpu() for key, value in extractor.network.state_dict().items()}
        return {"weights": weights, "facts": dict(extractor.facts), "shape": extractor.facts["input"][:2]}

    kept = cache.get(f"extractor-{name}", key, content)
    if made:
        return made[0]
    with torch.random.fork_rng(devices=[]):  # first values are drawn, which the file then replaces
        network = network_of(*kept["shape"]).requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # as it was made
    network.load_state_dict(kept["weights"])
    return Extractor(name, network, kept["facts"])


@dataclass
class Evaluator:
    """Scores samples against a data set.

    data: the reference. held_out: images that training never saw, for memorisation and the classifier's accuracy.
    split: the name of the reference's split, for the card. num_samples: at most so many fakes and reals a side.
    seed: of the reference's choice, the extractor and the metrics' own draws; it is not the run's, so that all runs on
    a data set share one reference. conditional: samples come with the labels that they were asked for.
    """

    data: Data
    held_out: Data | None
    metrics: tuple[Metric, ...]
    cache: Cache
    num_samples: int = 10_000
    extractor_name: ExtractorName = "auto"
    inception_weights: str | None = None
    split: str | None = None
    seed: int = 0
    device: torch.device | str = "cpu"
    conditional: bool = False

    def __post_init__(self) -> None:
        if not self.conditional:
            self.metrics = tuple(metric for metric in self.metrics if metric not in LABEL_METRICS)

    @property
    def num(self) -> int:
        """Fakes, and reals, of one score."""
        return min(self.num_samples, len(self.data.samples) // 2, *([NUM_POINTS] if self.is_points else []))

    @property
    def is_points(self) -> bool:
        return self.data.samples.ndim == 2

    @cached_property
    def extractor(self) -> Extractor | None:
        extractor = make_extractor(
            self.extractor_name,
            self.data,
            self.held_out,
            self.cache,
            seed=self.seed,
            inception_weights=self.inception_weights,
            device=self.device,
        )
        if extractor is not None:
            extractor.network.to(self.device)
        return extractor

    @cached_property
    def _halves(self) -> tuple[Tensor, Tensor]:
        """The reference samples, and as many others."""
        first, second = self._chosen
        return self.data.samples[first], self.data.samples[second]

    @cached_property
    def _chosen(self) -> tuple[Tensor, Tensor]:
        """The indices of both."""
        order = torch.randperm(len(self.data.samples), generator=torch.Generator().manual_seed(self.seed))
        return order[: self.num], order[self.num : 2 * self.num]

    @cached_property
    def _real(self) -> dict[str, Any]:
        """What is known of the reference before any fake is there: features, radii, and the floor of each metric."""
        hashes = [self.extractor.hash if self.extractor is not None else None, _code_of_metrics()]
        held_out = None if self.held_out is None else samples_key(self.held_out)
        labels = self.data.labels if set(self.metrics) & LABEL_METRICS else None
        key = content_key(*hashes, samples_key(self.data), labels, held_out, self.num, self.seed, *self.metrics)
        return self.cache.get("reference", key, self._measure_reference)

    def _measure_reference(self) -> dict[str, Any]:
        reference, others = self._halves
        real: dict[str, Any] = {}
        if self.extractor is not None:
            features = self.extractor(reference)
            real["vectors"], real["probabilities"] = features
        if "manifold" in self.metrics:
            vectors = self._vectors(reference, real)[:MOST_IN_MANIFOLD]
            real["radii_3"], real["radii_5"] = neighbour_distances(vectors, 3), neighbour_distances(vectors, 5)
        if "memorisation" in self.metrics and self.extractor is not None:
            real["train"] = self.extractor(self.data.samples).vectors
            if self.held_out is not None:
                order = torch.randperm(len(self.held_out.samples), generator=torch.Generator().manual_seed(self.seed))
                real["held_out"] = self.extractor(self.held_out.samples[order[: self.num]]).vectors
        others_labels = None if self.data.labels is None else self.data.labels[self._chosen[1]]
        real["floor"] = self._score(others, others_labels, real, floor=True)
        if "label_accuracy" in real["floor"] and self.held_out is not None and self.held_out.labels is not None:
            # The classifier has learned from the others: what it does on those that it has not seen is what counts.
            assert self.extractor is not None
            probabilities = self.extractor(self.held_out.samples[: self.num]).probabilities
            assert probabilities is not None
            real["floor"]["label_accuracy"] = label_accuracy(probabilities, self.held_out.labels[: self.num])
        return real

    def _vectors(self, samples: Tensor, features: Mapping[str, Any]) -> Tensor:
        return features["vectors"] if "vectors" in features else as_training_input(samples).flatten(1)

    def prepare(self) -> None:
        """Does what is done once for a data set: trains the extractor, measures the reference."""
        _ = self._real

    @property
    def floor(self) -> dict[str, float]:
        """The score of as many other real samples: what a perfect generator gets. Memorisation: held-out images."""
        return self._real["floor"]

    @cached_property
    def card(self) -> dict[str, Any]:
        """Everything that a reader must know to compare the figures with others; equal cards, comparable figures."""
        card: dict[str, Any] = {
            "metrics": list(self.metrics),
            "num_fake": self.num,
            "num_real": self.num,
            "data": samples_key(self.data)[:NUM_HASH_DIGITS],
            "split": self.split,
            "seed": self.seed,
            "quantised": "none (points)" if self.is_points else "uint8",
        }
        if self.held_out is not None:
            card["held_out_data"] = samples_key(self.held_out)[:NUM_HASH_DIGITS]
        if self.extractor is not None:
            card |= {"extractor_name": self.extractor.name, "extractor_hash": self.extractor.hash}
            card |= self.extractor.facts
        return card

    def score(self, fake: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """The metrics of `num` fakes: uint8 images (N, C, H, W), or points (N, 2); labels: what they were asked for."""
        if len(fake) != self.num:
            raise ValueError(f"{self.num} samples are scored here, got {len(fake)}")
        return self._score(fake, labels, self._real)

    def _score(
        self, fake: Tensor, labels: Tensor | None, real: Mapping[str, Any], floor: bool = False
    ) -> dict[str, float]:
        reference, _ = self._halves
        features = Features(as_training_input(fake).flatten(1), None)
        if self.extractor is not None:
            features = self.extractor(fake)
        vectors, probabilities = features
        real_vectors = self._vectors(reference, real)
        published = self.extractor is not None and self.extractor.published
        found: dict[str, float] = {}
        for metric in self.metrics:
            if metric == "frechet" and self.extractor is not None:
                found["fid" if published else "fd"] = frechet_distance(moments(real_vectors), moments(vectors))
            elif metric == "kernel" and self.extractor is not None:
                found["kid" if published else "kd"] = kernel_distance(real_vectors, vectors, seed=self.seed)
            elif metric == "manifold":
                radii = {"real_radii_3": real["radii_3"], "real_radii_5": real["radii_5"]}
                few = slice(MOST_IN_MANIFOLD)
                found |= manifold_metrics(real_vectors[few], vectors[few], **radii)
            elif metric == "sliced_wasserstein":
                found[metric] = sliced_wasserstein(
                    as_training_input(reference), as_training_input(fake), seed=self.seed
                )
            elif metric == "feature_sliced_wasserstein" and self.extractor is not None:
                found[metric] = sliced_wasserstein(real_vectors, vectors, seed=self.seed)
            elif metric == "class_score" and probabilities is not None:
                channels = probabilities.unsqueeze(1) if probabilities.ndim == 2 else probabilities
                values = [inception_score(channel, seed=self.seed)[0] for channel in channels.unbind(1)]
                found["inception_score" if published else metric] = sum(values) / len(values)
            elif metric == "modes" and self.data.modes is not None:
                assert self.data.mode_std is not None
                found |= mode_coverage(fake, self.data.modes, self.data.mode_std)
            elif metric == "modes" and probabilities is not None and not published:
                classes, sureness = predicted_classes(probabilities)
                num_modes = probabilities.shape[-1] ** (1 if probabilities.ndim == 2 else probabilities.shape[1])
                found |= class_coverage(classes, num_modes, confidence=sureness)
            elif metric == "memorisation" and self.extractor is not None:
                held_out = real.get("held_out")
                if not floor:
                    found |= memorisation(real["train"], held_out, vectors)
                elif held_out is not None:
                    found |= memorisation(real["train"], held_out, held_out)
            elif metric == "labels" and labels is not None and self._knows_labels:
                assert probabilities is not None
                found["label_accuracy"] = label_accuracy(probabilities, labels)
            elif metric == "class_frechet" and labels is not None and self.extractor is not None:
                distances = self._class_distances(real_vectors, vectors, labels).values()
                found["class_fd"] = sum(distances) / len(distances) if distances else math.nan
            elif metric == "classification" and labels is not None and self._knows_labels:
                found["classification_accuracy"] = self._classification_accuracy(fake, labels)
            elif metric == "diversity":
                found[metric] = pairwise_diversity(vectors, seed=self.seed)
        return found

    @property
    def _knows_labels(self) -> bool:
        """Whether the extractor is a classifier of the data's own labels."""
        return self.extractor is not None and self.extractor.name == "cnn" and self.data.parts is None

    def class_distances(self, fake: Tensor, labels: Tensor) -> dict[str, float]:
        """The distance within each class, by its name; class_fd is their mean. Empty where that is not asked for."""
        if "class_frechet" not in self.metrics or self.extractor is None:
            return {}
        assert self.data.classes is not None
        found = self._class_distances(self._real["vectors"], self.extractor(fake).vectors, labels)
        return {self.data.classes[label]: distance for label, distance in found.items()}

    def _class_distances(self, real_vectors: Tensor, vectors: Tensor, labels: Tensor) -> dict[int, float]:
        assert self.data.labels is not None
        assert self.data.classes is not None
        real_labels = self.data.labels[self._chosen[0]]
        return per_class_frechet(real_vectors, real_labels, vectors, labels, num_classes=len(self.data.classes))

    def _classification_accuracy(self, fake: Tensor, labels: Tensor) -> float:
        """Of a classifier that learns from fakes, on held-out reals; on the reference where none are held out."""
        assert self.data.labels is not None
        assert self.data.classes is not None
        if self.held_out is None or self.held_out.labels is None:
            test = (self._halves[0], self.data.labels[self._chosen[0]])
        else:
            test = (self.held_out.samples, self.held_out.labels)
        return classification_accuracy(fake, labels, len(self.data.classes), test, seed=self.seed, device=self.device)


class DomainsEvaluator(Evaluator):
    """Scores pairs of two domains: each metric is the worse of its two values, of each domain against all its images.

    What the two images of a pair have in common no metric of one domain sees: `pair_agreement` is the share of pairs
    whose images show the same class, by the base set's classifier. Where the two have nothing in common, as in the
    data, that is the chance of equal classes; its floor is 1, of an image and its own negative.
    """

    @cached_property
    def _each(self) -> Evaluator:
        assert self.data.parts is not None
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        held_out = None if self.held_out is None else self.held_out.parts
        return Evaluator(**settings | {"data": self.data.parts, "held_out": held_out})

    @property
    def extractor(self) -> Extractor | None:
        return self._each.extractor

    def prepare(self) -> None:
        self._each.prepare()

    @property
    def floor(self) -> dict[str, float]:
        return self._each.floor | ({"pair_agreement": 1.0} if self._knows_classes else {})

    @property
    def card(self) -> dict[str, Any]:
        return {**super().card, "domains": "the worse of two"}

    def score(self, fake: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        first, second = (self._each.score(images) for images in domains(fake))
        found = {name: first[name] if better(name, second[name], first[name]) else second[name] for name in first}
        return found | (self._agreement(fake) if self._knows_classes else {})

    @property
    def _knows_classes(self) -> bool:
        return self.extractor is not None and self.extractor.name == "cnn"

    def _agreement(self, pairs: Tensor) -> dict[str, float]:
        assert self.extractor is not None
        first, second = (self.extractor(images).probabilities for images in domains(pairs))
        assert first is not None
        assert second is not None
        return {"pair_agreement": (first.argmax(dim=1) == second.argmax(dim=1)).double().mean().item()}


def _code_of_metrics() -> str:
    """A hash of the sources that floors and radii come from: changed code makes new ones."""
    folder = Path(__file__).resolve().parent
    sources = [Path(__file__), *sorted((folder / "metrics").glob("*.py"))]
    return sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:NUM_HASH_DIGITS]


def card_id(card: Mapping[str, Any]) -> str:
    """A short name for how figures were measured; those with different ones must not be ranked.

    What was scored is on the card too, but no part of the name: which weights, from which noise, by which metrics.
    """
    kept = {key: value for key, value in card.items() if key not in WHAT_WAS_SCORED}
    return sha256(repr(sorted(kept.items())).encode()).hexdigest()[:8]


def better(metric: str, one: float, other: float) -> bool:
    """Whether one value of a metric is better than the other; a value that is not a number never is."""
    return one > other if metric in LARGER_IS_BETTER else one < other


def ratio_to_floor(value: float, floor: float | None) -> float | None:
    """How many times the floor a score is; None where that means nothing: no floor, one of 0 or less, or no numbers."""
    if floor is None or not math.isfinite(value) or not 0 < floor < math.inf:
        return None
    return value / floor


def in_words(scores: Mapping[str, float], floor: Mapping[str, float]) -> str:
    """fd 12.3 (floor 8.6, 1.43x), recall 0.81 (floor 0.93, 0.87x), ...; without a ratio where that means nothing."""
    words = []
    for name, value in scores.items():
        text = f"{name} {value:.4g}"
        if name in floor:
            ratio = ratio_to_floor(value, floor[name])
            share = "" if ratio is None else f", {ratio:.2f}x"
            text += f" (floor {floor[name]:.4g}{share})"
        words.append(text)
    return ", ".join(words)
