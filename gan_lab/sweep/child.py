"""One trial in a process of its own: what crashes, hangs or eats all memory there leaves its sweep unharmed.

The process is forked from a server that has imported everything once (multiprocessing's forkserver), so it starts in
milliseconds, without threads or GPU contexts of others. It trains from the run directory's frozen configuration.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from gan_lab.errors import OUT_OF_MEMORY, ConfigError, RunError, is_out_of_memory, unexpected
from gan_lab.sweep.trials import Kind

log = logging.getLogger(__name__)

SECONDS_TO_SAVE = 60.0
"""How long a trial that is asked to stop may take to write its checkpoint."""


class Ended(NamedTuple):
    """How the process ended: interrupted is a trial that was asked to stop and can be resumed."""

    status: str  # finished, pruned, failed, interrupted
    kind: Kind | None = None
    reason: str | None = None


class Progress(NamedTuple):
    """What the trial has just written; whether to go on is answered where `asks`."""

    images_seen: int
    metrics: dict[str, float]
    share: float


class Surroundings(NamedTuple):
    """What the child would not get from the server that it is forked from."""

    command: list[str]
    environment: dict[str, str]
    path: list[str]
    cwd: str


def run_in_child(
    run_dir: Path,
    *,
    command: list[str],
    threads: int,
    environment: Mapping[str, str],
    timeout_seconds: float | None,
    listen: Callable[[Progress], bool],
    should_stop: Callable[[], bool],
) -> Ended:
    """Trains (or resumes) the run in `run_dir` and says how that ended.

    command: what would repeat the run, for run.json. environment: added to that of this process. listen: is told of
    all metrics; False prunes the trial. should_stop: is asked several times a second; once true, the trial is told to
    save and end.
    """
    context = _context(threads)
    ours, theirs = context.Pipe()
    surroundings = Surroundings(command, {**os.environ, **environment}, list(sys.path), os.getcwd())
    process = context.Process(target=_train, args=(run_dir.resolve(), theirs, threads, surroundings))
    process.start()
    theirs.close()
    started = time.monotonic()
    stopped_at: float | None = None
    timed_out = False
    ended: Ended | None = None
    try:
        while process.is_alive() or ours.poll():
            if ours.poll(0.2):
                try:
                    message = ours.recv()
                except (EOFError, OSError):
                    process.join(SECONDS_TO_SAVE)
                    break
                if isinstance(message, Ended):
                    ended = message
                    break
                ours.send(listen(message))
            now = time.monotonic()
            if stopped_at is None:
                timed_out = timeout_seconds is not None and now - started > timeout_seconds
                if timed_out or should_stop():
                    stopped_at = now
                    process.terminate()
            elif now - stopped_at > SECONDS_TO_SAVE:
                break
    except BaseException:  # this process is being stopped in the middle: the trial saves and ends
        ours.close()  # it may wait for an answer
        if process.is_alive():
            process.terminate()
        process.join(SECONDS_TO_SAVE)
        raise
    finally:
        if ended is not None:
            process.join(SECONDS_TO_SAVE)
        if process.is_alive():
            process.kill()
        process.join()
        ours.close()
    if timed_out and timeout_seconds is not None and (ended is None or ended.status == "interrupted"):
        return Ended("failed", "timed_out", f"not finished after {timeout_seconds / 60:g} minutes (timeout_minutes)")
    if ended is not None:
        return ended
    if stopped_at is not None:
        return Ended("interrupted")
    return _death(process.exitcode)


def _death(exit_code: int | None) -> Ended:
    """A process that said nothing before it ended."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = "; the system kills what takes too much memory" if name == "SIGKILL" else ""
        return Ended("failed", "killed", f"its process was ended by {name}{hint} (run.log has its last words)")
    return Ended("failed", "crashed", f"its process ended with exit code {exit_code} (run.log has its last words)")


def _context(threads: int) -> Any:
    """How processes are made: from a server with everything imported, where the system can fork safely."""
    if sys.platform == "darwin" or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gan_lab.sweep.preload"])
    from multiprocessing import forkserver

    # Libraries read these when they are loaded, which is in the server, before any trial.
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    try:
        os.environ.update(dict.fromkeys(before, str(threads)))
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


# ---------------------------------------------------------------------- in the child


def _train(run_dir: Path, worker: Connection, threads: int, surroundings: Surroundings) -> None:
    """The child: trains, and says last how it ended."""
    os.environ.clear()
    os.environ.update(surroundings.environment)
    sys.path[:] = surroundings.path
    sys.orig_argv = [sys.executable, *surroundings.command]  # what run.json names
    os.chdir(surroundings.cwd)
    # In a session of its own it gets no Ctrl-C from the terminal: the worker says when to stop.
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_with_worker, daemon=True).start()
    # What libraries print, the last words of a crash among them, belongs to the run.
    log_file = os.open(run_dir / "run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for standard in (1, 2):
        os.dup2(log_file, standard)
    os.close(log_file)

    from gan_lab.logs import configure_logging

    configure_logging(run_dir, terminal=False)
    ended = _ended(run_dir, worker, threads)
    with suppress(OSError):  # the worker may be gone
        worker.send(ended)


def _stop_with_worker() -> None:
    worker = multiprocessing.parent_process()
    assert worker is not None
    worker.join()
    os.kill(os.getpid(), signal.SIGTERM)  # saves a checkpoint
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)


class ToWorker:
    """The reporter of a trial: passes metrics on to its worker and returns its answer."""

    def __init__(self, worker: Connection):
        self.worker = worker

    def __call__(self, images_seen: int, metrics: dict[str, float], share_of_budget: float) -> bool:
        try:
            self.worker.send(Progress(images_seen, metrics, share_of_budget))
            return self.worker.recv()
        except (EOFError, OSError):  # the worker is gone: this process is about to be stopped
            return True


def _ended(run_dir: Path, worker: Connection, threads: int) -> Ended:
    import torch
    from omegaconf import DictConfig, OmegaConf

    from gan_lab.callbacks.health import Unhealthy
    from gan_lab.player import NonFinite
    from gan_lab.run import resume, train

    torch.set_num_threads(threads)
    cfg = OmegaConf.load(run_dir / ".hydra" / "config.yaml")
    assert isinstance(cfg, DictConfig)
    reporter = ToWorker(worker)
    try:
        if (run_dir / "run.json").is_file():
            resume(run_dir, cfg, reporter)
        else:
            train(cfg, run_dir, reporter)
        from gan_lab.files import read_json

        return Ended(read_json(run_dir / "run.json")["status"])
    except KeyboardInterrupt:
        return Ended("interrupted")
    except ConfigError as error:
        return Ended("failed", "configuration", str(error))
    except NonFinite as error:
        return Ended("failed", "diverged", str(error))
    except Unhealthy as error:
        return Ended("failed", "health", str(error))
    except RunError as error:
        return Ended("failed", "crashed", str(error))
    except BaseException as error:
        log.exception("the run failed")
        if is_out_of_memory(error):
            return Ended("failed", "out_of_memory", OUT_OF_MEMORY)
        return Ended("failed", "crashed", unexpected(error))
