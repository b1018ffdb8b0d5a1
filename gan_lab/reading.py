"""What D, or the encoder, sees in real samples: their classes, and whether it has been trained on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gan_lab.conditioning import Conditioning, Reads
from gan_lab.data import Data, as_training_input
from gan_lab.evaluation import Evaluator
from gan_lab.metrics.labels import cluster_purity, matched_error
from gan_lab.sampling import evaluation_mode

if TYPE_CHECKING:
    from gan_lab.module import GAN

MOST_READ = 10_000
"""Real samples whose classes D is asked for."""

NUM_FOR_GAP = 1000


def names_read(reads: Reads | None, num_categories: int | None, num_classes: int | None) -> list[str]:
    """The names of what `read_classes` measures. A number that is not known (None) is taken for equal to the other."""
    if reads is None or num_classes == 0:
        return []
    if reads == "classes":
        return ["classes/accuracy"]
    one_for_each = None in (num_categories, num_classes) or num_categories == num_classes
    return ["clusters/purity", "clusters/error"] if one_for_each else ["clusters/purity"]


@torch.no_grad()
def read_classes(network: nn.Module, conditioning: Conditioning, evaluator: Evaluator) -> dict[str, float]:
    """How well D, or the encoder where there is one, tells the classes of real samples apart; nothing where it does not
    try.

    On held-out samples where there are some. classes/accuracy: of classes that it was told; clusters/purity and
    clusters/error: of categories that it has found by itself (see `gan_lab.metrics.labels`).
    """
    data = evaluator.data if evaluator.held_out is None else evaluator.held_out
    if conditioning.reads is None or data.labels is None or data.classes is None:
        return {}
    chosen = torch.randperm(len(data.samples), generator=torch.Generator().manual_seed(0))[:MOST_READ]
    samples, labels = data.samples[chosen], data.labels[chosen]
    with evaluation_mode(network):
        parts = [
            conditioning.read(network(as_training_input(part).to(evaluator.device))).cpu()
            for part in samples.split(256)
        ]
    found = torch.cat(parts)
    num_categories, num_classes = conditioning.num_choices, len(data.classes)
    measures = {
        "classes/accuracy": lambda: (found == labels).double().mean().item(),
        "clusters/purity": lambda: cluster_purity(found, labels, num_clusters=num_categories, num_classes=num_classes),
        "clusters/error": lambda: matched_error(found, labels, num=num_classes),
    }
    return {name: measures[name]() for name in names_read(conditioning.reads, num_categories, num_classes)}


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
