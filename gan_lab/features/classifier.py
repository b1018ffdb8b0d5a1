"""A small classifier: the offline feature extractor for labelled images, or, trained on labelled fakes, their judge."""

import logging
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gan_lab.features import Extractor, Rows
from gan_lab.features.images import as_network_input, network_side, resize_rule
from gan_lab.metrics.labels import label_accuracy
from gan_lab.precision import native_bfloat16

log = logging.getLogger(__name__)

NUM_FEATURES = 64
NUM_TRAINING_IMAGES = 240_000
"""Images shown in training, over all epochs; at most MOST_EPOCHS epochs."""

MOST_EPOCHS = 40
BATCH_SIZE = 128
LEARNING_RATE = 4e-3


class Classifier(nn.Module):
    """uint8 images (N, C, H, W) -> (vectors (N, 64), logits (N, K)): two 3x3 convolutions, pooled, and a dense layer.

    The vectors are what the last layer reads (after ReLU), as the pooled features of Inception are in FID.
    """

    def __init__(self, num_channels: int, side: int, num_classes: int):
        super().__init__()
        self.side = network_side(side)
        self.body = nn.Sequential(
            nn.Conv2d(num_channels, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (self.side // 4) ** 2, NUM_FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.body(as_network_input(images, self.side))
        return vectors, self.head(vectors)


def _trained(
    images: Tensor | Rows, labels: Tensor, num_classes: int, seed: int, device: torch.device | str
) -> Classifier:
    """A frozen classifier of uint8 images (N, C, H, W) with labels int64 (N,).

    AdamW with one cycle of the learning rate, in bfloat16 where the device computes in it (vectors are taken in
    float32 afterwards). Depends on `seed` alone for initialisation and order; torch's global generators are left as
    they were.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = Classifier(images.shape[1], images.shape[-1], num_classes)
    network.to(device).to(memory_format=torch.channels_last).train()
    order = torch.Generator().manual_seed(seed)
    batch_size = min(BATCH_SIZE, len(images))
    num_epochs = min(MOST_EPOCHS, max(1, round(NUM_TRAINING_IMAGES / len(images))))
    steps_an_epoch = len(images) // batch_size  # a last, smaller batch would unsettle BatchNorm
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05, fused=device.type in ("cpu", "cuda"))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=num_epochs * steps_an_epoch, pct_start=0.2
    )
    for _ in range(num_epochs):
        for indices in torch.randperm(len(images), generator=order).split(batch_size)[:steps_an_epoch]:
            with torch.autocast(device.type, torch.bfloat16, enabled=native_bfloat16(device.type)):
                _, logits = network(images[indices].to(device))
            loss = cross_entropy(logits.float(), labels[indices].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.requires_grad_(False)


def _accuracy(extractor: Extractor, images: Tensor | Rows, labels: Tensor) -> float:
    probabilities = extractor(images).probabilities
    assert probabilities is not None
    return label_accuracy(probabilities, labels)


def train_classifier(
    images: Tensor | Rows,
    labels: Tensor,
    num_classes: int,
    held_out: tuple[Tensor | Rows, Tensor],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Extractor:
    """A classifier of uint8 images (N, C, H, W) with labels int64 (N,), and its accuracy on held-out images.

    Depends on `seed` alone; torch's global generators are left as they were.
    """
    started = time.monotonic()
    network = _trained(images, labels, num_classes, seed, device)
    facts = {
        "extractor": "classifier trained on the data set's labels",
        "input": list(images.shape[1:]),
        "num_features": NUM_FEATURES,
        "resize": resize_rule(images.shape[-1], network.side),
        "trained_on": len(images),
        "seed": seed,
    }
    extractor = Extractor("cnn", network, facts)
    accuracy = _accuracy(extractor, *held_out)
    facts |= {"accuracy": round(accuracy, 4), "held_out": len(held_out[0])}
    log.info(f"feature extractor trained in {time.monotonic() - started:.0f} s: held-out accuracy {accuracy:.2%}")
    return extractor


def classification_accuracy(
    fake: Tensor,
    labels: Tensor,
    num_classes: int,
    held_out: tuple[Tensor | Rows, Tensor],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> float:
    """Classification accuracy score in [0, 1]: the accuracy on held-out reals of a classifier trained on fakes alone.

    fake: uint8 (N, C, H, W), with the labels int64 (N,) they were asked for. Falls when labels are mixed up, when fakes
    do not look like the data, and, unlike `label_accuracy` of fakes, when they lack its variety (Ravuri & Vinyals 2019;
    GAN-train of Shmelkov et al. 2018). The authors train a ResNet on as many fakes as there are training images; this
    is the small network of the feature extractor, so compare it with `train_classifier`'s accuracy for as many reals,
    and with no published figure. Depends on `seed` alone; torch's global generators are left as they were.
    """
    judge = Extractor("judge", _trained(fake, labels, num_classes, seed, device), {})
    return _accuracy(judge, *held_out)
