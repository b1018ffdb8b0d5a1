"""Means of what training records."""

import torch
from torch import Tensor

MOST_WAITING = 64
"""Values of one name whose own means are taken at once, with kernels that many of them share."""


class Means:
    """The mean of the means of all values of each name; values of a name have one shape. They stay on their device.

    A value must not be overwritten later: only after some more of them is its mean taken.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Tensor]] = {}
        self._taken: dict[str, list[Tensor]] = {}  # means, (num,) each

    def add(self, name: str, value: Tensor) -> None:
        waiting = self._waiting.setdefault(name, [])
        whole = value.untyped_storage().nbytes() == value.nbytes
        waiting.append(value.detach() if whole else value.detach().clone())  # not to keep what it is a part of
        if len(waiting) == MOST_WAITING:
            self._take(name)

    def _take(self, name: str) -> None:
        if waiting := self._waiting.get(name):
            values = torch.stack(waiting).view(len(waiting), -1)
            self._taken.setdefault(name, []).append(values.to(torch.promote_types(values.dtype, torch.float32)).mean(1))
            self._waiting[name] = []

    def state(self) -> dict[str, Tensor]:
        """Each value's mean, (num,), by name."""
        for name in self._waiting:
            self._take(name)
        return {name: torch.cat(parts) for name, parts in self._taken.items()}

    def load_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        self._waiting, self._taken = {}, {name: [values.to(device)] for name, values in state.items()}

    def pop(self) -> tuple[list[str], Tensor]:
        """All names and their means (num names,) in float64; the next begin anew."""
        state = self.state()
        self._waiting, self._taken = {}, {}
        return list(state), torch.stack([values.double().mean() for values in state.values()])
