"""Does a generator copy its training samples? Distances of features, calibrated on data it has not seen."""

from torch import Tensor

from gan_lab.metrics.distances import nearest


def memorisation(train: Tensor, held_out: Tensor | None, fake: Tensor) -> dict[str, float]:
    """How near the fakes (F, D) are to the training samples (N, D), beside held-out real samples (M, D).

    nearest_train_ratio: median distance of a fake to its nearest training sample, over that of a held-out sample, in
        [0, inf): about 1 for a perfect model, well below 1 for a copying one. Left out without held_out.
    authentic: share of fakes that are farther from their nearest training sample than that one is from the next
        training sample, in [0, 1] (Alaa et al. 2022, authenticity by nearest neighbours).
    """
    if len(train) < 2:
        raise ValueError(f"memorisation needs at least 2 training samples: got {len(train)}")
    distances, indices = nearest(fake, train, 1)
    copied, of_fake = indices[:, 0].unique(return_inverse=True)
    spacing = nearest(train[copied], train, 1, skip=copied)[0][:, 0]
    result = {"authentic": (distances[:, 0] > spacing[of_fake]).double().mean().item()}
    if held_out is None:
        return result
    reference = nearest(held_out, train, 1)[0]
    return {"nearest_train_ratio": (distances.quantile(0.5) / reference.quantile(0.5)).item(), **result}
