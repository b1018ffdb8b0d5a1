"""Scores the generator during training and keeps the best one; training is not affected."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gan_lab.callbacks.base import Callback
from gan_lab.callbacks.samples import Weights
from gan_lab.constraints import NonNegativeInt, PositiveFloat, PositiveInt
from gan_lab.data import Data
from gan_lab.evaluation import (
    Evaluator,
    ExtractorName,
    Metric,
    Scoring,
    better,
    card_id,
    in_words,
    scored_samples,
)
from gan_lab.reading import discriminator_gap, read_classes

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN

log = logging.getLogger(__name__)

FEWEST_IMAGES_BETWEEN = 20_000
IMAGES_PER_SAMPLE = 25
"""With every_kimg=null, so many images are trained on for each sample that is scored: the cost keeps its share."""


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
        num_samples: PositiveInt = Scoring.num_samples,
        weights: Weights = "ema",
        extractor: ExtractorName = Scoring.extractor,
        inception_weights: str | None = Scoring.inception_weights,
        cache_dir: str = Scoring.cache_dir,
        seed: NonNegativeInt = Scoring.seed,
    ):
        self.scoring = Scoring(metrics, num_samples, extractor, inception_weights, cache_dir, seed)
        self.every_images = None if every_kimg is None else every_kimg * 1000
        self.weights: Weights = weights
        self.best: dict[str, Any] | None = None  # this and the next two are set by the run
        self.keep: Callable[[GAN, dict[str, Any]], None] = lambda gan, score: None
        self.record_card: Callable[[dict[str, Any]], None] = lambda card: None
        self._evaluator: Evaluator | None = None

    def check(self, data: Data) -> None:
        """Fails now where the first evaluation would, for want of Inception's weights."""
        if self.scoring.extractor == "inception":
            _ = self.scoring.evaluator(data, None, None, "cpu").extractor

    def on_start(self, trainer: Trainer, gan: GAN) -> None:
        if self.every_images is None:
            data = trainer.datamodule.reference  # type: ignore[attr-defined]
            num = self.scoring.evaluator(data, None, None, "cpu").num
            self.every_images = max(FEWEST_IMAGES_BETWEEN, IMAGES_PER_SAMPLE * num)

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        if not gan.due(self.every_images) or not trainer.is_global_zero:
            return
        if self._evaluator is None:
            before = time.monotonic()
            module: Any = trainer.datamodule  # type: ignore[attr-defined]
            self._evaluator = self.scoring.evaluator(
                module.reference,
                module.held_out,
                module.split,
                gan.device,
                conditional=gan.conditioning.gives_labels,
                training=module.data,
            )
            self._evaluator.prepare()
            gan.setup_seconds += time.monotonic() - before
        evaluator = self._evaluator
        floor = evaluator.floor
        generator = gan.generator_ema if self.weights == "ema" else gan.generator
        fake, labels = scored_samples(generator, gan.latent_space, gan.streams, evaluator.num)
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
