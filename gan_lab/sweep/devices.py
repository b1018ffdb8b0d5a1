"""Shares the machine among runs: CPU threads, and GPUs through a pool of lock files that works for any launcher."""

import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from gan_lab.errors import RunError
from gan_lab.files import try_lock

SECONDS_BETWEEN_TRIES = 0.2


def usable_cores() -> int:
    """The cores that this process may use: its CPU affinity, its control group's quota and SLURM's share count."""
    import joblib  # scikit-learn's

    share = os.environ.get("SLURM_CPUS_PER_TASK", "")  # not every cluster binds its jobs to their cores
    return min(joblib.cpu_count(), int(share)) if share.isdigit() and int(share) > 0 else joblib.cpu_count()


def threads_per_run(num_jobs: int) -> int:
    """CPU threads of each of `num_jobs` runs that share this machine's cores; at least one, at most OMP_NUM_THREADS.

    That limit is per process wherever it is set (by hand, by joblib, by Ray), so asking again in a worker that got its
    share already returns the same.
    """
    share = usable_cores() // num_jobs
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # "4,2": of nested levels
    if first.isdigit() and int(first) > 0:
        share = min(share, int(first))
    return max(share, 1)


def default_num_jobs(runs_per_gpu: int) -> int:
    """How many runs this machine takes at once: `runs_per_gpu` on each GPU, or without GPUs one on each core."""
    return runs_per_gpu * len(visible_gpus()) or usable_cores()


def visible_gpus() -> list[str]:
    """Names that CUDA_VISIBLE_DEVICES can take: those it has, or the index of every GPU. CUDA is not initialised."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        found = [name.strip() for name in names.split(",")]
        wrong = (index for index, name in enumerate(found) if name in ("", "-1"))
        return found[: next(wrong, len(found))]  # CUDA, too, sees only what comes before
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


# ---------------------------------------------------------------------- the pool of GPUs


@contextmanager
def gpus(
    num: int, runs_per_gpu: int, visible: Sequence[str], while_waiting: Callable[[], None] = lambda: None
) -> Iterator[list[str]]:
    """Holds a place on each of `num` GPUs, those with the fewest runs, and yields their names in `visible`'s order.

    Waits until so many have room for another run, of any sweep of this user's on this machine, and takes all or none:
    two runs of several GPUs never wait for each other. `while_waiting` is called between tries and may raise to give
    up. A place is a lock that the system takes back when this process ends in any way.
    """
    if num > len(visible):
        raise RunError(
            f"accelerator.num_processes={num}: this machine offers {len(visible)} GPU(s) "
            f"({', '.join(visible) or 'none'}); use at most as many"
        )
    with ExitStack() as places:
        while (taken := _taken(num, runs_per_gpu, visible, places)) is None:
            while_waiting()
            time.sleep(SECONDS_BETWEEN_TRIES)
        yield taken


def _taken(num: int, runs_per_gpu: int, visible: Sequence[str], places: ExitStack) -> list[str] | None:
    """One try: the GPUs whose locks `places` holds from now on, or None."""
    folder = _folder()
    with ExitStack() as tried:
        fcntl.flock(tried.enter_context((folder / ".one-at-a-time").open("w")), fcntl.LOCK_EX)
        offers: list[tuple[int, int, IO[str]]] = []  # (runs there, position in `visible`, lock of a free place)
        for position, name in enumerate(visible):
            num_runs, free = _state_of(folder / re.sub(r"[^\w.-]", "_", name), runs_per_gpu, tried)
            if num_runs < runs_per_gpu and free is not None:
                offers.append((num_runs, position, free))
        chosen = sorted(offers, key=lambda offer: offer[:2])[:num]
        if len(chosen) < num:
            return None
        for _, _, file in chosen:
            # A second descriptor of the lock, as `tried` closes everything that was looked at.
            places.callback(os.close, os.dup(file.fileno()))
        return [visible[position] for position in sorted(position for _, position, _ in chosen)]


def _state_of(gpu: Path, runs_per_gpu: int, opened: ExitStack) -> tuple[int, IO[str] | None]:
    """How many runs a GPU has, also of sweeps that put more on it than this one, and the lock of a free place."""
    gpu.mkdir(mode=0o700, exist_ok=True)
    own = [gpu / str(place) for place in range(runs_per_gpu)]
    num_runs, free = 0, None
    for path in [*own, *(set(gpu.iterdir()) - set(own))]:
        file = opened.enter_context(path.open("a"))
        if try_lock(file):
            free = free or (file if path in own else None)
        else:
            num_runs += 1
    return num_runs, free


def _folder() -> Path:
    """Where this machine's locks are.

    SLURM and Ray hand out GPUs themselves: their names are then true of one job or worker alone (SLURM may call each
    job's GPU 0), and so are the locks.
    """
    folder = Path(tempfile.gettempdir(), f"gan_lab-devices-{os.getuid()}")
    ray = sys.modules.get("ray")
    if job := os.environ.get("SLURM_JOB_ID"):
        folder /= f"slurm-{job}"
    elif ray is not None and ray.is_initialized() and ray.get_gpu_ids():
        folder /= f"ray-{os.getpid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


# ---------------------------------------------------------------------- submitit's local executor

GPUS = "GAN_LAB_GPUS"
"""Environment variable: the GPUs that the process that launches workers sees."""


def hand_on_gpus() -> None:
    """In the process that launches workers: remembers its GPUs for `take_gpus`."""
    os.environ[GPUS] = ",".join(visible_gpus())


def take_gpus() -> None:
    """In a worker, before anything asks for GPUs: shows those of its launcher where submitit's local executor, which
    lets its jobs see none or the first few, has hidden them."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local" and GPUS in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[GPUS]
