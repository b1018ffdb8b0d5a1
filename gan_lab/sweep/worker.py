"""A worker: claims trials of a sweep one after the other and runs each in a process of its own, until none is left."""

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from gan_lab.compose import train_command
from gan_lab.errors import ConfigError
from gan_lab.files import read_json, try_lock, write_json
from gan_lab.objectives import value_of
from gan_lab.record import now
from gan_lab.signals import STOPPING, handled
from gan_lab.sweep.child import Ended, Progress, run_in_child
from gan_lab.sweep.devices import gpus, take_gpus, visible_gpus
from gan_lab.sweep.grid import Grid
from gan_lab.sweep.plan import Plan, grid_choices
from gan_lab.sweep.trials import MENDABLE, Outcome, Trial, Trials, read_trial, write_trial

log = logging.getLogger(__name__)

LAUNCHER = "GAN_LAB_LAUNCHER"
"""Environment variable of a worker: host:pid of the process that launched it."""
SECONDS_BETWEEN_BEATS = 10.0
SECONDS_BETWEEN_LIVE = 1.0
SECONDS_UNTIL_FREE = 90.0
"""How long a process whose worker has died may take to save and end."""


def stop_file(sweep_dir: Path, launcher: str) -> Path:
    """While it is there, the workers that `launcher` has started save and end."""
    return sweep_dir / f".stop-{launcher.replace(':', '-')}"


def this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def command_file(sweep_dir: Path, launcher: str) -> Path:
    """Where the plan of a command lies, for the workers that it launches."""
    return sweep_dir / "workers" / f"{launcher.replace(':', '-')}.json"


def open_trials(plan: Plan) -> Trials:
    """The ledger of a sweep."""
    if plan.kind == "grid":
        return Grid(plan.sweep_dir, grid_choices(plan.parameters))
    from gan_lab.sweep.study import Study

    settings = plan.settings
    assert settings.sampler is not None
    assert settings.study_name is not None
    return Study(
        sweep_dir=plan.sweep_dir,
        parameters=plan.parameters,
        objectives=plan.objectives,
        num_trials=plan.num_trials,
        sampler=settings.sampler,
        pruner=settings.pruner,
        storage=settings.storage,
        study_name=settings.study_name,
        seed=settings.seed,
        budget_images=plan.budget_images,
    )


def work_in(sweep_dir: Path) -> None:
    """What a job of Hydra's launcher does: a worker's part of the sweep, with the settings of its command."""
    take_gpus()
    content = read_json(command_file(sweep_dir, os.environ[LAUNCHER]))
    plan = Plan.from_content(sweep_dir, content)
    with closing(open_trials(plan)) as trials:
        work(plan, trials)


def work(plan: Plan, trials: Trials) -> None:
    """Runs trials of the sweep until none is left, or until its launcher is stopped or gone."""
    with stopping(plan.sweep_dir) as should_stop:
        while not should_stop():
            trial = trials.claim()
            if trial is not None:
                _run(plan, trials, trial, should_stop)
            elif trials.waiting():  # what others run may be orphaned yet
                time.sleep(0.5)
            else:
                break


@contextmanager
def stopping(sweep_dir: Path) -> Iterator[Callable[[], bool]]:
    """Whether this worker is to stop: a signal came, its launcher asks for it, or its launcher has died."""
    launcher = os.environ.get(LAUNCHER, this_process())
    host, pid = launcher.rsplit(":", 1)
    here = host == socket.gethostname()
    asked = threading.Event()

    def is_asked() -> bool:
        if not asked.is_set() and (stop_file(sweep_dir, launcher).exists() or (here and not _is_alive(int(pid)))):
            asked.set()
        return asked.is_set()

    # The launcher itself (launcher basic) handles its signals as every launcher does, by the file.
    with handled(lambda number, frame: asked.set(), () if launcher == this_process() else STOPPING):
        yield is_asked


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _run(plan: Plan, trials: Trials, trial: Trial, should_stop: Callable[[], bool]) -> None:
    """One trial, with its retries, from its claim to its outcome."""
    run_dir = plan.sweep_dir / str(trial.number)
    before = read_trial(run_dir) or {}
    content: dict[str, Any] = {
        "number": trial.number,
        "overrides": trial.overrides,
        "params": trial.params,
        "status": "running",
        "kind": None,
        "reason": None,
        "values": {},
        "attempts": before.get("attempts", 0),
        "started": before.get("started", now()),
        "ended": None,
        "seconds": before.get("seconds", 0.0),
        "host": socket.gethostname(),
        "threads": plan.threads,
        "device": None,
    }
    outcome: Outcome | None = None
    failures = 0
    while outcome is None:
        started = time.monotonic()
        content["attempts"] += 1
        ended = _attempt(plan, trials, trial, run_dir, content, should_stop)
        content["seconds"] = round(content["seconds"] + time.monotonic() - started, 3)
        if ended.status == "interrupted":
            write_trial(run_dir, content)
            trials.release(trial)
            return
        if ended.status == "failed" and ended.kind in MENDABLE and failures < plan.settings.num_retries:
            failures += 1
            log.warning(f"run {trial.number}: {ended.reason}; tried again ({failures} of {plan.settings.num_retries})")
            continue
        outcome = _outcome(plan, run_dir, ended)
    (run_dir / ".live.json").unlink(missing_ok=True)
    # In this order: who claims the trial after a kill in between sees that it has ended.
    write_trial(run_dir, content | outcome._asdict() | {"ended": now()})
    trials.finish(trial, outcome)


def _attempt(
    plan: Plan,
    trials: Trials,
    trial: Trial,
    run_dir: Path,
    content: dict[str, Any],
    should_stop: Callable[[], bool],
) -> Ended:
    """The run started, or resumed, once."""
    try:
        num_processes, on_gpu = plan.freeze(trial, run_dir)
    except ConfigError as error:
        return Ended("failed", "configuration", str(error))
    _wait_until_free(run_dir)
    listener = _Listener(plan, trials, trial, run_dir)
    settings = plan.settings
    with ExitStack() as stack:
        environment = {}
        if on_gpu and (visible := visible_gpus()):
            try:
                taken = stack.enter_context(
                    gpus(num_processes, settings.runs_per_gpu, visible, while_waiting=lambda: _give_up_if(should_stop))
                )
            except KeyboardInterrupt:
                return Ended("interrupted")
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
            content["device"] = "gpu " + ",".join(taken)
        else:
            content["device"] = "cpu"
        write_trial(run_dir, content)

        def asked() -> bool:
            listener.beat()
            return should_stop()

        return run_in_child(
            run_dir,
            command=train_command(plan.overrides(trial), plan.config_dir),
            threads=plan.threads,
            environment=environment,
            timeout_seconds=None if settings.timeout_minutes is None else 60 * settings.timeout_minutes,
            listen=listener,
            should_stop=asked,
        )


def _give_up_if(should_stop: Callable[[], bool]) -> None:
    """Ends the wait for a GPU."""
    if should_stop():
        raise KeyboardInterrupt


def _wait_until_free(run_dir: Path) -> None:
    """Until the process that trained this run before, and whose worker has died, has saved and ended."""
    deadline = time.monotonic() + SECONDS_UNTIL_FREE
    with (run_dir / ".lock").open("a") as file:
        while not try_lock(file) and time.monotonic() < deadline:  # then the run says so itself
            time.sleep(0.2)


class _Listener:
    """Takes what a trial writes: to the ledger if it is an evaluation, and to .live.json for whoever watches."""

    def __init__(self, plan: Plan, trials: Trials, trial: Trial, run_dir: Path):
        self.plan, self.trials, self.trial, self.run_dir = plan, trials, trial, run_dir
        self._shown_at = self._beaten_at = 0.0
        self._metrics: dict[str, float] = {}

    def __call__(self, progress: Progress) -> bool:
        self._metrics |= progress.metrics
        values = {name: progress.metrics[name] for name in self.plan.objectives if name in progress.metrics}
        moment = time.monotonic()
        if moment - self._shown_at > SECONDS_BETWEEN_LIVE or values:
            self._shown_at = moment
            self._show(progress)
        if len(values) < len(self.plan.objectives) or not values:
            return True
        return self.trials.report(self.trial, progress.images_seen, values)

    def _show(self, progress: Progress) -> None:
        shown = ("images_per_second", *self.plan.objectives)
        content = {
            "share": progress.share,
            "images_seen": progress.images_seen,
            "images_per_second": self._metrics.get("images_per_second"),
            "metrics": {name: self._metrics[name] for name in shown if name in self._metrics},
            "at": time.time(),
        }
        write_json(self.run_dir / ".live.json", content)

    def beat(self) -> None:
        moment = time.monotonic()
        if moment - self._beaten_at > SECONDS_BETWEEN_BEATS:
            self._beaten_at = moment
            self.trials.beat(self.trial)


def _outcome(plan: Plan, run_dir: Path, ended: Ended) -> Outcome:
    """What the sweep keeps of a run that has ended: the objectives' values from its record."""
    if ended.status == "failed":
        return Outcome("failed", {}, ended.kind, ended.reason)
    record = read_json(run_dir / "run.json")
    alone = len(plan.objectives) == 1
    found = {name: value_of(record, name, of_best=alone) for name in plan.objectives}
    values = {name: value for name, value in found.items() if value is not None and math.isfinite(value)}
    missing = [name for name in plan.objectives if name not in values]
    if missing and ended.status == "finished":
        return Outcome("failed", values, "diverged", f"{' and '.join(missing)} at the end: not a number")
    assert ended.status in ("finished", "pruned")
    return Outcome("pruned" if ended.status == "pruned" else "finished", values)
