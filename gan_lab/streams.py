"""Randomness as a function of (seed, stream, counter): nothing to save, nothing that another draw can shift.

Every random number of a run comes from a generator that is seeded anew for the draw, from the run's seed, the name of
the stream ("noise/generator", "data", ...) and a counter (steps or images). So a resumed run draws what the run that
was never stopped would have drawn, and sampling or evaluation cannot disturb training.
"""

from hashlib import blake2b
from typing import Literal

import torch
from torch import Tensor

LatentDistribution = Literal["normal", "uniform"]


def stream_seed(seed: int, stream: str, counter: int = 0) -> int:
    """A 63-bit seed that depends on all three arguments (torch's CPU generator uses its lower 32 bits)."""
    digest = blake2b(f"{seed}/{stream}/{counter}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Streams:
    """Draws random tensors on one device; each draw is determined by (seed, stream, counter) alone."""

    def __init__(self, seed: int, device: torch.device | str = "cpu"):
        self.seed = seed
        self.device = torch.device(device)
        # Only CPU and CUDA have generators of their own everywhere; other devices draw on the CPU and move.
        self._drawing_device = self.device if self.device.type == "cuda" else torch.device("cpu")
        self._generator = torch.Generator(self._drawing_device)

    def generator(self, stream: str, counter: int) -> torch.Generator:
        """The generator at the start of (stream, counter); use it at once, the next call seeds it anew."""
        return self._generator.manual_seed(stream_seed(self.seed, stream, counter))

    def fresh_generator(self, stream: str, counter: int) -> torch.Generator:
        """A generator of its own at the start of (stream, counter): other draws leave it alone."""
        return torch.Generator(self._drawing_device).manual_seed(stream_seed(self.seed, stream, counter))

    def normal(self, shape: tuple[int, ...], stream: str, counter: int) -> Tensor:
        """Independent N(0, 1) values."""
        generator = self.generator(stream, counter)
        return torch.randn(shape, generator=generator, device=self._drawing_device).to(self.device)

    def uniform(self, shape: tuple[int, ...], stream: str, counter: int) -> Tensor:
        """Independent values in [0, 1)."""
        generator = self.generator(stream, counter)
        return torch.rand(shape, generator=generator, device=self._drawing_device).to(self.device)

    def latents(self, distribution: LatentDistribution, shape: tuple[int, int], stream: str, counter: int) -> Tensor:
        """Latents (N, latent_dim): N(0, 1), or uniform in [-1, 1)."""
        if distribution == "uniform":
            return self.uniform(shape, stream, counter) * 2 - 1
        return self.normal(shape, stream, counter)

    def seed_layers(self, counter: int) -> None:
        """Seeds torch's default generators, which layers such as dropout draw from."""
        seed = stream_seed(self.seed, "layers", counter)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
