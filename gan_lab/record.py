"""run.json: what a run is, how far it is and how it ended."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gan_lab import __version__
from gan_lab.errors import ConfigError, RunError
from gan_lab.files import read_json, try_lock, write_json

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "tensorboard", "numpy")


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    found = {"gan_lab": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that this code runs from and whether it has changes; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": git("status", "--porcelain", "-uno") != ""}
    except (OSError, subprocess.SubprocessError):  # no git program, or no commit yet
        return None


def machine(device: torch.device | str) -> dict[str, Any]:
    found = {
        "device": str(device),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


class RunRecord:
    """The content of a run directory's run.json; every change is on the disk when `update` returns."""

    def __init__(self, run_dir: Path, content: dict[str, Any]):
        self.run_dir = run_dir
        self.path = run_dir / "run.json"
        self.content = content

    @classmethod
    def create(cls, run_dir: Path, *, name: str, seed: int) -> "RunRecord":
        """Starts a run in a directory that holds none yet."""
        path = run_dir / "run.json"
        if path.exists():
            raise ConfigError(
                f"hydra.run.dir={run_dir} already holds a run; continue it with `gan-lab resume run={run_dir}`, "
                "or choose another directory"
            )
        record = cls(
            run_dir,
            {
                "status": "running",
                "name": name,
                "seed": seed,
                "started": now(),
                "command": sys.orig_argv[1:],
                "versions": versions(),
                "git": git_state(),
                "images_seen": 0,
                "d_steps": 0,
                "g_steps": 0,
                "wall_seconds": 0.0,
                "images_per_second": None,
                "resumed": [],
                "error": None,
            },
        )
        record.update()
        return record

    @classmethod
    def load(cls, run_dir: Path) -> "RunRecord":
        path = run_dir / "run.json"
        if not path.is_file():
            raise RunError(f"{run_dir} is not the directory of a run: it has no run.json")
        return cls(run_dir, read_json(path))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run directory against a second process; the system lets go when this process ends in any way."""
        with (self.run_dir / ".lock").open("w") as file:
            with suppress(OSError):  # file systems without locks
                if not try_lock(file):
                    raise RunError(f"{self.run_dir} is being trained by another process; stop that one first")
            yield

    def update(self, **changes: Any) -> None:
        self.content |= changes
        write_json(self.path, self.content)


def find_sweep(name: str) -> Path:
    """The directory of a sweep: a path, or `latest` for the one in outputs/sweeps/ that was started last."""
    if name != "latest":
        return Path(name)
    sweeps = Path("outputs", "sweeps")
    found = [path.parent for path in sweeps.glob("*/sweep.json")]
    if not found:
        raise ConfigError(f"sweep=latest: there is no sweep in {sweeps.absolute()}; give its directory: sweep=DIR")
    return max(found, key=lambda path: path.name)


def find_run(name: str, outputs: Path = Path("outputs"), key: str = "run") -> Path:
    """The directory of a run: a path, or `latest` for the run in outputs/ that was started or resumed last.

    key: what the user has typed before the name, for messages.
    """
    if name != "latest":
        if not Path(name).is_dir():
            raise ConfigError(f"{key}={name}: there is no such directory ({Path(name).absolute()})")
        return Path(name)
    found = {run_dir: moment for run_dir in run_dirs(outputs) if (moment := last_sitting(run_dir)) is not None}
    if not found:
        raise ConfigError(f"{key}=latest: there is no run in {outputs.absolute()}; give its directory: {key}=DIR")
    # Times are in seconds: of two in the same one, the record that was written last.
    return max(found, key=lambda run_dir: (found[run_dir], (run_dir / "run.json").stat().st_mtime_ns))


def run_dirs(folder: Path) -> Iterator[Path]:
    """The directories of all runs at and below a folder; runs hold no others."""
    for place, folders, files in os.walk(folder):
        if "run.json" in files:
            folders.clear()
            yield Path(place)


def last_sitting(run_dir: Path) -> str | None:
    """When a run was last started or resumed, an ISO time in UTC; None where its record cannot be read."""
    try:
        record = read_json(run_dir / "run.json")
        return max([record["started"], *(sitting["at"] for sitting in record["resumed"])])
    except (RunError, OSError, KeyError, TypeError):  # damaged, or of another version: it cannot be gone on with
        return None
