"""Several processes for one run, started from its checked configuration (never from the command line)."""

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy

from gan_lab.config import RunConfig
from gan_lab.errors import RunError
from gan_lab.signals import handled

Fit = Callable[[RunConfig, Path], float | None]


class PlayerwiseDDP(DDPStrategy):
    """Distributed training without wrapping the module: each player averages its own gradients once per its step.

    Torch's wrapper expects every parameter in every backward pass, which two players that take turns never give it.
    All processes start from equal weights because initialisation is a function of the seed.
    """

    def configure_ddp(self) -> None:
        """Nothing to wrap."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end_with_parent() -> None:
    parent = torch.multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(rank: int, port: int, fit: Fit, config: RunConfig, run_dir: Path, answers: Any) -> None:
    """One process's part; its answer is (rank, objective or None, exception or None)."""
    from gan_lab.logs import configure_logging

    os.environ.update(
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE=str(config.accelerator.num_processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    # In a session of its own it gets no Ctrl-C from the terminal, only what the parent passes on.
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_logging(run_dir, quiet=rank > 0)
    try:
        answers.put((rank, fit(config, run_dir), None))
    except BaseException as error:
        answers.put((rank, None, error))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def run_processes(fit: Fit, config: RunConfig, run_dir: Path) -> float | None:
    """`fit` in accelerator.num_processes processes on this machine; rank 0's result. A failure ends all of them."""
    context = torch.multiprocessing.get_context("spawn")
    answers = context.Queue()
    port = _free_port()
    num = config.accelerator.num_processes
    processes = [context.Process(target=_work, args=(rank, port, fit, config, run_dir, answers)) for rank in range(num)]

    def pass_on(number: int, frame: Any) -> None:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid or 0, number)

    for process in processes:
        process.start()
    results: dict[int, float | None] = {}
    try:
        with handled(pass_on):
            while len(results) < num:
                if not answers.empty():
                    rank, value, error = answers.get()
                    if error is not None:
                        raise error
                    results[rank] = value
                    continue
                for rank, process in enumerate(processes):
                    if process.exitcode not in (None, 0) and answers.empty():
                        raise RunError(f"process {rank} of {num} ended with exit code {process.exitcode}")
                time.sleep(0.05)
        return results[0]
    finally:
        for process in processes:
            process.join(timeout=10 if len(results) == num else 1)
            if process.is_alive():
                process.kill()
                process.join()
