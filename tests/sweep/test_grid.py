"""The ledger of a grid: each trial is handed out once, and again only if its worker died before its end."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from gan_lab.sweep.grid import Grid
from gan_lab.sweep.trials import Outcome, Trial, read_trial, take_claim, write_trial

CHOICES = [([f"seed={seed}"], {"seed": seed}) for seed in (7, 8, 9)]
FINISHED = Outcome("finished", {"fd": 1.0})


def end(grid: Grid, trial: Trial, sweep_dir: Path, status: str = "finished") -> None:
    """As a worker does it: the ledger lets go, then the file says how it ended."""
    grid.finish(trial, FINISHED)
    write_trial(sweep_dir / str(trial.number), {"status": status})


def test_trials_come_in_order_and_once(tmp_path: Path) -> None:
    grid = Grid(tmp_path, CHOICES)
    first, second = grid.claim(), grid.claim()
    assert first == Trial(0, ["seed=7"], {"seed": 7})
    assert second == Trial(1, ["seed=8"], {"seed": 8})
    assert grid.report(first, 100, {"fd": 1.0})
    end(grid, first, tmp_path)
    third = grid.claim()
    assert third is not None
    assert third.number == 2
    assert grid.claim() is None
    assert grid.waiting()
    end(grid, third, tmp_path, "failed")
    end(grid, second, tmp_path)
    assert not grid.waiting()
    assert Grid(tmp_path, CHOICES).claim() is None


def test_what_is_released_is_handed_out_again(tmp_path: Path) -> None:
    grid = Grid(tmp_path, CHOICES)
    trial = grid.claim()
    assert trial is not None
    write_trial(tmp_path / "0", {"status": "running"})
    grid.release(trial)
    other = Grid(tmp_path, CHOICES)
    assert other.claim() == trial
    other.release(trial)


def test_two_ledgers_share_the_trials(tmp_path: Path) -> None:
    one, other = Grid(tmp_path, CHOICES), Grid(tmp_path, CHOICES)
    claims = [one.claim(), other.claim(), one.claim(), other.claim()]
    assert [claim and claim.number for claim in claims] == [0, 1, 2, None]
    assert other.waiting()
    for ledger, claim in zip([one, other, one], claims[:3], strict=True):
        assert claim is not None
        ledger.release(claim)


def _hold(sweep_dir: Path, answer: Connection) -> None:
    grid = Grid(sweep_dir, CHOICES)
    trial = grid.claim()
    assert trial is not None
    write_trial(sweep_dir / "0", {"status": "running"})
    answer.send(trial.number)
    signal.pause()


def test_a_killed_workers_trial_is_taken_over(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_hold, args=(tmp_path, theirs))
    worker.start()
    assert ours.recv() == 0
    grid = Grid(tmp_path, CHOICES[:1])
    assert grid.claim() is None
    assert grid.waiting()
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    trial = grid.claim()
    assert trial is not None
    assert trial.number == 0
    grid.release(trial)
    ours.close()
    worker.close()


def test_a_claim_is_held_once(tmp_path: Path) -> None:
    claim = take_claim(tmp_path / "new")
    assert claim is not None
    assert take_claim(tmp_path / "new") is None
    claim.close()
    again = take_claim(tmp_path / "new")
    assert again is not None
    again.close()


def test_what_is_not_started_has_no_content(tmp_path: Path) -> None:
    assert read_trial(tmp_path) is None
    with pytest.raises(KeyError):
        Grid(tmp_path, CHOICES).release(Trial(0, [], {}))
