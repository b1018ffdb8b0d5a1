"""The networks' passes as the training step calls them: as they are, or compiled where that is safe."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

Compile = Literal["none", "inductor", "cuda_graphs"]
Call = Callable[[Tensor], Tensor]


def _nothing() -> None:
    """What eager passes need at the beginning of a cycle."""


class Calls(NamedTuple):
    """generate: G(latents). judge: D(samples) in D's step. judge_frozen: D(samples) in G's step, where `backward` is
    asked for G's gradients alone. begin_cycle: to be called before each cycle."""

    generate: Call
    judge: Call
    judge_frozen: Call
    begin_cycle: Callable[[], None] = _nothing


def calls_of(generator: nn.Module, discriminator: nn.Module, how: Compile, has_penalties: bool) -> Calls:
    """The passes through both networks, by `accelerator.compile`.

    none: the modules themselves. inductor: `torch.compile`, which has no double backward: with penalties D's step stays
    as it is. cuda_graphs: the same, with the kernels of a pass launched as one.
    """
    if how == "none":
        return Calls(generator, discriminator, discriminator)
    settings: dict[str, Any] = {
        "dynamic": False,
        # Dropout draws what it draws without compilation.
        "options": {"fallback_random": True, "triton.cudagraphs": how == "cuda_graphs"},
    }

    def frozen(samples: Tensor) -> Tensor:
        # Compiled code computes all gradients that could be asked for: D's weights must not ask.
        weights = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        return functional_call(discriminator, weights, (samples,))

    return Calls(
        torch.compile(generator, **settings),
        discriminator if has_penalties else torch.compile(discriminator, **settings),
        torch.compile(frozen, **settings),
        torch.compiler.cudagraph_mark_step_begin if how == "cuda_graphs" else _nothing,
    )
