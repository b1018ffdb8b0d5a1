"""What the trials of a search choose: Optuna's samplers over our parameters, with a seed for each trial.

A sampler is built anew for each trial, so what it suggests depends on the seed, the trial's number and the results in
the study alone, not on which process asks, or on how often it was killed.
"""

import inspect
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gan_lab.errors import ConfigError
from gan_lab.sweep.space import Parameter, grid, holds, value_of
from gan_lab.sweep.storage import first_line

if TYPE_CHECKING:
    import optuna

EXHAUSTIVE = ("optuna.samplers.GridSampler", "optuna.samplers.BruteForceSampler")
"""Samplers that try every combination: we hand them out ourselves, each once, however many work at the same time."""


def need_optuna() -> None:
    """ConfigError where Optuna is not installed."""
    if find_spec("optuna") is None:
        raise ConfigError("hydra/sweeper=optuna needs the package optuna: pip install 'gan_lab[optuna]'")


class Suggester:
    """Chooses values of `parameters`; `sampler` is a component (keys with _target_) of Optuna's."""

    def __init__(self, parameters: Sequence[Parameter], sampler: Mapping[str, Any], seed: int, num_objectives: int):
        self.parameters = {one.key: one for one in parameters}
        self._choices = {one.key: _choices(one) for one in parameters if one.values is not None}
        self._node = sampler
        self._seed = seed
        if sampler.get("seed") is not None:
            raise ConfigError("hydra.sweeper.sampler.seed: set hydra.sweeper.seed, from which each trial gets its own")
        if str(sampler.get("_target_")).endswith(".CmaEsSampler"):
            _check_cmaes(num_objectives)
        with quiet():
            self.sampler(0)
        self.combinations: list[dict[str, Any]] | None = None
        """What a sampler that tries everything tries, as the study has it: a list for all trials; None: no such one."""
        if sampler["_target_"] in EXHAUSTIVE:
            combinations = grid(parameters)
            random.Random(0).shuffle(combinations)  # one that is stopped early has seen a bit of all
            self.combinations = [
                {key: self._stored(key, text) for key, text in texts.items()} for texts in combinations
            ]

    def _stored(self, key: str, text: str) -> Any:
        values = self.parameters[key].values
        return value_of(text) if values is None else self._choices[key][values.index(text)]

    def sampler(self, run: int, index: int = 0) -> Any:
        """The sampler as new, seeded for a run's parameter of this index; 0: for those that are drawn together."""
        from optuna.samplers import RandomSampler

        seed = _seed(self._seed, run, index)
        given: dict[str, Any] = {"seed": seed}
        if self._node.get("_target_") in EXHAUSTIVE:
            return RandomSampler(seed)
        if self._node.get("_target_") == "optuna.samplers.QMCSampler":  # all trials are points of one sequence
            given = {"seed": self._seed, "independent_sampler": RandomSampler(seed)}
        node = {key: value for key, value in self._node.items() if key != "seed"}
        return build(node, "hydra.sweeper.sampler", given)

    def suggest(self, trial: "optuna.Trial", run: int) -> dict[str, Any]:
        """Texts of choices and numbers by key, stored in the trial; what it has already (of a killed worker) stays."""
        known = {**trial.storage.get_trial_system_attrs(trial._trial_id).get("fixed_params", {}), **trial.params}
        chosen: dict[str, Any] = {}
        are_joint_ones_drawn = False
        for index, one in enumerate(self.parameters.values()):
            if not holds(one, chosen):
                continue
            if one.key not in known:
                if not are_joint_ones_drawn:
                    _ = trial.relative_params  # drawn once, and before all that are drawn alone
                    are_joint_ones_drawn = True
                # A seed for each, so that it does not matter which were drawn before.
                trial.study.sampler = self.sampler(run, index + 1)
            chosen[one.key] = self._suggested(trial, one)
        return chosen

    def _suggested(self, trial: "optuna.Trial", one: Parameter) -> Any:
        if one.values is not None:
            choices = self._choices[one.key]
            return one.values[choices.index(trial.suggest_categorical(one.key, choices))]
        assert one.low is not None
        assert one.high is not None
        step = None if one.step is None else abs(one.step)
        if one.integer:
            return trial.suggest_int(one.key, int(one.low), int(one.high), step=int(step or 1), log=one.log)
        value = trial.suggest_float(one.key, one.low, one.high, step=step, log=one.log)
        if step is None:
            return value
        low, exact = Decimal(str(one.low)), Decimal(str(step))  # 0.3, not 0.30000000000000004
        return float(low + round((Decimal(value) - low) / exact) * exact)


def _check_cmaes(num_objectives: int) -> None:
    try:
        import cmaes  # noqa: F401
    except ImportError as error:
        raise ConfigError("hydra/sweeper/sampler=cmaes needs the package cmaes: pip install cmaes") from error
    if num_objectives > 1:
        raise ConfigError("hydra/sweeper/sampler=cmaes searches for one objective; use nsga2 for several")


def _seed(seed: int, run: int, index: int) -> int:
    digest = blake2b(f"{seed}/{run}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**31


def _choices(parameter: Parameter) -> list[Any]:
    """The values of a choice as the study has them: as numbers and texts where Optuna can tell them apart."""
    assert parameter.values is not None
    values = [value_of(text) for text in parameter.values]
    plain = [
        value if value is None or isinstance(value, str | int | float) else text
        for value, text in zip(values, parameter.values, strict=True)
    ]
    distinct = all(one != other for index, one in enumerate(plain) for other in plain[:index])
    return plain if distinct else list(parameter.values)


def build(node: Mapping[str, Any], key: str, given: Mapping[str, Any] | None = None) -> Any:
    """What a component of Optuna's names; `given` are arguments that it gets where it takes them."""
    from hydra.utils import get_object

    if "_target_" not in node:
        raise ConfigError(f"{key} has no _target_ (such as optuna.samplers.TPESampler)")
    try:
        target = get_object(node["_target_"])
    except Exception as error:  # whatever the module of another package does while it is imported
        raise ConfigError(f"{key}._target_={node['_target_']} cannot be imported: {first_line(error)}") from error
    arguments = {
        name: build(value, f"{key}.{name}") if isinstance(value, Mapping) and "_target_" in value else value
        for name, value in node.items()
        if not name.startswith("_")
    }
    accepted = inspect.signature(target).parameters
    extra = {name: value for name, value in (given or {}).items() if name in accepted and name not in arguments}
    try:
        return target(**arguments, **extra)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {first_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings: Optuna has one for each feature whose interface may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
