"""One side of the game: the parameters it may move and how it moves them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gan_lab.errors import RunError
from gan_lab.optimizers import unique_parameters

if TYPE_CHECKING:
    from gan_lab.module import GAN


class NonFinite(RunError):
    """A player's loss is infinite or not a number."""


class Player:
    """Gradients, their averaging over processes, clipping, the finite-loss guard and the optimizer step of one player.

    The Trainer's own clipping and accumulation refuse manual optimization with two optimizers, hence these few lines.
    """

    def __init__(self, name: str, networks: list[nn.Module], optimizer: torch.optim.Optimizer, clip_norm: float | None):
        self.name = name
        self.parameters = unique_parameters(networks)
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        # A fused optimizer skips its step on the device while `found_inf` is 1: the guard then needs no host sync.
        self._fused = all(group.get("fused") for group in optimizer.param_groups)
        self._found_inf: Tensor | None = None

    def backward(self, loss: Tensor, gan: GAN) -> None:
        """Adds this micro-batch's share of the gradient, to this player's parameters only."""
        self._guard(loss.detach(), gan)
        (loss if gan.accumulate == 1 else loss / gan.accumulate).backward(inputs=self.parameters)

    def _guard(self, loss: Tensor, gan: GAN) -> None:
        if self._fused and loss.device.type == "cuda":
            bad = (~torch.isfinite(loss)).float()
            self._found_inf = bad if self._found_inf is None else torch.maximum(self._found_inf, bad)
            self.optimizer.found_inf = self._found_inf  # type: ignore[attr-defined]
        elif not math.isfinite(value := loss.item()):
            self._refuse(value, gan)

    def check_finite(self, gan: GAN) -> None:
        """Raises if a step had to be skipped (devices on which the guard does not sync), or if a finite loss had a
        gradient that was not."""
        if self._found_inf is not None and bool(self._found_inf):
            self._refuse(float("nan"), gan)
        if not math.isfinite(norm := nn.utils.get_total_norm(self.parameters).item()):
            self._raise(f"the norm of the {self.name}'s weights became {norm}", gan)

    def _refuse(self, value: float, gan: GAN) -> None:
        self._raise(f"the {self.name}'s loss became {value}", gan, "; its weights were not updated with it")

    def _raise(self, what: str, gan: GAN, consequence: str = "") -> None:
        raise NonFinite(
            f"{what} at {gan.images_seen:,} images (D step {gan.d_steps:,}, G step {gan.g_steps:,}){consequence}. "
            f"Lower optimizer.{self.name}.lr, set optimizer.clip_norm.{self.name}, or try another loss"
        )

    def step(self, gan: GAN) -> None:
        """Updates the parameters with the accumulated gradient and forgets it."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if gan.world_size > 1:
            average_over_processes(gradients if self._found_inf is None else [*gradients, self._found_inf])
            if self._found_inf is not None:
                self._found_inf.ceil_()  # a bad loss of one process keeps all of them from the step
        if self.clip_norm is not None or gan.measure_gradients:
            norm = nn.utils.get_total_norm(gradients)
            if self.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
            if gan.measure_gradients:
                gan.gradient_norms[f"gradient_norm/{self.name}"] = norm
        factor = gan.lr_factor()
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * factor
            if gan.scheduled.beta1 is not None:
                group["betas"] = (gan.scheduled.beta1, *group["betas"][1:])
            if gan.scheduled.beta2 is not None:
                group["betas"] = (group["betas"][0], gan.scheduled.beta2)
        self.optimizer.step()
        gan.conversions.forget(self.parameters)
        for parameter in self.parameters:  # as zero_grad does, without its profiling
            parameter.grad = None

    @torch.no_grad()
    def clip_weights(self, limit: float) -> None:
        """Clamps every parameter to [-limit, limit] (Arjovsky et al. 2017, algorithm 1)."""
        torch._foreach_clamp_min_(self.parameters, -limit)
        torch._foreach_clamp_max_(self.parameters, limit)


def average_over_processes(tensors: list[Tensor]) -> None:
    """Replaces each tensor by its mean over all processes: one all-reduce for all of them."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
