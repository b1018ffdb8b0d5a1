"""What the trials of a sweep say about its parameters."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gan_lab.objectives import Direction
from gan_lab.report.runs import Run, Sweep
from gan_lab.report.settings import shown
from gan_lab.tolerant import is_number, mapping

FEWEST_TRIALS = 8
"""Finished trials from which importances are computed; with fewer they would be chance."""

MOST_FOR_ALL_TREES = 200
"""Trials from which on the forest that explains them has fewer trees than optuna's 64."""

WIDE = 10.0
"""Values whose largest is so many times the smallest are shown, and explained, by their logarithm."""


@dataclass(frozen=True)
class Parameter:
    """A parameter whose values differ. always: whether every trial has it."""

    key: str
    is_numeric: bool
    is_log: bool
    always: bool


@dataclass
class Study:
    """A sweep with its trials that were measured alike. note: which trials were left out, if any.

    importances: objective -> parameter -> share of the variance that it explains (fANOVA); `because` says why there is
    none. by_log: the objectives that were explained by their logarithm.
    """

    sweep: Sweep
    runs: list[Run]
    objectives: dict[str, Direction]
    parameters: list[Parameter]
    importances: dict[str, dict[str, float]]
    because: str | None
    by_log: list[str]
    note: str | None

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.status == "finished" and has_values(run, self.objectives)]


def has_values(run: Run, objectives: Sequence[str] | dict[str, Direction]) -> bool:
    return bool(objectives) and all(run.value(name) is not None for name in objectives)


def study(sweep: Sweep, runs: Sequence[Run], objectives: dict[str, Direction]) -> Study | None:
    """The study of a sweep that was searched, or whose grid has two parameters and enough trials; else None."""
    cards = Counter(run.card_id for run in runs if run.card_id is not None)
    note = None
    if len(cards) > 1:
        usual = cards.most_common(1)[0][0]
        others = sum(cards.values()) - cards[usual]
        was = "1 trial was measured by another card" if others == 1 else f"{others} trials were measured by other cards"
        note = f"{was} than {usual}, and {'is' if others == 1 else 'are'} left out here."
        runs = [run for run in runs if run.card_id in (usual, None)]
    found = Study(sweep, list(runs), objectives, parameters(sweep, runs), {}, None, [], note)
    searched = sweep.content.get("kind") == "optuna"
    if not found.parameters or not found.finished:
        return None
    if not searched and (len(found.parameters) < 2 or len(found.finished) < FEWEST_TRIALS):
        return None
    _explain(found)
    return found


def parameters(sweep: Sweep, runs: Sequence[Run]) -> list[Parameter]:
    """The parameters that took at least two values."""
    entries = {entry["key"]: entry for entry in sweep.space}
    keys = dict.fromkeys([*entries, *(key for run in runs for key in run.params)])
    found = []
    for key in keys:
        values = [run.params[key] for run in runs if key in run.params]
        if len({shown(key, value) for value in values}) < 2:
            continue
        entry = mapping(entries.get(key))
        is_numeric = key != "seed" and all(is_number(value) for value in values)
        in_steps = entry.get("values") is not None or not entry  # a grid says no scale: by the factor that it spans
        spans = is_numeric and min(values) > 0 and max(values) >= WIDE * min(values)
        is_log = is_numeric and min(values) > 0 and (bool(entry.get("log")) or (in_steps and spans))
        found.append(Parameter(key, is_numeric, is_log, len(values) == len(runs)))
    return found


def is_wide(values: Sequence[float]) -> bool:
    """Whether a logarithm shows values better."""
    return len(values) > 0 and min(values) > 0 and max(values) > WIDE * min(values)


def _explain(study: Study) -> None:
    """Fills in the importances, or why there are none."""
    common = [parameter for parameter in study.parameters if parameter.always]
    if len(study.finished) < FEWEST_TRIALS:
        study.because = f"Importances need at least {FEWEST_TRIALS} finished trials; there are {len(study.finished)}."
        return
    if len(common) < 2:
        study.because = "Importances need at least two parameters that every trial has."
        return
    try:
        import optuna
    except ModuleNotFoundError:
        study.because = "Importances need the package optuna: pip install 'gan_lab[optuna]'."
        return
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        for objective in study.objectives:
            values = [run.value(objective) or 0.0 for run in study.finished]
            if len(set(values)) < 2:
                continue
            if is_wide(values):
                study.by_log.append(objective)
                values = [math.log(value) for value in values]
            study.importances[objective] = _fanova(optuna, study.finished, values, common)
    finally:
        optuna.logging.set_verbosity(before)
    if not study.importances:
        study.because = "All trials scored the same: there is nothing to explain."


def _fanova(optuna: Any, runs: Sequence[Run], values: Sequence[float], common: Sequence[Parameter]) -> dict[str, float]:
    """Parameter -> share of the variance of `values` that it explains, the largest first."""
    distributions: dict[str, Any] = {}
    columns: dict[str, list[float]] = {}
    for parameter in common:
        key = parameter.key
        column = [run.params[key] for run in runs]
        if parameter.is_numeric:
            places = [float(value) for value in column]
            low, high = min(places), max(places)
        else:
            # In alphabetic order on a line, each as long as the others, where the forest's deep trees cut each one out:
            # of Optuna's own columns, one for each choice, it goes through all combinations, 2^21 of 21 choices.
            names = [shown(key, value) for value in column]
            choices = sorted(set(names))
            places = [float(choices.index(name)) for name in names]
            low, high = -0.5, len(choices) - 0.5
        if len(set(places)) < 2:
            continue
        distributions[key] = optuna.distributions.FloatDistribution(low, high, log=parameter.is_log)
        columns[key] = places
    if not distributions:
        return {}
    rebuilt = optuna.create_study()
    for index, value in enumerate(values):
        params = {key: column[index] for key, column in columns.items()}
        rebuilt.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    num_trees = max(8, min(64, 64 * MOST_FOR_ALL_TREES // len(values)))  # else a thousand trials take a minute
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=num_trees, seed=0)
    return optuna.importance.get_param_importances(rebuilt, evaluator=evaluator)
