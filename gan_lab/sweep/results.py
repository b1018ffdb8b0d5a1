"""What a sweep ends with: the best runs, the command and the experiment file that repeat them, and the report."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import yaml

from gan_lab.compose import Composer, parsed, train_command
from gan_lab.config import plain
from gan_lab.errors import RunError
from gan_lab.files import replacing
from gan_lab.objectives import Direction
from gan_lab.sweep.plan import Plan
from gan_lab.sweep.trials import Trial, read_trial

log = logging.getLogger(__name__)


class Counts(NamedTuple):
    """Trials by how they ended."""

    finished: int
    pruned: int
    failed: int

    @property
    def ended(self) -> int:
        return sum(self)


def _trials(sweep_dir: Path, num_trials: int) -> list[dict[str, Any]]:
    """trial.json of each trial that has been started."""
    found = (read_trial(sweep_dir / str(number)) for number in range(num_trials))
    return [content for content in found if content is not None]


def counts(plan: Plan) -> Counts:
    statuses = [trial["status"] for trial in _trials(plan.sweep_dir, plan.num_trials)]
    return Counts(*(statuses.count(status) for status in Counts._fields))


class Best(NamedTuple):
    """A configuration that has won: the best of its trials (by the first objective), and each objective's mean over
    its seeds."""

    trial: Mapping[str, Any]
    values: dict[str, float]
    num_seeds: int

    def __str__(self) -> str:
        own = _in_words({name: self.trial["values"][name] for name in self.values})
        if self.num_seeds == 1:
            return own
        return f"{own}; its configuration's mean over {self.num_seeds} seeds: {_in_words(self.values)}"


def _in_words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.5g}" for name, value in values.items())


def best_of(trials: Sequence[Mapping[str, Any]], objectives: Mapping[str, Direction]) -> list[Best]:
    """The best configuration by its mean, trials that differ in their seed alone being one and each seed counted once;
    of several objectives, each that no other beats in all (the Pareto front)."""
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for trial in trials:
        if trial["status"] == "finished" and trial["values"]:
            choices = {key: value for key, value in trial["params"].items() if key != "seed"}
            groups.setdefault(repr(choices), {}).setdefault(repr(trial["params"].get("seed")), trial)
    found = []
    for group in (list(by_seed.values()) for by_seed in groups.values()):
        first = next(iter(objectives))
        pick = min if objectives[first] == "minimize" else max
        means = {name: fmean(trial["values"][name] for trial in group) for name in objectives}
        found.append(Best(pick(group, key=lambda trial: trial["values"][first]), means, len(group)))

    def losses(best: Best) -> list[float]:
        return [value if objectives[name] == "minimize" else -value for name, value in best.values.items()]

    def beaten(best: Best) -> bool:
        mine = losses(best)
        return any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in map(losses, found)
        )

    front = [best for best in found if not beaten(best)]
    return front[:1] if len(objectives) == 1 else front


def summarise(plan: Plan) -> None:
    """Says what has won, and writes the experiment file and the report."""
    trials = _trials(plan.sweep_dir, plan.num_trials)
    number = counts(plan)
    log.info(f"{number.finished} runs finished, {number.pruned} pruned, {number.failed} failed")
    best = best_of(trials, plan.objectives) if plan.objectives else []
    for one in best:
        trial = _as_trial(one.trial)
        log.info(f"best: {plan.sweep_dir / str(trial.number)}: {one}")
        log.info(f"  again: {shlex.join(train_command(plan.overrides(trial), plan.config_dir))}")
    if len(best) == 1:
        _write_experiment(plan, best[0])
    _write_report(plan.sweep_dir)


def _as_trial(content: Mapping[str, Any]) -> Trial:
    return Trial(content["number"], content["overrides"], content["params"])


def _write_report(sweep_dir: Path) -> None:
    from gan_lab.report import report

    try:
        for path in report([sweep_dir]):
            log.info(f"report: {path}")
    except Exception as error:  # a missing package, a full disk: the sweep is done all the same
        log.warning(f"no report: {error}")


def _write_experiment(plan: Plan, best: Best) -> None:
    """conf/experiment/best.yaml in the sweep's directory: its configuration as an experiment of one's own."""
    trial = _as_trial(best.trial)
    path = plan.sweep_dir / "conf" / "experiment" / "best.yaml"
    composer = Composer(plan.config_dir)
    text = experiment_file(
        composer, plan.overrides(trial), f"The best of {plan.num_trials} runs (run {trial.number}): {best}"
    )
    with replacing(path) as file:
        file.write(text.encode())
    again = plain(Composer(plan.config_dir, str(path.parents[1])).compose(["experiment=best"]))
    wanted = plain(Composer(plan.config_dir).compose([*map(composer.forced, plan.overrides(trial))]))
    again.pop("name"), wanted.pop("name")
    if again != wanted:
        path.unlink()
        raise RunError(f"the best run's configuration cannot be written as an experiment file: {plan.overrides(trial)}")
    command = shlex.join(train_command(["experiment=best"], plan.config_dir or str(path.parents[1])))
    place = "" if plan.config_dir is None else f", with {path} in {plan.config_dir}/experiment"
    log.info(f"  as an experiment file: {command}{place}")


def experiment_file(composer: Composer, overrides: Sequence[str], comment: str) -> str:
    """An experiment file, ready for conf/experiment/, that says what the overrides say."""
    defaults: list[Any] = []
    values: dict[str, Any] = {}
    for text in overrides:
        override = parsed(text)
        key, value = override.key_or_group, override.value()
        if key in ("experiment", "sweep"):
            if key == "experiment" and value is not None:
                defaults.insert(0, str(value))
        elif composer.is_group(key):
            defaults.append({f"override /{key}": value})
        else:
            node = values
            *parents, last = key.split(".")
            for part in parents:
                node = node.setdefault(part, {})
            node[last] = value
    body = ({"defaults": [*defaults, "_self_"]} if defaults else {}) | values
    return f"# @package _global_\n# {comment}\n{yaml.safe_dump(body, sort_keys=False, default_flow_style=False)}"
