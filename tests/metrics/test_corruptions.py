"""Each metric rises while real digits are made worse, step by step."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from gan_lab.data.digits import digits
from gan_lab.metrics.frechet import frechet_distance, moments
from gan_lab.metrics.kernel import kernel_distance
from gan_lab.metrics.manifold import manifold_metrics
from gan_lab.metrics.memorisation import memorisation
from gan_lab.metrics.sliced import sliced_wasserstein

COUNT = 350


def halves() -> tuple[Tensor, Tensor, Tensor]:
    """Two disjoint sets of real digits in [0, 1], the second with its labels; a random order mixes the writers."""
    data = digits(split="all")
    order = torch.randperm(len(data.samples), generator=torch.Generator().manual_seed(0))
    images, labels = data.samples[order].float() / 255, data.labels[order]
    return images[:COUNT], images[COUNT:], labels[COUNT:]


def noise(images: Tensor, labels: Tensor, level: float) -> Tensor:
    return (images + level * torch.randn(images.shape, generator=torch.Generator().manual_seed(1)))[:COUNT]


def blur(images: Tensor, labels: Tensor, level: float) -> Tensor:
    return gaussian_blur(images[:COUNT], 5, level) if level else images[:COUNT]


def dropped_classes(images: Tensor, labels: Tensor, level: float) -> Tensor:
    """Equally many images of fewer classes: three classes of the second set still have as many."""
    return images[labels >= level][:COUNT]


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "frechet": lambda real, fake: frechet_distance(moments(real.flatten(1)), moments(fake.flatten(1))),
    "kernel": lambda real, fake: kernel_distance(real.flatten(1), fake.flatten(1)),
    "not covered": lambda real, fake: 1 - manifold_metrics(real.flatten(1), fake.flatten(1))["coverage"],
    "sliced": sliced_wasserstein,
}
CORRUPTIONS: dict[str, tuple[Callable[[Tensor, Tensor, float], Tensor], tuple[float, ...]]] = {
    "noise": (noise, (0, 0.1, 0.2, 0.4)),
    "blur": (blur, (0, 0.5, 0.8, 1.5)),
    "dropped classes": (dropped_classes, (0, 1, 3, 5, 7)),
}
OTHER_LEVELS = {
    # noise of variance v adds about 3 v^2 / D, from the second moments: below the sampling error for weak noise
    ("noise", "kernel"): (0, 0.4, 0.8, 1.6),
    # a slight blur takes the fakes nearer to each other and to the reals: coverage rises, by some 2 %, before it falls
    ("blur", "not covered"): (0, 0.8, 1.0, 1.5),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_worse_samples_have_a_higher_distance(metric, corruption):
    real, images, labels = halves()
    corrupt, levels = CORRUPTIONS[corruption]
    levels = OTHER_LEVELS.get((corruption, metric), levels)
    fakes = [corrupt(images, labels, level) for level in levels]
    values = [METRICS[metric](real, fake) for fake in fakes]

    assert all(fake.shape == real.shape for fake in fakes)
    assert values == sorted(values)
    assert len(set(values)) == len(values)
    assert values[-1] > 2 * values[0]


def test_real_digits_are_no_copies_of_each_other():
    """Two sets of real digits against a third: the ratio is 1 within 4 standard errors of a median of 350."""
    train, images, _ = halves()
    held_out, fake = images[:COUNT].flatten(1), images[COUNT : 2 * COUNT].flatten(1)
    result = memorisation(train.flatten(1), held_out, fake)

    # the distances' standard deviation is below 0.3 of their mean, that of the median below 1.25 of it / sqrt(350)
    assert abs(result["nearest_train_ratio"] - 1) < 4 * 1.25 * 0.3 * (2 / COUNT) ** 0.5
    assert memorisation(train.flatten(1), held_out, train.flatten(1)) == {"nearest_train_ratio": 0, "authentic": 0}
