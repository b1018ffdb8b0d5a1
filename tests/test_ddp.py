"""Several processes train what one process trains with the same global batch."""

import csv
import os
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import command
from test_cli import SMALL, called, done, record_of

from gan_lab.files import read_checkpoint

RUN = [
    *SMALL,
    "model.discriminator.dropout=0.0",  # each process has its own mask
    "model.generator.norm=none",  # BatchNorm would see half of the batch
    "accelerator.precision=fp32",
    # Adam's division would blow up the rounding of gradients near zero.
    "optimizer.lr=0.01",
    "optimizer.generator.eps=0.01",
    "optimizer.discriminator.eps=0.01",
    "budget.kimg=0.4",
    "callbacks.metrics.every_kimg=0.08",
]
TWO = ["accelerator=ddp", "accelerator.device=cpu", "accelerator.num_processes=2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def rows(run_dir: Path) -> list[dict[str, float]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if value and name != "card"}
            for row in csv.DictReader(file)
        ]


def children(pid: int) -> set[int]:
    """The processes that `pid` has started."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError):
                continue
            if parent == pid:
                found.add(int(folder.name))
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def all_gone(pids: set[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


UNSCORED = ["evaluation=none", "objective=null"]  # shares of 32 samples may change by one
METHODS = {
    "vanilla": ["loss=vanilla"],
    "wgan_gp": ["loss=wgan_gp"],
    "labels, averages": ["conditioning=acgan", "penalty=lecam", "penalty.lecam.start_kimg=0.1", *UNSCORED],
    "codes, and an encoder": ["conditioning=cluster_gan", *UNSCORED],
    "packs, and shared fakes": ["model.packing=2", "loss.share_fakes=true", "loss=wgan_gp", *UNSCORED],
}


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_learn_what_one_does(method: str, tmp_path: Path) -> None:
    done(
        "train",
        *RUN,
        *METHODS[method],
        "accelerator=cpu",
        "accelerator.precision=fp32",
        "hydra.run.dir=one",
        cwd=tmp_path,
    )
    done("train", *RUN, *METHODS[method], *TWO, "hydra.run.dir=two", cwd=tmp_path)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 5
    assert record_of(tmp_path / "two")["status"] == "finished"
    for alone, shared in zip(one, two, strict=True):
        assert list(alone) == list(shared)
        for name in alone:
            if name not in ("wall_seconds", "images_per_second"):
                # Wasserstein's L_D is a small difference of logits: hence the absolute part.
                assert shared[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-5), (name, alone["images_seen"])
    assert one[-1]["loss/generator"] != one[0]["loss/generator"]

    states = [read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("one", "two")]
    assert states[0]["counters"] == states[1]["counters"]
    for network in ("generator", "discriminator", "generator_ema"):
        for name, weights in states[0][network].items():
            torch.testing.assert_close(states[1][network][name], weights, rtol=1e-4, atol=1e-5)
    if method == "vanilla":
        # What two processes have saved, one can prolong.
        done("resume", "run=two", "budget.kimg=0.48", "accelerator.num_processes=1", cwd=tmp_path)
        assert record_of(tmp_path / "two")["images_seen"] == 480


def test_sigterm_saves_and_exits(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("train", *RUN, *TWO, "budget.kimg=10000", "callbacks.metrics.every_kimg=1", "hydra.run.dir=run"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        while process.poll() is None and not (tmp_path / "run" / "metrics.csv").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = children(process.pid)
        assert len(workers) >= 2
        process.terminate()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert out == ""
    assert "Traceback" not in err
    assert err.count("continue with: gan-lab resume run=run") == 1
    assert all_gone(workers)
    record = record_of(tmp_path / "run")
    assert record["status"] == "interrupted"
    saved = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["counters"]["images_seen"]
    assert 1000 <= saved == record["images_seen"] < 10_000_000


def test_error_in_a_worker_is_reported_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = called("train", *RUN, *TWO, "optimizer.lr=1e30", "hydra.run.dir=run", cwd=tmp_path)
    assert torch.multiprocessing.active_children() == []
    _, workers_err = capfd.readouterr()
    assert (result.code, result.out) == (1, "")
    err = result.err + workers_err
    assert "Traceback" not in err
    assert err.count("error: ") == 1, err
    assert result.err.splitlines()[-1].startswith("error: the ")
    assert " loss became " in result.err
    record = record_of(tmp_path / "run")
    assert record["status"] == "failed"
    assert " loss became " in str(record["error"])
