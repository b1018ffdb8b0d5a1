"""What a sweep is made of: its trials, how each one ended, and the ledger that hands them out to workers."""

from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol

from gan_lab.files import read_json, try_lock, write_json

Kind = Literal[
    "diverged", "out_of_memory", "crashed", "killed", "timed_out", "configuration", "health"
]  # why a trial failed
MENDABLE: frozenset[Kind] = frozenset({"out_of_memory", "crashed", "killed", "timed_out"})
"""Failures that may not come again: a loss that diverged, say, does so each time."""


class Trial(NamedTuple):
    """One run of a sweep: its number, which names its directory, and what it chooses, as override texts and typed."""

    number: int
    overrides: list[str]
    params: dict[str, Any]


class Outcome(NamedTuple):
    """How a trial ended: `values` of the objectives (empty without), `kind` and `reason` of a failure."""

    status: Literal["finished", "pruned", "failed"]
    values: dict[str, float]
    kind: Kind | None = None
    reason: str | None = None


class Trials(Protocol):
    """The ledger of a sweep, shared by all its workers in all processes."""

    num_trials: int

    def claim(self) -> Trial | None:
        """The next trial to run, or one whose worker has died, to take over; None if there is none now."""

    def waiting(self) -> bool:
        """Whether a trial may still become free: another worker that runs one may die."""

    def report(self, trial: Trial, images_seen: int, values: dict[str, float]) -> bool:
        """Takes note of an evaluation; False ends the trial."""

    def beat(self, trial: Trial) -> None:
        """Says, every few seconds, that this worker lives."""

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        """The trial has ended."""

    def release(self, trial: Trial) -> None:
        """The trial was interrupted: whoever claims it next resumes it."""

    def close(self) -> None:
        """Lets go of every trial, and of the storage."""


def take_claim(run_dir: Path) -> IO[str] | None:
    """The lock of a trial's directory, held while the file is open and this process lives; None if another holds it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    file = (run_dir / ".claim").open("w")
    if try_lock(file):
        return file
    file.close()
    return None


def read_trial(run_dir: Path) -> dict[str, Any] | None:
    """The content of trial.json; None where the trial has not been started."""
    path = run_dir / "trial.json"
    return read_json(path) if path.is_file() else None


def has_ended(run_dir: Path) -> bool:
    content = read_trial(run_dir)
    return content is not None and content["status"] != "running"


def write_trial(run_dir: Path, content: dict[str, Any]) -> None:
    write_json(run_dir / "trial.json", content)
