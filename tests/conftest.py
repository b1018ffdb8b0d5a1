"""What several test files need: the command line in a process of its own, runs to compare."""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_lab.loggers import WALL_TIME_COLUMNS

# One cache of extractors for all tests of a session, in all its processes; and one thread for what they train.
SESSION = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
os.environ["GAN_LAB_CACHE"] = str(Path(tempfile.gettempdir(), f"gan_lab-tests-{SESSION}"))

ROOT = Path(__file__).resolve().parent.parent
TINY = ["model.width=16", "model.depth=1", "model.latent_dim=8", "batch_size=32", "budget.kimg=2"]
"""Overrides that make a run of model=mlp take a second."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gan_lab", *arguments]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # the last process to end
        uid = getattr(session.config.pluginmanager.get_plugin("dsession"), "nodemanager", None)
        name = SESSION if uid is None else uid.testrunuid
        shutil.rmtree(Path(tempfile.gettempdir(), f"gan_lab-tests-{name}"), ignore_errors=True)


@pytest.fixture
def gan_lab(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `gan-lab ...` in an empty directory, one thread; returns what it printed and its exit code."""

    def run(*arguments: str, cwd: Path = tmp_path, **options: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
        return subprocess.run(
            command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, **options
        )

    return run


def rows_without_wall_time(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in WALL_TIME_COLUMNS} for row in csv.DictReader(file)]


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the last bit, in nested containers of tensors and plain values."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{index}")
    else:
        assert one == other, where


def assert_same_run(one: Path, other: Path, ignore: Sequence[str] = ("wall_seconds",)) -> None:
    """Checkpoints, metrics and pictures of two runs are equal, wall time aside."""
    states = []
    for run_dir in (one, other):
        state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
        states.append({key: value for key, value in state.items() if key not in ignore})
    assert_same(*states)
    assert rows_without_wall_time(one) == rows_without_wall_time(other)
    pictures = sorted(path.name for path in (one / "samples").iterdir())
    assert pictures == sorted(path.name for path in (other / "samples").iterdir())
    for name in pictures:
        assert (one / "samples" / name).read_bytes() == (other / "samples" / name).read_bytes(), name
