"""A sweep from its command to its last run: plan, workers through Hydra's launcher, results."""

import hashlib
import logging
import os
import shlex
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from gan_lab.compose import Composer, given_config_dir, quoted, train_command
from gan_lab.config import check, deciding_metric, measured
from gan_lab.errors import ConfigError, Interrupted, RunError
from gan_lab.files import read_json, try_lock, write_json
from gan_lab.objectives import direction_of
from gan_lab.record import git_state, machine, now, versions
from gan_lab.signals import handled
from gan_lab.sweep.devices import default_num_jobs, hand_on_gpus
from gan_lab.sweep.monitor import Monitor
from gan_lab.sweep.plan import Plan, Settings, grid_choices, refuse_unmeasured, settings_of
from gan_lab.sweep.results import counts, summarise
from gan_lab.sweep.space import parse_space
from gan_lab.sweep.storage import without_password
from gan_lab.sweep.study import Study
from gan_lab.sweep.trials import Trials, has_ended
from gan_lab.sweep.worker import LAUNCHER, command_file, open_trials, stop_file, this_process

log = logging.getLogger(__name__)

SWEEPS = Path("outputs", "sweeps")
MOST_FRUITLESS_LAUNCHES = 3
# What only says where and how long a sweep runs: it may differ between two commands that are the same sweep.
_PLACES = (
    *("hydra.sweep.", "hydra/launcher=", "hydra.launcher.", "hydra.run.", "hydra.sweeper.n_jobs="),
    *("hydra.sweeper.num_trials=", "hydra.sweeper.runs_per_gpu=", "hydra.sweeper.num_retries="),
    *("hydra.sweeper.timeout_minutes=", "hydra.sweeper.storage="),
)


def identity(overrides: Sequence[str], config_dir: str | None) -> str:
    """A short name for what a sweep runs, equal for equal commands."""
    kept = sorted(text.lstrip("+") for text in overrides if not text.lstrip("+").startswith(_PLACES))
    if config_dir is not None:
        kept.append(f"--config-dir={os.path.abspath(config_dir)}")
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]


def unfinished(overrides: Sequence[str], config_dir: str | None) -> Path | None:
    """The directory of the newest sweep of this command that was stopped before its end, if there is one."""
    for path in sorted(SWEEPS.glob("*/sweep.json"), reverse=True):
        try:
            content = read_json(path)
        except (RunError, OSError):
            continue
        if content.get("identity") == identity(overrides, config_dir) and content.get("status") != "finished":
            with (path.parent / ".lock").open("a") as file:
                if try_lock(file):  # else it is running
                    return path.parent
    return None


def run_sweep(
    kind: Literal["grid", "optuna"],
    arguments: list[str],
    config: DictConfig,
    hydra_context: HydraContext,
    task_function: TaskFunction,
) -> None:
    """Runs the sweep that Hydra has composed, or what is left of it, and writes its results.

    RunError at the end if runs of a grid have failed, or all of a search; Interrupted after SIGINT or SIGTERM.
    """
    settings = settings_of(config.hydra.sweeper)
    refuse_missing_engine(str(config.hydra.launcher._target_))
    hand_on_gpus()
    basic = str(config.hydra.launcher._target_).endswith("BasicLauncher")
    if basic and (settings.n_jobs or 1) > 1:
        raise ConfigError(
            f"hydra.sweeper.n_jobs={settings.n_jobs}: hydra/launcher=basic runs one at a time; "
            "add hydra/launcher=joblib (or ray, submitit_local, submitit_slurm)"
        )
    num_jobs = 1 if basic else _asked_for(config, settings) or default_num_jobs(settings.runs_per_gpu)
    with open_dict(config):
        config.hydra.sweeper.n_jobs = num_jobs

    sweep_dir = Path(config.hydra.sweep.dir)
    own = [text for text in config.hydra.overrides.hydra if text != "hydra.mode=MULTIRUN"]  # Hydra adds that one
    all_overrides = [*own, *arguments]
    plan, name = _planned(kind, config, arguments, all_overrides, settings, sweep_dir, num_jobs)
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with _first_of(sweep_dir) as first:
        _write_or_join(plan, name, all_overrides)
        with closing(open_trials(plan)) as trials:
            if trials.num_trials != plan.num_trials:  # an earlier command asked for more, or there are not so many
                plan = replace(plan, num_trials=trials.num_trials)
                _update(sweep_dir, num_trials=plan.num_trials)
            if first:
                _update(sweep_dir, status="running", ended=None)
            before = counts(plan)
            log.info(
                f"sweep in {sweep_dir}: {plan.num_trials} runs"
                + (f", {before.ended} of them done before" if before.ended else "")
                + (f", {num_jobs} at a time" if num_jobs > 1 else "")
            )
            write_json(command_file(sweep_dir, this_process()), plan.content(), private=settings.storage is not None)
            with _stoppable(sweep_dir) as stopped, Monitor(sweep_dir):
                _launch(plan, trials, config, hydra_context, task_function, num_jobs, stopped)
            after = counts(plan)
            if stopped:
                if first:
                    _update(sweep_dir, status="interrupted", ended=now())
                log.info(
                    f"stopped: {after.ended} of {plan.num_trials} runs done; go on with the same command, or with: "
                    f"gan-lab resume sweep={sweep_dir}"
                )
                raise Interrupted(stopped[0])
            _update(sweep_dir, status="finished", ended=now())
            summarise(plan)
            if isinstance(trials, Study) and settings.storage is not None:
                log.info(f"study {trials.name}, on all machines: {trials.standing()}")
    if after.failed and (kind == "grid" or after.finished + after.pruned == 0):
        raise RunError(
            f"{after.failed} of {plan.num_trials} runs failed (reasons above, and in {sweep_dir}/*/trial.json)"
            + (f"; once mended: gan-lab resume sweep={sweep_dir} retry_failed=true" if kind == "grid" else "")
        )


def refuse_missing_engine(target: str) -> None:
    """ConfigError where the launcher's package, or SLURM itself, is not installed."""
    engine = next((name for name in ("joblib", "ray", "submitit") if f"hydra_{name}_launcher" in target), None)
    if engine is None:
        return
    try:
        found = find_spec(".".join(target.split(".")[:2]))
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigError(f"hydra/launcher={engine} needs another package: pip install 'gan_lab[{engine}]'")
    if target.endswith("SlurmLauncher") and shutil.which("srun") is None:
        raise ConfigError("hydra/launcher=submitit_slurm: there is no SLURM here (no srun); use joblib")


def _asked_for(config: DictConfig, settings: Settings) -> int | None:
    """How many workers the user asks for, by hydra.sweeper.n_jobs or joblib's own key; None: as many as fit."""
    own = config.hydra.launcher.get("n_jobs")
    return settings.n_jobs or (own if own is not None and own > 0 else None)


def _has_own_cores(config: DictConfig) -> bool:
    """Whether the launcher's engine gives each worker cores of its own."""
    return str(config.hydra.launcher._target_).endswith(("RayLauncher", "SlurmLauncher"))


@contextmanager
def _first_of(sweep_dir: Path) -> Iterator[bool]:
    """Whether this is the command that keeps sweep.json true, and not one that joins it with workers of its own."""
    with (sweep_dir / ".lock").open("a") as file:
        yield try_lock(file)


def _planned(
    kind: Literal["grid", "optuna"],
    config: DictConfig,
    arguments: list[str],
    all_overrides: list[str],
    settings: Settings,
    sweep_dir: Path,
    num_jobs: int,
) -> tuple[Plan, str]:
    """The plan of this command, and its name: its ready search space's, else its first run's. Writes nothing."""
    fixed, parameters = parse_space(arguments, settings.params or {}, settings.when or {})
    choices = grid_choices(parameters) if kind == "grid" else []
    config_dir = given_config_dir(config)
    composer = Composer(config_dir)
    first = choices[0][0] if choices else []
    run = check(composer.compose([*map(composer.forced, [*fixed, *first])]))
    objectives = settings.objectives
    if objectives is None:
        objectives = {}
        if (name := deciding_metric(run)) is not None:
            objectives = {name: direction_of(name)}
    refuse_unmeasured(objectives, measured(run))
    if kind == "optuna" and not objectives:
        raise ConfigError(
            "hydra/sweeper=optuna needs something to optimise: set objective, or hydra.sweeper.objectives"
        )
    if settings.study_name is None:
        settings.study_name = f"{run.name}-{identity(all_overrides, config_dir)}"
    plan = Plan(
        sweep_dir=sweep_dir,
        kind=kind,
        fixed=fixed,
        parameters=parameters,
        objectives=objectives,
        num_trials=len(choices) if kind == "grid" else settings.num_trials or 20,
        budget_images=round(run.budget.kimg * 1000),
        config_dir=config_dir,
        settings=settings,
        runs_per_machine=1 if _has_own_cores(config) else num_jobs,
    )
    return plan, config.hydra.runtime.choices.get("sweep") or run.name


def _write_or_join(plan: Plan, name: str, all_overrides: list[str]) -> None:
    """Writes sweep.json, or finds that it holds the same sweep."""
    sweep_dir, settings, same = plan.sweep_dir, plan.settings, identity(all_overrides, plan.config_dir)
    path = sweep_dir / "sweep.json"
    if path.is_file():
        content = read_json(path)
        if content["identity"] != same:
            raise ConfigError(
                f"hydra.sweep.dir={sweep_dir} holds another sweep: {content['command']}; choose another directory, or "
                f"go on with that one: gan-lab resume sweep={sweep_dir}"
            )
        if content["num_trials"] < plan.num_trials:
            _update(sweep_dir, num_trials=plan.num_trials)
        return
    content = {
        **plan.content(),
        "name": name,
        "identity": same,
        "arguments": all_overrides,
        "command": _shown_command(plan, all_overrides),
        "study": {"name": settings.study_name, "storage": settings.storage} if plan.kind == "optuna" else None,
        "status": "running",
        "started": now(),
        "ended": None,
        "versions": versions(),
        "git": git_state(),
        "machine": machine("cpu"),
    }
    write_json(path, content, private=settings.storage is not None)  # its URL may hold a password


def _shown_command(plan: Plan, overrides: Sequence[str]) -> str:
    """The command of this sweep, without the password of its storage."""
    command = shlex.join(train_command(["-m", *overrides], plan.config_dir))
    storage = plan.settings.storage
    return command if storage is None else command.replace(storage, without_password(storage))


def _update(sweep_dir: Path, **changes: Any) -> None:
    path = sweep_dir / "sweep.json"
    content = read_json(path) | changes
    write_json(path, content, private=content["settings"]["storage"] is not None)


# ---------------------------------------------------------------------- workers


def _launch(
    plan: Plan,
    trials: Trials,
    config: DictConfig,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    num_jobs: int,
    stopped: list[int],
) -> None:
    """Starts workers until every trial has ended; new ones if all have died, which one bad trial may bring about."""
    from hydra.core.plugins import Plugins

    for name in ("hydra_plugins", "hydra._internal.core_plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the monitor says what is to be said of workers
    fruitless = 0
    while trials.waiting() and not stopped:
        before = counts(plan)
        num_workers = min(num_jobs, plan.num_trials - before.ended)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        jobs = [_job(plan.sweep_dir, number, num_jobs) for number in range(max(num_workers, 1))]
        problem: Exception | None = None
        try:
            for job in launcher.launch(jobs, initial_job_idx=0):
                _ = job.return_value  # a worker's own failure is raised here
        except Exception as error:
            problem = error
        if stopped or not trials.waiting():
            return
        fruitless = 0 if counts(plan).ended > before.ended else fruitless + 1
        reason = (
            f": {type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}" if problem else ""
        )
        if isinstance(problem, ConfigError) or fruitless >= MOST_FRUITLESS_LAUNCHES:
            raise problem or RunError(f"the workers ended {fruitless} times before any run did{reason}")
        log.warning(f"workers ended before their runs did{reason}; they are started again")


def _job(sweep_dir: Path, number: int, num_jobs: int) -> list[str]:
    """The overrides that make a job of Hydra's launcher a worker of this sweep."""
    host = socket.gethostname()
    settings = {
        "hydra.sweep.dir": sweep_dir,
        "hydra.sweep.subdir": f"workers/{host}-{os.getpid()}-{number}",
        "hydra.output_subdir": None,
        "hydra.sweeper.n_jobs": num_jobs,
        f"++hydra.job.env_set.{LAUNCHER}": this_process(),
    }
    return [f"{key}={'null' if value is None else quoted(str(value))}" for key, value in settings.items()]


@contextmanager
def _stoppable(sweep_dir: Path) -> Iterator[list[int]]:
    """The signal that has stopped the sweep, once there is one: its workers save and end. A second one ends at once."""
    path = stop_file(sweep_dir, this_process())
    path.unlink(missing_ok=True)
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if stopped:
            raise Interrupted(number)
        stopped.append(number)
        path.touch()

    try:
        with handled(stop):
            yield stopped
    finally:
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------------- resume


@dataclass
class ResumeSweep:
    """The arguments of `gan-lab resume sweep=...`."""

    sweep: str
    retry_failed: bool = False


def to_resume(sweep_dir: Path, retry_failed: bool) -> tuple[list[str], list[str]]:
    """(flags, overrides) of the command that goes on with a sweep; failed runs are opened again where asked."""
    path = sweep_dir / "sweep.json"
    if not path.is_file():
        raise ConfigError(f"sweep={sweep_dir} is not the directory of a sweep: it has no sweep.json")
    content = read_json(path)
    if retry_failed:
        if content["kind"] != "grid":
            raise ConfigError(
                "retry_failed=true: the failures of a search are results, which its sampler has learned from; "
                "raise hydra.sweeper.num_trials instead"
            )
        for number in range(content["num_trials"]):
            run_dir = sweep_dir / str(number)
            if has_ended(run_dir) and read_json(run_dir / "trial.json")["status"] == "failed":
                (run_dir / "trial.json").unlink()
    flags = [] if content["config_dir"] is None else [f"--config-dir={content['config_dir']}"]
    kept = [text for text in content["arguments"] if not text.lstrip("+").startswith("hydra.sweep.dir=")]
    return flags, kept
