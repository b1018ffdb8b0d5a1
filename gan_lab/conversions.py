"""Other forms of weights, such as a convolution's matrix: kept until the weights change, not made in each pass.

In lower precision, `autocast` keeps copies of its own as long as its outermost context lasts.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

Form = TypeVar("Form")


class Conversions:
    """The forms of each weight by what they are for. A copy of it, or one from a file, is empty."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Tensor, int, dict[Hashable, Any]]] = {}  # by the weight's id: weight, version

    def __reduce__(self) -> tuple[Any, ...]:
        return Conversions, ()

    @contextmanager
    def in_use(self, device_type: str, in_lower_precision: bool) -> Iterator[None]:
        """Within, `kept` knows these forms and autocast keeps its copies. Whoever changes weights calls `forget`."""
        before, _in_use.conversions = _in_use.conversions, self
        try:
            # The outermost context clears autocast's cache.
            with torch.autocast(device_type, enabled=False) if in_lower_precision else nullcontext():
                yield
        finally:
            _in_use.conversions = before

    def forget(self, weights: Iterable[Tensor]) -> None:
        """Of weights that have changed; optimizers' fused kernels leave no other sign of it."""
        torch.clear_autocast_cache()
        if self.known:
            for weight in weights:
                self.known.pop(id(weight), None)


class _InUse(threading.local):
    conversions: Conversions | None = None


_in_use = _InUse()


def kept(weight: Tensor, what_for: Hashable, make: Callable[[], Form]) -> Form:
    """`make()`, or what it made of this weight for the same since the weight changed.

    Those who share a form share its graph, and so one conversion of the gradient: there may be several backward passes,
    so the graph must keep no tensors. What is no parameter, as a weight that spectral_norm computes in each pass, would
    not be known again: it is not kept, nor is anything in compiled code.
    """
    if torch.compiler.is_compiling() or _in_use.conversions is None or not isinstance(weight, Parameter):
        return make()
    known = _in_use.conversions.known
    entry = known.get(id(weight))
    if entry is None or entry[0] is not weight or entry[1] != weight._version:
        entry = known[id(weight)] = weight, weight._version, {}
    forms = entry[2]
    if what_for not in forms:
        with torch.enable_grad():  # others may need the graph
            forms[what_for] = make()
    return forms[what_for]
