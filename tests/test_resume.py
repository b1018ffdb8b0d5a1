"""A run that was stopped in any way and resumed is the run that never was."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, assert_same, assert_same_run, command

RUN = [
    "train",
    *TINY,
    "budget.kimg=12",
    "callbacks.metrics.every_kimg=0.5",
    "callbacks.samples.every_kimg=2",
    "callbacks.checkpoint.every_kimg=1",
    "evaluation.every_kimg=2",
    "evaluation.num_samples=100",
    "optimizer.schedule=cosine",
    "model.discriminator.dropout=0.2",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(cwd: Path, *arguments: str) -> str:
    process = start(cwd, *arguments)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def wait_for_row(run_dir: Path, after: int, process: subprocess.Popen[str]) -> None:
    """Until metrics.csv holds a row beyond `after` images, or the process has ended."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        path = run_dir / "metrics.csv"
        if path.exists():
            last = path.read_text().splitlines()[-1].split(",")[0]
            if last.isdigit() and int(last) > after:
                return
        time.sleep(0.002)


def images_seen(run_dir: Path) -> int:
    return json.loads((run_dir / "run.json").read_text())["images_seen"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that never stopped."""
    cwd = tmp_path_factory.mktemp("whole")
    finish(cwd, *RUN, "hydra.run.dir=run")
    return cwd / "run"


def test_sigkill_at_random_points(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(tmp_path, *RUN, "hydra.run.dir=run")
    kills = 0
    for _ in range(3):
        wait_for_row(run_dir, images_seen(run_dir) if run_dir.exists() and kills else 0, process)
        time.sleep(random.uniform(0.0, 0.3))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        process = start(tmp_path, "resume", "run=run")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert kills > 0
    assert_same_run(whole, run_dir)
    assert json.loads((run_dir / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_exit(whole: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    run_dir = tmp_path / "run"
    process = start(tmp_path, *RUN, "hydra.run.dir=run", "callbacks.checkpoint.every_kimg=1000")
    wait_for_row(run_dir, 0, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "gan-lab resume run=run" in output
    record = json.loads((run_dir / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert 0 < record["images_seen"] < 12_000
    finish(tmp_path, "resume", "run=run")
    assert_same_run(whole, run_dir)


def test_killed_before_the_first_checkpoint(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(tmp_path, *RUN, "hydra.run.dir=run", "callbacks.checkpoint.every_kimg=1000")
    wait_for_row(run_dir, 0, process)
    process.kill()
    process.communicate()
    assert not (run_dir / "checkpoints").exists()
    finish(tmp_path, "resume", "run=run")
    assert_same_run(whole, run_dir)


def test_finished_run_is_prolonged(tmp_path: Path) -> None:
    """With a constant learning rate, 1 kimg prolonged to 2 trains what 2 kimg at once do; the change is recorded."""
    constant = ["optimizer.schedule=constant", "evaluation=none"]
    arguments = [text for text in RUN if not text.startswith(("evaluation", "optimizer"))] + constant
    finish(tmp_path, *arguments, "budget.kimg=4", "hydra.run.dir=whole")
    finish(tmp_path, *arguments, "budget.kimg=2", "hydra.run.dir=run")
    assert images_seen(tmp_path / "run") == 2016
    output = finish(tmp_path, "resume", "run=run", "budget.kimg=4")
    assert "budget.kimg: 2 -> 4" in output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["resumed"][0]["changed"] == {"budget.kimg": [2, 4]}
    # The end of the shorter budget was a log point of its own: weights are compared, not rows.
    states = [torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "run")]
    for part in ("generator", "discriminator", "generator_ema", "optimizers", "counters"):
        assert_same(states[0][part], states[1][part], part)


def test_nothing_left_to_do(tmp_path: Path) -> None:
    finish(tmp_path, "train", *TINY, "hydra.run.dir=run")
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    output = finish(tmp_path, "resume", "run=run")
    assert "raise budget.kimg" in output
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_convolutional_run_killed(tmp_path: Path) -> None:
    """channels_last weights, BatchNorm's buffers and reduced precision come back to the bit too."""
    arguments = [
        *["train", "model=dcgan", "model.width=8", "loss=hinge", "batch_size=32", "budget.kimg=6", "evaluation=none"],
        *["accelerator.precision=bf16", "callbacks.metrics.every_kimg=0.5", "callbacks.checkpoint.every_kimg=1"],
    ]
    finish(tmp_path, *arguments, "hydra.run.dir=whole")
    process = start(tmp_path, *arguments, "hydra.run.dir=run")
    wait_for_row(tmp_path / "run", 1500, process)
    process.kill()
    process.communicate()
    assert 0 < images_seen(tmp_path / "run") < 6000
    finish(tmp_path, "resume", "run=run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_time_budget_counts_all_sittings(tmp_path: Path) -> None:
    finish(tmp_path, "train", *TINY, "budget.kimg=100000", "budget.minutes=0.02", "hydra.run.dir=run")
    seen = images_seen(tmp_path / "run")
    assert 0 < seen < 100_000_000
    assert "raise budget.kimg or budget.minutes" in finish(tmp_path, "resume", "run=run")
    assert images_seen(tmp_path / "run") == seen
    finish(tmp_path, "resume", "run=run", "budget.minutes=0.03")
    assert images_seen(tmp_path / "run") > seen
