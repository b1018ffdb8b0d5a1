"""What a sweep searches: Hydra's override syntax, read as parameters with ranges, choices and conditions.

The syntax keeps the meaning it has for Hydra's own sweepers:

    loss=vanilla,hinge             choice(...) is the same; sort(...) and shuffle(...) order the values of a grid
    model.depth=range(1,5)         1, 2, 3, 4: numbers a step apart, the end excluded
    optimizer.lr=interval(1e-5,1e-3)            any number between the two; with tag(log,interval(...)) on a log scale
    model.width=int(interval(16,256))           the same in integers, both ends included

A condition (`when`) lets a parameter exist only in trials that have chosen some value of another one.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import Any

from gan_lab.compose import parsed
from gan_lab.errors import ConfigError
from gan_lab.names import nearest


@dataclass(frozen=True)
class Parameter:
    """One key that a sweep varies: `values` as override texts, or the numbers from `low` to `high`, both included.

    step: numbers are so far apart; negative where a grid goes from high to low; None: an interval. when: the
    conditions "key=value,value" that must all hold. prefix: + or ++, of a key that the configuration has not.
    """

    key: str
    values: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    integer: bool = False
    when: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def is_interval(self) -> bool:
        return self.values is None and self.step is None

    def texts(self) -> tuple[str, ...]:
        """All its values as override texts, in the order of a grid; only of one that is no interval."""
        if self.values is not None:
            return self.values
        assert self.low is not None
        assert self.high is not None
        assert self.step is not None
        first = self.low if self.step > 0 else self.high
        count = int((_exact(self.high) - _exact(self.low)) / abs(_exact(self.step))) + 1
        numbers = [_exact(first) + index * _exact(self.step) for index in range(count)]
        return tuple(text_of(int(number) if self.integer else float(number)) for number in numbers)


def _exact(number: float) -> Decimal:
    """0.1 as 0.1, not as the binary fraction next to it."""
    return Decimal(str(number))


def text_of(value: Any) -> str:
    """A value as it stands behind the = of an override; a text is one already."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def value_of(text: str) -> Any:
    """What an override's text means to Hydra: a number, a truth value, a text, a list, ..."""
    return parsed(f"value={text}").value()


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


# ---------------------------------------------------------------------- reading


def parse_space(
    texts: Sequence[str], params: Mapping[str, Any] | None = None, when: Mapping[str, Any] | None = None
) -> tuple[list[str], list[Parameter]]:
    """(the overrides that all trials share, the parameters); ConfigError with everything wrong.

    texts: overrides as typed; they take the place of those of the same key in `params` (hydra.sweeper.params).
    when: the conditions of keys, as {"loss.penalty.weight": "loss=wgan_gp"} or a list of such. A key with a condition
    that is not swept is set only where the condition holds. Conditions come before what depends on them.
    """
    problems: list[str] = []
    found: dict[str, Parameter | str] = {}  # by key: a later one takes the place of an earlier one, as in Hydra
    for text in [*(f"{key}={text_of(value)}" for key, value in _flat(params or {})), *texts]:
        try:
            override = parsed(text)
            found[_key(override)] = _parameter(override, text) if override.is_sweep_override() else text
        except ConfigError as error:
            problems += error.problems
    conditions = _conditions(when or {}, found, problems)
    if problems:
        raise ConfigError(problems)
    return _resolved(found, conditions)


def _flat(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(key, value) of the leaves: `a.b: 1` and `a: {b: 1}` are the same."""
    leaves: list[tuple[str, Any]] = []
    for key, value in node.items():
        leaves += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return leaves


def _key(override: Any) -> str:
    key = override.get_key_element()
    return key if override.is_delete() else key.lstrip("+")


def _parameter(override: Any, text: str) -> Parameter:
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep

    key, prefix = _key(override), "+" * override.get_key_element().count("+")
    if override.is_hydra_override():
        raise ConfigError(f"{text}: settings of Hydra are those of the whole sweep; give one value")
    sweep = override.value()
    if not isinstance(sweep, ChoiceSweep | RangeSweep | IntervalSweep):
        raise ConfigError(f"{text}: glob() is not understood; name the values: {key}=a,b,c")
    if unknown := sorted(sweep.tags - {"log"}):
        raise ConfigError(f"{text}: unknown tag {unknown[0]}; the only one is log, of intervals")
    if isinstance(sweep, IntervalSweep):
        return _interval(sweep, key, prefix, text)
    if sweep.tags:
        raise ConfigError(f"{text}: tag(log, ...) is for intervals: {key}=tag(log,interval(a,b))")
    if isinstance(sweep, RangeSweep):
        parameter = _range(sweep, key, prefix, text)
        if not sweep.shuffle:
            return parameter
        values = list(parameter.texts())
    else:
        values = [override._get_value_element_as_str(value) for value in sweep.list]
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise ConfigError(f"{text} names {twice} twice")
    if sweep.shuffle:  # the same order whenever the command is repeated
        random.Random(text).shuffle(values)
    return Parameter(key, tuple(values), prefix=prefix)


def _interval(sweep: Any, key: str, prefix: str, text: str) -> Parameter:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if not low < high:
        raise ConfigError(f"{text}: the first end must be below the second")
    if log and low <= 0:
        raise ConfigError(f"{text}: on a log scale the ends must be above 0")
    integer = isinstance(low, int) and isinstance(high, int)
    return Parameter(key, low=low, high=high, log=log, integer=integer, prefix=prefix)


def _range(sweep: Any, key: str, prefix: str, text: str) -> Parameter:
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if step == 0:
        raise ConfigError(f"{text}: the step must not be 0")
    span = (_exact(stop) - _exact(start)) / _exact(step)
    if span <= 0:
        raise ConfigError(f"{text}: the range is empty")
    integer = all(isinstance(number, int) for number in (start, stop, step))
    last = _exact(start) + _exact(step) * (int(span) - (span == int(span)))  # the end is not in the range
    low, high = sorted((start, int(last) if integer else float(last)))
    if not integer:
        low, high, step = float(low), float(high), float(step)
    return Parameter(key, low=low, high=high, step=step, integer=integer, prefix=prefix)


# ---------------------------------------------------------------------- conditions


@cache
def _condition(text: str) -> tuple[str, tuple[str, ...]]:
    """(key, the texts of its values) of a condition such as "loss=wgan_gp,wgan_div"."""
    override = parsed(text)
    if override.is_delete() or not (override.is_choice_sweep() or not override.is_sweep_override()):
        raise ConfigError(f"{text}: expected key=value or key=value,value")
    if not override.is_sweep_override():
        return _key(override), (override.get_value_element_as_str(),)
    if not hasattr(override.value(), "list"):
        raise ConfigError(f"{text}: glob() is not understood; name the values")
    return _key(override), tuple(override.sweep_string_iterator())


def _conditions(
    when: Mapping[str, Any], found: Mapping[str, "Parameter | str"], problems: list[str]
) -> dict[str, list[str]]:
    """The conditions of each key in one form; what is wrong with them is added to the problems."""
    conditions: dict[str, list[str]] = {}
    for key, given in _flat(when):
        if key not in found:
            problems.append(f"when.{key}: {key} is neither searched nor set; {nearest(key, list(found))}")
            continue
        for text in [given] if isinstance(given, str) else given:
            try:
                other, values = _condition(str(text))
            except ConfigError as error:
                problems += [f"when.{key}: {problem}" for problem in error.problems]
                continue
            if other == key or other not in found:
                known = [name for name in found if name != key]
                problems.append(f"when.{key}={text}: {other} is neither searched nor set; {nearest(other, known)}")
                continue
            of = found[other]
            if isinstance(of, Parameter):
                problems += [f"when.{key}={text}: {problem}" for problem in _never(of, values)]
            conditions.setdefault(key, []).append(f"{other}={','.join(values)}")
    return conditions


def _never(parameter: Parameter, values: Sequence[str]) -> list[str]:
    """Why a condition on the parameter cannot hold, for each value that it never has."""
    key = parameter.key
    if parameter.is_interval and not parameter.integer:
        return [f"{key} is searched in an interval, and a condition names values"]
    if parameter.is_interval:
        inside = range(int(parameter.low or 0), int(parameter.high or 0) + 1)
        return [
            f"{key} is never {text}; it is searched between {inside[0]} and {inside[-1]}"
            for text in values
            if value_of(text) not in inside
        ]
    texts = parameter.texts()
    missing = [text for text in values if not any(_same(value_of(text), value_of(other)) for other in texts)]
    return [f"{key} is never {text}; {nearest(text, texts)}" for text in missing]


def _resolved(
    found: Mapping[str, "Parameter | str"], conditions: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[Parameter]]:
    """The fixed overrides and the parameters, each after those that its conditions name.

    A condition on a key that is fixed holds or not, once and for all.
    """
    fixed = [text for key, text in found.items() if isinstance(text, str) and key not in conditions]
    waiting = {key: one for key, one in found.items() if isinstance(one, Parameter) or key in conditions}
    dropped: set[str] = set()
    parameters: list[Parameter] = []
    while waiting:
        needs = {key: {_condition(text)[0] for text in conditions.get(key, ())} for key in waiting}
        key = next((key for key in waiting if not needs[key] & waiting.keys()), None)
        if key is None:
            raise ConfigError(f"when: {' and '.join(waiting)} depend on each other")
        one = waiting.pop(key)
        left = []
        for text in conditions.get(key, ()):
            other, values = _condition(text)
            of = found[other]
            if other in dropped:
                dropped.add(key)
            elif isinstance(of, str) and other not in conditions:
                if not any(_same(parsed(of).value(), value_of(value)) for value in values):
                    dropped.add(key)
            else:
                left.append(text)
        if key in dropped:
            continue
        if isinstance(one, Parameter):
            parameters.append(replace(one, when=tuple(left)))
        elif left:
            override = parsed(one)
            if override.is_delete():
                raise ConfigError(f"when.{key}: {one} removes a key, which cannot depend on a condition")
            prefix = "+" * override.get_key_element().count("+")
            parameters.append(Parameter(key, (override.get_value_element_as_str(),), when=tuple(left), prefix=prefix))
        else:
            fixed.append(one)
    return fixed, parameters


def holds(parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
    """Whether a trial that has chosen these (override texts, or numbers, by key) has this parameter at all."""
    for text in parameter.when:
        key, values = _condition(text)
        if key not in chosen:
            return False
        value = value_of(text_of(chosen[key]))
        if not any(_same(value, value_of(other)) for other in values):
            return False
    return True


# ---------------------------------------------------------------------- writing


def overrides_of(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> list[str]:
    """The overrides of a trial that has chosen these (override texts, or numbers, by key), of conditional parameters
    only those that it has."""
    chosen: dict[str, str] = {}
    for one in parameters:
        if one.key in values and holds(one, chosen):
            chosen[one.key] = text_of(values[one.key])
    return [f"{one.prefix}{one.key}={chosen[one.key]}" for one in parameters if one.key in chosen]


def grid(parameters: Sequence[Parameter]) -> list[dict[str, str]]:
    """All combinations, the last parameter varying fastest, as texts by key; ConfigError where there is an interval."""
    if problems := [
        f"{one.prefix}{one.key}=interval({text_of(one.low)},{text_of(one.high)}): a grid has values, not intervals; "
        f"name them ({one.key}=a,b,c), or search the interval with hydra/sweeper=optuna"
        for one in parameters
        if one.is_interval
    ]:
        raise ConfigError(problems)
    combinations: dict[tuple[tuple[str, str], ...], None] = {}  # ordered, each once
    for texts in itertools.product(*(one.texts() for one in parameters)):
        chosen: dict[str, str] = {}
        for one, text in zip(parameters, texts, strict=True):
            if holds(one, chosen):
                chosen[one.key] = text
        combinations[tuple(chosen.items())] = None
    return [dict(items) for items in combinations]
