"""What several test files ask of torch: derivatives of both orders, and which of its functions are called."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def randn(*shape: int) -> Tensor:
    """In float64, with a gradient."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def with_derivatives(result: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The result, the derivatives of a weighed sum of its sines, and those of their squared length."""
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    first = torch.autograd.grad((weights * result.sin()).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(one.square().sum() for one in first), inputs)
    return [result, *first, *second]


def same_with_derivatives(
    fast: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: Sequence[Tensor], **options: Any
) -> Tensor:
    """The result of `fast`, after comparing it and its derivatives with those of `plain`, none of which is zero."""
    expected = with_derivatives(plain(*inputs, **options), inputs)
    assert all(one.abs().max() > 1e-3 for one in expected)
    result = fast(*inputs)
    torch.testing.assert_close(with_derivatives(result, inputs), expected, rtol=1e-10, atol=1e-10)
    return result


class FunctionsCalled(TorchDispatchMode):
    """The names of torch's functions that are called, such as aten.mm.default."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def compiled(layer: nn.Module) -> tuple[Callable[[Tensor], Tensor], list[Any]]:
    """The layer compiled as one graph, and a list of what this calls, filled in the first call."""
    seen: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    return torch.compile(layer, backend=backend, fullgraph=True), seen
