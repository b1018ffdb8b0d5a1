"""What a sweep ends with: the best runs, the command and the experiment file that repeat them, and the report."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gan_lab.compose import Composer, parsed
from gan_lab.config import plain
from gan_lab.errors import ConfigError, RunError
from gan_lab.files import replacing
from gan_lab.sweep.plan import Direction, Plan
from gan_lab.sweep.trials import Trial, read_trial
from gan_lab.sweep.worker import shell_command

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


def best_of(trials: Sequence[Mapping[str, Any]], objectives: Mapping[str, Direction]) -> list[Mapping[str, Any]]:
    """The best finished trial; of several objectives, every one that no other beats in all (the Pareto front)."""
    done = [trial for trial in trials if trial["status"] == "finished" and trial["values"]]

    def losses(trial: Mapping[str, Any]) -> list[float]:
        return [value if objectives[name] == "minimize" else -value for name, value in trial["values"].items()]

    def beaten(trial: Mapping[str, Any]) -> bool:
        mine = losses(trial)
        return any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in map(losses, done)
        )

    front = [trial for trial in done if not beaten(trial)]
    return front[:1] if len(objectives) == 1 else front


def summarise(plan: Plan) -> None:
    """Says what has won, and writes the experiment file and the report."""
    trials = _trials(plan.sweep_dir, plan.num_trials)
    number = counts(plan)
    log.info(f"{number.finished} runs finished, {number.pruned} pruned, {number.failed} failed")
    best = best_of(trials, plan.objectives) if plan.objectives else []
    for entry in best:
        values = ", ".join(f"{name} {value:.5g}" for name, value in entry["values"].items())
        trial = Trial(entry["number"], entry["overrides"], entry["params"])
        log.info(f"best: {plan.sweep_dir / str(trial.number)}: {values}")
        log.info(f"  again: {shell_command(plan.overrides(trial))}")
    if len(best) == 1:
        _write_experiment(plan, best[0])
    _write_report(plan.sweep_dir)


def _write_report(sweep_dir: Path) -> None:
    from gan_lab.report import report

    try:
        for path in report([sweep_dir]):
            log.info(f"report: {path}")
    except ConfigError as error:  # a package that plots is missing
        log.info(f"no report: {error}")


def _write_experiment(plan: Plan, entry: Mapping[str, Any]) -> None:
    """conf/experiment/best.yaml in the sweep's directory: its configuration as an experiment of one's own."""
    trial = Trial(entry["number"], entry["overrides"], entry["params"])
    path = plan.sweep_dir / "conf" / "experiment" / "best.yaml"
    values = ", ".join(f"{name} {value:.5g}" for name, value in entry["values"].items())
    composer = Composer(plan.config_dir)
    text = experiment_file(
        composer, plan.overrides(trial), f"The best of {plan.num_trials} runs (run {trial.number}): {values}"
    )
    with replacing(path) as file:
        file.write(text.encode())
    search = f"hydra.searchpath=[file://{path.parents[1].resolve()}]"
    again = plain(Composer(plan.config_dir).compose([search, "experiment=best"]))
    wanted = plain(Composer(plan.config_dir).compose([*map(composer.forced, plan.overrides(trial))]))
    again.pop("name"), wanted.pop("name")
    if again != wanted:
        path.unlink()
        raise RunError(f"the best run's configuration cannot be written as an experiment file: {plan.overrides(trial)}")
    log.info(f"  as an experiment file: gan-lab train --config-dir {path.parents[1]} experiment=best")


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
