"""Scores the generator during training and keeps the best one; training is not affected."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gan_lab.callbacks.base import Callback
from gan_lab.callbacks.samples import Weights, draw, draw_latents
from gan_lab.conditioning import Conditioning
from gan_lab.constraints import NonNegativeInt, PositiveFloat, PositiveInt
from gan_lab.data import Data, as_training_input
from gan_lab.evaluation import DomainsEvaluator, Evaluator, ExtractorName, Metric, better, card_id, in_words
from gan_lab.features.cache import Cache
from gan_lab.images import to_uint8
from gan_lab.metrics.labels import cluster_purity, matched_error
from gan_lab.sampling import evaluation_mode

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN

log = logging.getLogger(__name__)

FEWEST_IMAGES_BETWEEN = 20_000
IMAGES_PER_SAMPLE = 25
"""With every_kimg=null, so many images are trained on for each sample that is scored: the cost keeps its share."""

NUM_FOR_GAP = 1000
MOST_READ = 10_000
"""Real samples whose classes D is asked for."""


class Evaluate(Callback):
    """Every `every_kimg` and at the end: `metrics` of `num_samples` fakes (see `gan_lab.evaluation`) and their floors.

    every_kimg: null is 25 images for each sample scored, at least 20 kimg. weights: which generator, ema or raw.
    metrics: from frechet, kernel, manifold, sliced_wasserstein, feature_sliced_wasserstein, class_score, modes,
    memorisation, diversity, and of fakes with labels: labels, class_frechet, classification.
    extractor: auto (cnn for labelled images, else random), cnn, random, inception or none.
    inception_weights: a local file for extractor=inception; null downloads it. cache_dir: for extractors and real
    statistics, shared by all runs. seed: of the reference, not of the run.
    Fakes come from a stream of their own and are rounded to uint8. The best generator by the run's objective is kept.
    """

    def __init__(
        self,
        *,
        metrics: list[Metric],
        every_kimg: PositiveFloat | None = None,
        num_samples: PositiveInt = 10_000,
        weights: Weights = "ema",
        extractor: ExtractorName = "auto",
        inception_weights: str | None = None,
        cache_dir: str = "outputs/cache",
        seed: NonNegativeInt = 0,
    ):
        self.metrics = metrics
        self.every_images = None if every_kimg is None else every_kimg * 1000
        self.num_samples = num_samples
        self.weights: Weights = weights
        self.extractor: ExtractorName = extractor
        self.inception_weights = inception_weights
        self.cache_dir = cache_dir
        self.seed = seed
        self.best: dict[str, Any] | None = None  # this and the next two are set by the run
        self.keep: Callable[[GAN, dict[str, Any]], None] = lambda gan, score: None
        self.record_card: Callable[[dict[str, Any]], None] = lambda card: None
        self._evaluator: Evaluator | None = None

    def evaluator(
        self,
        data: Data,
        held_out: Data | None,
        split: str | None,
        device: torch.device | str,
        num_samples: int | None = None,
        conditional: bool = False,
    ) -> Evaluator:
        """What scores samples with these settings, against a data set; conditional: they come with labels."""
        kind = DomainsEvaluator if data.coupled else Evaluator
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
        )

    def check(self, data: Data) -> None:
        """Fails now where the first evaluation would, for want of Inception's weights."""
        if self.extractor == "inception":
            _ = self.evaluator(data, None, None, "cpu").extractor

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        if self.every_images is None:
            data = trainer.datamodule.reference  # type: ignore[attr-defined]
            num = self.evaluator(data, None, None, "cpu").num
            self.every_images = max(FEWEST_IMAGES_BETWEEN, IMAGES_PER_SAMPLE * num)

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        if not gan.due(self.every_images) or not trainer.is_global_zero:
            return
        if self._evaluator is None:
            before = time.monotonic()
            module: Any = trainer.datamodule  # type: ignore[attr-defined]
            self._evaluator = self.evaluator(
                module.reference,
                module.held_out,
                module.split,
                gan.device,
                conditional=gan.conditioning.gives_labels,
            )
            self._evaluator.prepare()
            gan.setup_seconds += time.monotonic() - before
        evaluator = self._evaluator
        floor = evaluator.floor
        fake, labels = scored_samples(gan, evaluator, self.weights)
        reader = gan.discriminator if gan.encoder is None else gan.encoder
        scores = evaluator.score(fake, labels) | read_classes(reader, gan.conditioning, evaluator)
        card = {**evaluator.card, "weights": self.weights, "noise_seed": gan.seed}
        metrics = scores | {f"{name}/floor": value for name, value in floor.items()}
        if evaluator.held_out is not None:
            train = trainer.datamodule.data  # type: ignore[attr-defined]
            gap = discriminator_gap(gan, train, evaluator.held_out, fake, labels)
            metrics |= {} if gap is None else {"discriminator/gap": gap}
        name = "points" if evaluator.extractor is None else f"{card['extractor_name']} {card['extractor_hash']}"
        log.info(
            f"{gan.images_seen:,} images: {in_words(scores, floor)} "
            f"({name}, {evaluator.num:,} {self.weights} fakes against {evaluator.num:,} {evaluator.split or 'real'})"
        )
        gan.publish(trainer.loggers, metrics, card)
        self.record_card(card)
        self._keep_if_best(gan, scores, card)

    def _keep_if_best(self, gan: GAN, scores: dict[str, float], card: dict[str, Any]) -> None:
        if self.objective not in scores or math.isnan(scores[self.objective]):
            return
        value, best = scores[self.objective], self.best
        comparable = best is not None and (best["metric"], best["card_id"]) == (self.objective, card_id(card))
        if best is None or not comparable or better(self.objective, value, best["value"]):
            self.best = {
                "metric": self.objective,
                "value": value,
                "images_seen": gan.images_seen,
                "weights": self.weights,
                "card_id": card_id(card),
                "scores": scores,
                "card": card,
            }
            self.keep(gan, self.best)


def scored_samples(gan: GAN, evaluator: Evaluator, weights: Weights) -> tuple[Tensor, Tensor | None]:
    """The fakes that are scored, images as a file would hold them (uint8), points as they are; and their labels."""
    latents = draw_latents(gan, evaluator.num, "noise/evaluation")
    fake = draw(gan, latents, weights)
    return to_uint8(fake) if fake.ndim == 4 else fake, gan.latent_space.labels_of(latents)


@torch.no_grad()
def read_classes(network: nn.Module, conditioning: Conditioning, evaluator: Evaluator) -> dict[str, float]:
    """How well D, or the encoder where there is one, tells the classes of real samples apart; nothing where it does not
    try.

    On held-out samples where there are some. classes/accuracy: of classes that it was told; clusters/purity and
    clusters/error: of categories that it has found by itself (see `gan_lab.metrics.labels`).
    """
    data = evaluator.data if evaluator.held_out is None else evaluator.held_out
    num = conditioning.num_read
    if num == 0 or data.labels is None or data.classes is None:
        return {}
    chosen = torch.randperm(len(data.samples), generator=torch.Generator().manual_seed(0))[:MOST_READ]
    samples, labels = data.samples[chosen], data.labels[chosen]
    with evaluation_mode(network):
        parts = [
            conditioning.read(network(as_training_input(part).to(evaluator.device))).cpu()
            for part in samples.split(256)
        ]
    found = torch.cat(parts)
    if conditioning.needs_labels:
        return {"classes/accuracy": (found == labels).double().mean().item()}
    names = {"clusters/purity": cluster_purity(found, labels, num_clusters=num, num_classes=len(data.classes))}
    if num == len(data.classes):
        names["clusters/error"] = matched_error(found, labels, num=num)
    return names


def discriminator_gap(
    gan: GAN, train: Data, held_out: Data, fake: Tensor, fake_labels: Tensor | None = None
) -> float | None:
    """(mean logit on train - on held-out reals) / (on train - on fakes): 0 for a D that generalises, 1 for one that
    takes what it has not seen for fake (the overfitting measure r_v of Karras et al. 2020, ADA, equation 1). None for a
    D that does not rank train above fakes."""
    means = []
    for samples, labels in ((train.samples, train.labels), (held_out.samples, held_out.labels), (fake, fake_labels)):
        chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:NUM_FOR_GAP]
        logits = [
            gan.plain_logits(
                as_training_input(samples[part]).to(gan.device), None if labels is None else labels[part].to(gan.device)
            )
            for part in chosen.split(256)
        ]
        means.append(torch.cat(logits).double().mean().item())
    on_train, on_held_out, on_fake = means
    told_apart = on_train - on_fake > 1e-4 * max(abs(on_train), abs(on_fake))  # else the ratio would be rounding
    return (on_train - on_held_out) / (on_train - on_fake) if told_apart else None
