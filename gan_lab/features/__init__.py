"""Feature extractors: networks that turn images into vectors on which metrics are computed.

A number made with an extractor can be compared only with numbers made with the same one, so each carries a hash. This
module imports torch alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

NUM_HASH_DIGITS = 12


class Features(NamedTuple):
    """vectors: float32 (N, D). probabilities: float32 (N, K) of the classes, summing to 1 over K; (N, C, K)
    where the C channels are judged apart; None without classes."""

    vectors: Tensor
    probabilities: Tensor | None


class Rows:
    """Some samples of a set that may be larger than memory: they are read only when they are indexed."""

    def __init__(self, samples: Tensor, indices: Tensor):
        self.samples = samples
        self.indices = indices

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.indices), *self.samples.shape[1:]))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        return self.samples[self.indices[chosen]]


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """The first digits of the SHA-256 of names, shapes, types and values, in the order of the names."""
    digest = sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:NUM_HASH_DIGITS]


@dataclass(frozen=True)
class Extractor:
    """A frozen network with its identity.

    name: a word for titles, such as "cnn". network: uint8 images (N, C, H, W) -> (vectors (N, D), logits (N, K) or
    None); it scales and resizes as it needs. facts: what a reader must know, plain values: resize, accuracy, seed, ...
    published: the published Inception protocol, whose distances alone may be called FID and KID.
    """

    name: str
    network: nn.Module
    facts: Mapping[str, Any]
    published: bool = False

    @property
    def hash(self) -> str:
        return weights_hash(self.network.state_dict())

    @torch.no_grad()
    def __call__(self, images: Tensor | Rows, batch_size: int = 256) -> Features:
        """Features of uint8 images (N, C, H, W), on the CPU; computed in batches on the network's device."""
        device = next(iter(self.network.state_dict().values())).device
        self.network.eval()
        vectors, probabilities = [], []
        for start in range(0, len(images), batch_size):
            one, logits = self.network(images[start : start + batch_size].to(device))
            vectors.append(one.float().cpu())
            if logits is not None:
                probabilities.append(logits.float().softmax(dim=-1).cpu())
        return Features(torch.cat(vectors), torch.cat(probabilities) if probabilities else None)
