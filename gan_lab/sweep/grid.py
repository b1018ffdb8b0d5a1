"""The ledger of a sweep over all combinations: the run directories themselves say what has been done."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from gan_lab.sweep.trials import Outcome, Trial, has_ended, take_claim


class Grid:
    """Trials of given choices, in their order: `choices` are (override texts, typed values) of each."""

    def __init__(self, sweep_dir: Path, choices: Sequence[tuple[list[str], dict[str, Any]]]):
        self.sweep_dir = sweep_dir
        self.choices = choices
        self.num_trials = len(choices)
        self._ended: set[int] = set()
        self._claims: dict[int, IO[str]] = {}

    def _open(self) -> list[int]:
        """Numbers of the trials that have not ended, as far as is known."""
        return [number for number in range(len(self.choices)) if number not in self._ended]

    def claim(self) -> Trial | None:
        for number in self._open():
            run_dir = self.sweep_dir / str(number)
            claim = None if has_ended(run_dir) else take_claim(run_dir)
            if claim is not None and not has_ended(run_dir):  # it may have ended before the claim
                self._claims[number] = claim
                return Trial(number, *self.choices[number])
            if claim is not None:
                claim.close()
            if has_ended(run_dir):
                self._ended.add(number)
        return None

    def waiting(self) -> bool:
        self._ended |= {number for number in self._open() if has_ended(self.sweep_dir / str(number))}
        return bool(self._open())

    def report(self, trial: Trial, images_seen: int, values: dict[str, float]) -> bool:
        """Always True: all combinations are wanted in full."""
        return True

    def beat(self, trial: Trial) -> None:
        """Nothing: the lock on the run's directory tells that its worker lives."""

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        self._ended.add(trial.number)
        self.release(trial)

    def release(self, trial: Trial) -> None:
        self._claims.pop(trial.number).close()

    def close(self) -> None:
        for claim in self._claims.values():
            claim.close()
        self._claims.clear()
