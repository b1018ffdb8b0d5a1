"""Optimizers and the learning-rate schedule, with every default stated here and in conf/optimizer/."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from gan_lab.constraints import Decay, NonNegativeFloat, PositiveFloat

Schedule = Literal["constant", "linear", "cosine"]


def adam(
    parameters: Iterable[Parameter],
    *,
    lr: PositiveFloat,
    betas: tuple[Decay, Decay] = (0.5, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2015), fused into one kernel a step on CPU and CUDA; weight_decay is the L2 form."""
    parameters = list(parameters)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    return torch.optim.Adam(
        parameters, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fused
    )


def rmsprop(
    parameters: Iterable[Parameter],
    *,
    lr: PositiveFloat,
    alpha: Decay = 0.99,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.RMSprop:
    """RMSprop without centring or momentum, all parameters at once (foreach)."""
    return torch.optim.RMSprop(
        list(parameters), lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=0.0, foreach=True
    )


def lr_factor(schedule: Schedule, progress: float) -> float:
    """What the base learning rate is multiplied by when `progress` (0 to 1) of the budget is used.

    constant: 1; linear: 1 - progress; cosine: (1 + cos(pi * progress)) / 2. Past the budget it stays at the end value.
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def unique_parameters(modules: Iterable[torch.nn.Module]) -> list[Tensor]:
    """The trainable parameters of the modules, each once even where modules share it."""
    seen: dict[int, Tensor] = {}
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                seen[id(parameter)] = parameter
    return list(seen.values())
