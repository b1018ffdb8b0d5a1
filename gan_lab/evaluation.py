"""How good samples are: every metric against one reference, with its floor and a card that says what was done.

Equal numbers of fakes and reals everywhere, because the number of samples moves these metrics more than the method
does: the reference is one random half of the data (at most `num_samples` of it); the floor is the score of as many
samples of the other half, what a perfect generator would get. Both halves are of the data that training draws from, so
a generator that knows its training set by heart may score below the floor: then see `memorisation`.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gan_lab.data import Data, Layout, as_training_input
from gan_lab.data.coupled import domains
from gan_lab.errors import ConfigError
from gan_lab.features import NUM_HASH_DIGITS, Extractor, Features, Rows
from gan_lab.features.cache import Cache, code_key, content_key
from gan_lab.features.classifier import Classifier, classification_accuracy, train_classifier
from gan_lab.features.inception import inception
from gan_lab.features.random_conv import RandomConv, random_conv
from gan_lab.images import to_uint8
from gan_lab.metrics.diversity import pairwise_diversity
from gan_lab.metrics.frechet import frechet_distance, moments
from gan_lab.metrics.inception import inception_score
from gan_lab.metrics.kernel import kernel_distance
from gan_lab.metrics.labels import label_accuracy, per_class_frechet
from gan_lab.metrics.manifold import manifold_metrics, neighbour_distances
from gan_lab.metrics.memorisation import memorisation
from gan_lab.metrics.modes import class_coverage, mode_coverage
from gan_lab.metrics.sliced import sliced_wasserstein
from gan_lab.sampling import LatentSpace, latents_of, samples_of
from gan_lab.streams import Streams

log = logging.getLogger(__name__)

Metric = Literal[
    "frechet", "kernel", "manifold", "sliced_wasserstein", "feature_sliced_wasserstein", "class_score", "modes",
    "memorisation", "diversity", "labels", "class_frechet", "classification",
]  # fmt: skip
ExtractorName = Literal["auto", "cnn", "random", "inception", "none"]

WHAT_WAS_SCORED = ("weights", "noise_seed", "images_seen", "scored", "metrics", "training_data")
"""What is on a card, but no part of how each figure was measured."""

NUM_POINTS = 2500
"""Points that the 2-D protocol scores (Srivastava et al. 2017; Lin et al. 2018)."""

MOST_IN_MANIFOLD = 10_000
"""Samples a side for precision, recall, density and coverage, whose cost grows with the square."""

FEWEST_IN_A_CLASS = 20
"""A classifier is trained only where each class has so many images on average."""


@dataclass(frozen=True)
class Facts:
    """What the metrics of an evaluation depend on, known before anything is measured.

    extractor: as it was asked for; `kind` is the one that is used. conditional: fakes have labels that they were asked
    for. knows_modes: whether the modes of samples can be told: points come with their mixture, images (for stacked and
    coupled ones, their parts) with labels enough to train a classifier. has_held_out: real samples are held out.
    """

    layout: Layout = "images"
    extractor: ExtractorName = "auto"
    conditional: bool = False
    knows_modes: bool = True
    has_held_out: bool = True

    @property
    def kind(self) -> Literal["cnn", "random", "inception", "none"]:
        if self.layout == "points":
            return "none"
        if self.extractor == "auto":
            return "cnn" if self.knows_modes else "random"
        return self.extractor

    @property
    def judges_labels(self) -> bool:
        """Whether the extractor is a classifier of the fakes' own labels."""
        return self.conditional and self.kind == "cnn" and self.layout == "images"


def knows_modes(data: Data) -> bool:
    """Whether the modes of samples can be told, see `Facts`."""
    if data.layout == "points":
        return data.modes is not None
    return can_classify(data if data.parts is None else data.parts)


def can_classify(data: Data) -> bool:
    """Whether images have labels enough to train a classifier."""
    num_classes = len(data.classes or ())
    return data.labels is not None and num_classes > 1 and len(data.samples) >= FEWEST_IN_A_CLASS * num_classes


# ---------------------------------------------------------------------- the metrics


@dataclass(frozen=True)
class Sides:
    """What is compared: fakes, or other reals in their place (`is_floor`), with the reference.

    vectors, probabilities: features of the fakes, real_vectors those of the reference; without an extractor the values
    themselves. labels: what the fakes were asked for. known: what else was measured of the reference before. unseen: in
    a floor, held-out reals, at most as many: the classifier has learned from the others; None where none are held out.
    """

    reference: Tensor
    real_labels: Tensor | None
    real_vectors: Tensor
    fake: Tensor
    labels: Tensor | None
    vectors: Tensor
    probabilities: Tensor | None
    known: Mapping[str, Any]
    is_floor: bool = False
    unseen: "Sides | None" = None


Values = Mapping[str, float]


@dataclass(frozen=True)
class Measure:
    """A metric. names: those of its values; none where the facts do not allow it. values: by name; none where a floor
    cannot be measured. larger_is_better: of these names; of every other, less is. of_labels: of fakes that were asked
    for by label. needs_unseen: the floor is that of held-out reals, where there are some."""

    names: Callable[[Facts], Sequence[str]]
    values: Callable[["Evaluator", Sides], Values]
    larger_is_better: Sequence[str] = ()
    of_labels: bool = False
    needs_unseen: bool = False


def _always(*names: str) -> Callable[[Facts], Sequence[str]]:
    return lambda facts: names


def _of_features(*names: str) -> Callable[[Facts], Sequence[str]]:
    return lambda facts: () if facts.kind == "none" else names


def _frechet(evaluator: "Evaluator", sides: Sides) -> Values:
    return {"fd": frechet_distance(moments(sides.real_vectors), moments(sides.vectors))}


def _kernel(evaluator: "Evaluator", sides: Sides) -> Values:
    return {"kd": kernel_distance(sides.real_vectors, sides.vectors, seed=evaluator.seed)}


def _manifold(evaluator: "Evaluator", sides: Sides) -> Values:
    radii = {"real_radii_3": sides.known["radii_3"], "real_radii_5": sides.known["radii_5"]}
    few = slice(MOST_IN_MANIFOLD)
    return manifold_metrics(sides.real_vectors[few], sides.vectors[few], **radii)


def _sliced_wasserstein(evaluator: "Evaluator", sides: Sides) -> Values:
    reference, fake = as_training_input(sides.reference), as_training_input(sides.fake)
    return {"sliced_wasserstein": sliced_wasserstein(reference, fake, seed=evaluator.seed)}


def _feature_sliced_wasserstein(evaluator: "Evaluator", sides: Sides) -> Values:
    distance = sliced_wasserstein(sides.real_vectors, sides.vectors, seed=evaluator.seed)
    return {"feature_sliced_wasserstein": distance}


def _class_score(evaluator: "Evaluator", sides: Sides) -> Values:
    """The mean over the channels where these are judged apart."""
    assert sides.probabilities is not None
    channels = sides.probabilities.unsqueeze(1) if sides.probabilities.ndim == 2 else sides.probabilities
    values = [inception_score(channel, seed=evaluator.seed)[0] for channel in channels.unbind(1)]
    return {"class_score": sum(values) / len(values)}


def _names_of_modes(facts: Facts) -> Sequence[str]:
    if facts.layout == "points":
        return ("modes_covered", "high_quality", "mode_kl", "mixture_kl") if facts.knows_modes else ()
    return ("modes_covered", "modes_with_5", "mode_kl", "high_quality") if facts.kind == "cnn" else ()


def _modes(evaluator: "Evaluator", sides: Sides) -> Values:
    """The floor of high_quality is a little high, as the classifier has learned from both halves; on held-out images,
    which may be of other writers, it would be too low by more."""
    data, probabilities = evaluator.data, sides.probabilities
    if data.modes is not None:
        assert data.mode_std is not None
        return mode_coverage(sides.fake, data.modes, data.mode_std)
    assert probabilities is not None
    classes, sureness = predicted_classes(probabilities)
    num_modes = probabilities.shape[-1] ** (1 if probabilities.ndim == 2 else probabilities.shape[1])
    return class_coverage(classes, num_modes, confidence=sureness)


def _names_of_memorisation(facts: Facts) -> Sequence[str]:
    if facts.kind == "none":
        return ()
    return ("nearest_train_ratio", "authentic") if facts.has_held_out else ("authentic",)


def _memorisation(evaluator: "Evaluator", sides: Sides) -> Values:
    """The floor is that of held-out images: the other reals may be among the training images."""
    held_out = sides.known.get("held_out")
    judged = held_out if sides.is_floor else sides.vectors
    return {} if judged is None else memorisation(sides.known["train"], held_out, judged)


def _diversity(evaluator: "Evaluator", sides: Sides) -> Values:
    return {"diversity": pairwise_diversity(sides.vectors, seed=evaluator.seed)}


def _label_accuracy(evaluator: "Evaluator", sides: Sides) -> Values:
    if sides.unseen is not None and sides.unseen.labels is not None:
        sides = sides.unseen
    assert sides.probabilities is not None
    assert sides.labels is not None
    return {"label_accuracy": label_accuracy(sides.probabilities, sides.labels)}


def _distances_by_label(data: Data, sides: Sides) -> dict[int, float]:
    assert data.classes is not None
    assert sides.real_labels is not None
    assert sides.labels is not None
    return per_class_frechet(
        sides.real_vectors, sides.real_labels, sides.vectors, sides.labels, num_classes=len(data.classes)
    )


def _class_frechet(evaluator: "Evaluator", sides: Sides) -> Values:
    """The floor is somewhat low, as the classifier has learned from both halves; held-out images, of which there may be
    fewer and of other writers, would make it far too high."""
    distances = _distances_by_label(evaluator.data, sides).values()
    return {"class_fd": sum(distances) / len(distances) if distances else math.nan}


def _classification(evaluator: "Evaluator", sides: Sides) -> Values:
    """Of a classifier that learns from fakes, on held-out reals; on the reference where none are held out."""
    classes, held_out = evaluator.data.classes, evaluator.held_out
    assert classes is not None
    assert sides.real_labels is not None
    assert sides.labels is not None
    test = (sides.reference, sides.real_labels)
    if held_out is not None and held_out.labels is not None:
        test = (held_out.samples, held_out.labels)
    accuracy = classification_accuracy(
        sides.fake, sides.labels, len(classes), test, seed=evaluator.seed, device=evaluator.device
    )
    return {"classification_accuracy": accuracy}


MEASURES: dict[Metric, Measure] = {
    "frechet": Measure(_of_features("fd"), _frechet),
    "kernel": Measure(_of_features("kd"), _kernel),
    "manifold": Measure(
        _always("precision", "recall", "density", "coverage"),
        _manifold,
        larger_is_better=("precision", "recall", "density", "coverage"),
    ),
    "sliced_wasserstein": Measure(_always("sliced_wasserstein"), _sliced_wasserstein),
    "feature_sliced_wasserstein": Measure(_of_features("feature_sliced_wasserstein"), _feature_sliced_wasserstein),
    "class_score": Measure(
        lambda facts: ("class_score",) if facts.kind in ("cnn", "inception") else (),
        _class_score,
        larger_is_better=("class_score",),
    ),
    "modes": Measure(_names_of_modes, _modes, larger_is_better=("modes_covered", "modes_with_5", "high_quality")),
    "memorisation": Measure(
        _names_of_memorisation,
        _memorisation,
        larger_is_better=("nearest_train_ratio", "authentic"),
        needs_unseen=True,
    ),
    "diversity": Measure(_always("diversity"), _diversity, larger_is_better=("diversity",)),
    "labels": Measure(
        lambda facts: ("label_accuracy",) if facts.judges_labels else (),
        _label_accuracy,
        larger_is_better=("label_accuracy",),
        of_labels=True,
        needs_unseen=True,
    ),
    "class_frechet": Measure(
        lambda facts: ("class_fd",) if facts.conditional and facts.kind != "none" else (),
        _class_frechet,
        of_labels=True,
    ),
    "classification": Measure(
        lambda facts: ("classification_accuracy",) if facts.judges_labels else (),
        _classification,
        larger_is_better=("classification_accuracy",),
        of_labels=True,
    ),
}

PUBLISHED = {"fd": "fid", "kd": "kid", "class_score": "inception_score"}
"""What figures of the published extractor alone are called."""

LARGER_IS_BETTER = frozenset(
    {
        *(name for measure in MEASURES.values() for name in measure.larger_is_better),
        *("inception_score", "pair_agreement"),
        *("classes/accuracy", "clusters/purity", "images_per_second"),  # not of fakes
    }
)
"""Of every other metric, less is better."""


def _called(name: str, facts: Facts) -> str:
    return PUBLISHED.get(name, name) if facts.kind == "inception" else name


def metric_names(metrics: Sequence[Metric], facts: Facts) -> list[str]:
    """The names under which metrics are written, in their order."""
    written = [_called(name, facts) for metric in metrics for name in MEASURES[metric].names(facts)]
    return [*written, "pair_agreement"] if facts.layout == "coupled" and facts.kind == "cnn" else written


# ---------------------------------------------------------------------- features


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
    labelled = can_classify(data)
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


# ---------------------------------------------------------------------- scores


@dataclass(frozen=True)
class Scoring:
    """The keys of an evaluation that say how samples are scored, whoever asks; `Evaluate` explains them."""

    metrics: Sequence[Metric]
    num_samples: int = 10_000
    extractor: ExtractorName = "auto"
    inception_weights: str | None = None
    cache_dir: str = "outputs/cache"
    seed: int = 0

    def evaluator(
        self,
        data: Data,
        held_out: Data | None,
        split: str | None,
        device: torch.device | str,
        num_samples: int | None = None,
        conditional: bool = False,
        training: Data | None = None,
    ) -> "Evaluator":
        """What scores samples against a data set; see `Evaluator`."""
        kind = DomainsEvaluator if data.layout == "coupled" else Evaluator
        return kind(
            data,
            held_out,
            tuple(self.metrics),
            Cache(Path(self.cache_dir)),
            num_samples=num_samples or self.num_samples,
            extractor_name=self.extractor,
            inception_weights=self.inception_weights,
            split=split,
            seed=self.seed,
            device=device,
            conditional=conditional,
            training=training,
        )


def scored_samples(
    generator: nn.Module, space: LatentSpace, streams: Streams, num: int
) -> tuple[Tensor, Tensor | None]:
    """The fakes that are scored, images as a file would hold them (uint8), points as they are; and their labels."""
    latents = torch.cat(list(latents_of(streams, "noise/evaluation", num, space)))
    fake = samples_of(generator, latents)
    return to_uint8(fake) if fake.ndim == 4 else fake, space.labels_of(latents)


@dataclass
class Evaluator:
    """Scores samples against a data set.

    data: the reference. held_out: images that training never saw, for memorisation and the classifier's accuracy.
    split: the name of the reference's split, for the card. num_samples: at most so many fakes and reals a side.
    seed: of the reference's choice, the extractor and the metrics' own draws; it is not the run's, so that all runs on
    a data set share one reference. conditional: samples come with the labels that they were asked for. training: the
    part of the data that G has learned from, for memorisation; None: all of them.
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
    training: Data | None = None

    def __post_init__(self) -> None:
        if not self.conditional:
            self.metrics = tuple(metric for metric in self.metrics if not MEASURES[metric].of_labels)
        if self.training is self.data or "memorisation" not in self.metrics:
            self.training = None

    @property
    def num(self) -> int:
        """Fakes, and reals, of one score."""
        return min(self.num_samples, len(self.data.samples) // 2, *([NUM_POINTS] if self.is_points else []))

    @cached_property
    def facts(self) -> Facts:
        return Facts(
            self.data.layout, self.extractor_name, self.conditional, knows_modes(self.data), self.held_out is not None
        )

    @property
    def is_points(self) -> bool:
        return self.facts.layout == "points"

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
        trained_on = None if self.training is None else samples_key(self.training)
        labels = self.data.labels if any(MEASURES[metric].of_labels for metric in self.metrics) else None
        data = (samples_key(self.data), labels, held_out, trained_on)
        key = content_key(*hashes, *data, self.num, self.seed, *self.metrics)
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
        unseen = self._unseen(real)
        if "memorisation" in self.metrics and self.extractor is not None:
            training = self.data if self.training is None else self.training
            real["train"] = self.extractor(training.samples).vectors
            if unseen is not None:
                real["held_out"] = unseen.vectors
        others_labels = None if self.data.labels is None else self.data.labels[self._chosen[1]]
        sides = self._sides(others, others_labels, real)
        real["floor"] = self._score(replace(sides, is_floor=True, unseen=unseen))
        return real

    def _unseen(self, real: Mapping[str, Any]) -> Sides | None:
        """Held-out reals in place of fakes, where a metric's floor needs them."""
        measures = [MEASURES[metric] for metric in self.metrics]
        asked = any(measure.needs_unseen and measure.names(self.facts) for measure in measures)
        if self.held_out is None or self.extractor is None or not asked:
            return None
        order = torch.randperm(len(self.held_out.samples), generator=torch.Generator().manual_seed(self.seed))
        chosen = order[: self.num]
        labels = None if self.held_out.labels is None else self.held_out.labels[chosen]
        return self._sides(self.held_out.samples[chosen], labels, real)

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
        if self.training is not None:
            card["training_data"] = samples_key(self.training)[:NUM_HASH_DIGITS]
        if self.extractor is not None:
            card |= {"extractor_name": self.extractor.name, "extractor_hash": self.extractor.hash}
            card |= self.extractor.facts
        return card

    def score(self, fake: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """The metrics of `num` fakes: uint8 images (N, C, H, W), or points (N, 2); labels: what they were asked for."""
        if len(fake) != self.num:
            raise ValueError(f"{self.num} samples are scored here, got {len(fake)}")
        return self._score(self._sides(fake, labels, self._real))

    def _sides(self, fake: Tensor, labels: Tensor | None, real: Mapping[str, Any]) -> Sides:
        if self.extractor is None:
            features = Features(as_training_input(fake).flatten(1), None)
        else:
            features = self.extractor(fake)
        reference, _ = self._halves
        return Sides(
            reference=reference,
            real_labels=None if self.data.labels is None else self.data.labels[self._chosen[0]],
            real_vectors=self._vectors(reference, real),
            fake=fake,
            labels=labels,
            vectors=features.vectors,
            probabilities=features.probabilities,
            known=real,
        )

    def _score(self, sides: Sides) -> dict[str, float]:
        found: dict[str, float] = {}
        for metric in self.metrics:
            measure = MEASURES[metric]
            names = measure.names(self.facts)
            if names:
                values = measure.values(self, sides)
                assert set(values) <= set(names), f"{metric} gives {list(values)}, and declares {list(names)}"
                found |= {_called(name, self.facts): value for name, value in values.items()}
        return found

    def class_distances(self, fake: Tensor, labels: Tensor) -> dict[str, float]:
        """The distance within each class, by its name; class_fd is their mean. Empty where that is not asked for."""
        if "class_frechet" not in self.metrics or not MEASURES["class_frechet"].names(self.facts):
            return {}
        assert self.data.classes is not None
        found = _distances_by_label(self.data, self._sides(fake, labels, self._real))
        return {self.data.classes[label]: distance for label, distance in found.items()}


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
        held_out, training = None if self.held_out is None else self.held_out.parts, None
        if self.training is not None:
            seen = torch.cat(domains(self.training.samples))
            training = self.data.parts._replace(samples=seen, labels=None, samples_key=None)
        return Evaluator(**settings | {"data": self.data.parts, "held_out": held_out, "training": training})

    @property
    def extractor(self) -> Extractor | None:
        return self._each.extractor

    def prepare(self) -> None:
        self._each.prepare()

    @property
    def floor(self) -> dict[str, float]:
        return self._each.floor | ({"pair_agreement": 1.0} if self.facts.kind == "cnn" else {})

    @property
    def card(self) -> dict[str, Any]:
        return {**super().card, "domains": "the worse of two"}

    def score(self, fake: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        first, second = (self._each.score(images) for images in domains(fake))
        found = {name: worse(name, first[name], second[name]) for name in first}
        return found | (self._agreement(fake) if self.facts.kind == "cnn" else {})

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


def worse(metric: str, one: float, other: float) -> float:
    """The worse of two values of a metric; not a number where one is none."""
    return one if math.isnan(one) or better(metric, other, one) else other


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
