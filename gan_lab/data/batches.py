"""Real batches by counter: the data set as one tensor, gathered by index, in an order that needs no state."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import TypeVar, cast

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from gan_lab.conditioning import Conditioning
from gan_lab.data import Data, as_training_input
from gan_lab.streams import stream_seed

Item = TypeVar("Item")
Batch = Tensor | tuple[Tensor, Tensor]
"""The reals of one cycle; where training uses labels, with theirs."""


class EpochOrder:
    """The order in which samples are shown: a new permutation each epoch, a function of (seed, stream, epoch) alone."""

    def __init__(self, num_samples: int, seed: int, stream: str = "data"):
        self.num_samples = num_samples
        self.seed = seed
        self.stream = stream
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def __call__(self, start: int, stop: int) -> Tensor:
        """Indices (stop - start,) of the samples shown as images `start` to `stop` since the beginning of training."""
        pieces = []
        while start < stop:
            epoch, position = divmod(start, self.num_samples)
            count = min(stop - start, self.num_samples - position)
            pieces.append(self._order_of(epoch)[position : position + count])
            start += count
        return torch.cat(pieces)

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stream_seed(self.seed, self.stream, epoch))
            self._epoch, self._permutation = epoch, torch.randperm(self.num_samples, generator=generator)
        return self._permutation


class RealBatches:
    """Endless iterator over cycles: real samples (num_batches * local batch, ...) of one process, ready to train on;
    (samples, labels) where there are `labels`.

    Samples live on `device` where they take at most `device_bytes` bytes. Larger sets stay where they are, in host
    memory or in a mapped file that may be larger than memory, and the next cycle's samples are gathered while this one
    trains. Process `rank` gets its rows of each global batch, so that all processes together see what one would.
    """

    def __init__(
        self,
        samples: Tensor,
        labels: Tensor | None = None,
        *,
        batch_size: int,
        num_batches: int,
        start_images: int,
        seed: int,
        device: torch.device,
        device_bytes: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.resident = samples.numel() * samples.element_size() <= device_bytes
        self.samples = samples.to(device) if self.resident else samples
        self.labels = None if labels is None else labels.to(device)
        self.device = device
        self.order = EpochOrder(len(samples), seed)
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.images = start_images
        local = batch_size // world_size
        self.local_rows = slice(rank * local, (rank + 1) * local)

    def __iter__(self) -> Iterator[Batch]:
        gathered = self._gathered() if self.resident else one_ahead(self._gathered())
        for samples, indices in gathered:
            real = as_training_input(samples.to(self.device, non_blocking=True))
            yield real if self.labels is None else (real, self.labels[indices.to(self.device, non_blocking=True)])

    def _gathered(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The samples of one cycle after another as they are stored, and their indices; samples are pinned where they
        have to move to a GPU."""
        while True:
            stop = self.images + self.num_batches * self.batch_size
            indices = self.order(self.images, stop).view(self.num_batches, self.batch_size)[:, self.local_rows]
            indices = indices.reshape(-1).to(self.samples.device, non_blocking=True)
            samples = self.samples.index_select(0, indices)
            yield samples.pin_memory() if self.device.type == "cuda" and not self.resident else samples, indices
            self.images = stop


class Told:
    """The samples (M, ...) whose labels (M,) D is told, in batches by counter: each is shown as often as the others."""

    def __init__(self, samples: Tensor, labels: Tensor, seed: int):
        self.samples = samples
        self.labels = labels
        self.order = EpochOrder(len(samples), seed, "told")

    def to(self, device: torch.device) -> None:
        self.samples, self.labels = self.samples.to(device), self.labels.to(device)

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Those shown as the ones numbered `start` to `stop` since the beginning of training, ready to train on."""
        rows = self.order(start, stop).to(self.samples.device, non_blocking=True)
        return as_training_input(self.samples[rows]), self.labels[rows]


def told_samples(data: Data, conditioning: Conditioning, seed: int) -> Told | None:
    """The samples of training data whose labels D is told in batches of their own; None without such."""
    if data.labels is None:
        return None
    rows = conditioning.told(data.labels)
    return None if rows is None else Told(data.samples[rows], data.labels[rows], seed)


class SeveralCycles:
    """The same batches, `num` at a time, as iterators that must be used up one after the other."""

    def __init__(self, batches: RealBatches, num: int):
        self.batches = batches
        self.num = num

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        batches = iter(self.batches)
        while True:
            yield islice(batches, self.num)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items of an endless iterator, each made by a thread while the one before it is used."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch") as thread:
        upcoming = thread.submit(next, items)
        while True:
            item = upcoming.result()
            upcoming = thread.submit(next, items)
            yield item


class RealData(LightningDataModule):
    """The one DataModule: any `Data`, served in real batches that start where the module's counter stands.

    split: what part of the data set it is, by name; make_held_out: gets samples that are never trained on, when asked;
    labels: those that training sees, (N,), None where it needs none; reference: what fakes are compared with, where it
    is more than what is trained on; cycles_at_once: above 1, Lightning's batches are iterators over so many of ours.
    """

    def __init__(
        self,
        data: Data,
        *,
        batch_size: int,
        num_batches: int,
        seed: int,
        device_gib: float,
        split: str | None = None,
        make_held_out: Callable[[], Data | None] = lambda: None,
        labels: Tensor | None = None,
        reference: Data | None = None,
        cycles_at_once: int = 1,
    ):
        super().__init__()
        self.data = data
        self.reference = data if reference is None else reference
        self.labels = labels
        self.split = split
        self._make_held_out = make_held_out
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.device_bytes = int(device_gib * 2**30)
        self.cycles_at_once = cycles_at_once

    @cached_property
    def held_out(self) -> Data | None:
        """Samples that are never trained on, for evaluation; None where there are none."""
        return self._make_held_out()

    def train_dataloader(self) -> RealBatches | SeveralCycles:
        assert self.trainer is not None
        batches = RealBatches(
            self.data.samples,
            self.labels,
            batch_size=self.batch_size,
            num_batches=self.num_batches,
            start_images=cast("int", self.trainer.lightning_module.images_seen),
            seed=self.seed,
            device=self.trainer.strategy.root_device,
            device_bytes=self.device_bytes,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return batches if self.cycles_at_once == 1 else SeveralCycles(batches, self.cycles_at_once)
