"""Optimizers and the learning-rate schedule, with every default stated here and in conf/optimizer/."""

import math
from collections.abc import Callable, Iterable
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
    make = FusedAdam if fused else torch.optim.Adam
    return make(parameters, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fused)


class FusedAdam(torch.optim.Adam):
    """torch's fused Adam, which keeps the lists of tensors that its kernel takes; without amsgrad and maximize.

    torch makes the lists anew in every step, parameter by parameter: that, and the frame around a step for profilers
    and hooks, take longer than the kernel where networks are small. Steps in which there is more to do, as the first,
    are torch's own. Hooks on steps are not to be relied on.
    """

    _kept: tuple[list[Tensor], list[Tensor], list[Tensor], Tensor] | None = None
    """First and second moments and step counts of all parameters, once each has some; and the counts as one tensor."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        group = self.param_groups[0]
        parameters = group["params"]
        gradients = [parameter.grad for parameter in parameters]
        more = closure is not None or len(self.param_groups) > 1 or getattr(self, "grad_scale", None) is not None
        if more or any(gradient is None for gradient in gradients):
            return super().step(closure)
        if self._kept is None or self.state[parameters[0]].get("exp_avg") is not self._kept[0][0]:
            super().step()  # the first one, or with a state that was loaded or moved
            states = [self.state[parameter] for parameter in parameters]
            first, second, steps = ([one[key] for one in states] for key in ("exp_avg", "exp_avg_sq", "step"))
            counts = torch.stack(steps)  # one addition counts for all
            for state, count in zip(states, counts.unbind(), strict=True):
                state["step"] = count
            self._kept = first, second, [state["step"] for state in states], counts
            return None
        first, second, steps, counts = self._kept
        found_inf = getattr(self, "found_inf", None)  # on the parameters' device
        counts += 1
        torch._fused_adam_(
            *(parameters, gradients, first, second, [], steps),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            found_inf=found_inf,
        )
        if found_inf is not None:
            counts -= found_inf
        return None

    step.hooked = True  # type: ignore[attr-defined]  # else torch puts that frame around it


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
