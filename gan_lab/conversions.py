"""Other forms of weights, such as a convolution's matrix: kept until the weights change, not made in each pass.

In lower precision, `autocast` keeps copies of its own as long as its outermost context lasts.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

Form = TypeVar("Form")


class Forms(NamedTuple):
    """Of one weight, by what they are for. before: those of the weight as it was, where there are none of it now."""

    weight: Tensor
    version: int
    now: dict[Hashable, Any]
    before: dict[Hashable, Any]

    def outdated(self) -> "Forms":
        return Forms(self.weight, self.weight._version, {}, self.before | self.now)


class Conversions:
    """The forms of all weights. A copy of it, or one from a file, is empty."""

    def __init__(self) -> None:
        self.known: dict[int, Forms] = {}  # by the weight's id

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
        """Of weights that have changed; optimizers' fused kernels leave no other sign of it.

        No backward pass through what was made of them before may follow: its memory may be another form's.
        """
        torch.clear_autocast_cache()
        if self.known:
            for key in map(id, weights):
                if key in self.known:
                    self.known[key] = self.known[key].outdated()


class _InUse(threading.local):
    conversions: Conversions | None = None


_in_use = _InUse()


def kept(weight: Tensor, what_for: Hashable, make: Callable[[Form | None], Form]) -> Form:
    """What `make` made of this weight for the same since the weight changed, or makes now.

    `make` is given what it made of the weight as it was, whose memory it may use, or None. Those who share a form share
    its graph, and so one conversion of the gradient: there may be several backward passes, so the graph must keep no
    tensors. What is no parameter, as a weight that spectral_norm computes in each pass, would not be known again: it is
    not kept, nor is anything in compiled code.
    """
    if torch.compiler.is_compiling() or _in_use.conversions is None or not isinstance(weight, Parameter):
        return make(None)
    known = _in_use.conversions.known
    forms = known.get(id(weight))
    if forms is None or forms.weight is not weight:
        forms = known[id(weight)] = Forms(weight, weight._version, {}, {})
    elif forms.version != weight._version:
        forms = known[id(weight)] = forms.outdated()
    if what_for not in forms.now:
        with torch.enable_grad():  # others may need the graph
            forms.now[what_for] = make(forms.before.pop(what_for, None))
    return forms.now[what_for]
