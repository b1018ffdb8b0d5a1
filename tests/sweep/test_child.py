"""A trial in a process of its own: every way in which it can end is told apart, and none harms the caller."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import assert_same_run
from test_cli import SMALL

from gan_lab.compose import Composer, register_resolvers
from gan_lab.config import save
from gan_lab.files import read_json
from gan_lab.run import train
from gan_lab.sweep import child
from gan_lab.sweep.child import Ended, Progress, run_in_child


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])


def frozen(run_dir: Path, *overrides: str) -> Path:
    register_resolvers(make=False)
    save(Composer().compose([*SMALL, *overrides]), "a name", run_dir)
    return run_dir


def ended(run_dir: Path, **changes: Any) -> Ended:
    settings: dict[str, Any] = {
        "command": ["gan-lab", "train", "seed=3"],
        "threads": 1,
        "environment": {},
        "timeout_seconds": None,
        "listen": lambda progress: True,
        "should_stop": lambda: False,
    }
    return run_in_child(run_dir, **(settings | changes))


def test_it_trains_as_this_process_would(tmp_path: Path) -> None:
    heard: list[Progress] = []

    def listen(progress: Progress) -> bool:
        heard.append(progress)
        return True

    # SMALL as `train` composes it, once here and once in the child.
    register_resolvers(make=False)
    train(Composer().compose([*SMALL, "seed=3", "name=x"]), tmp_path / "here")
    assert ended(frozen(tmp_path / "there", "seed=3"), listen=listen) == Ended("finished")

    assert_same_run(tmp_path / "here", tmp_path / "there")
    record = read_json(tmp_path / "there" / "run.json")
    assert record["command"] == ["gan-lab", "train", "seed=3"]
    assert record["machine"]["threads"] == 1
    assert heard[-1].images_seen == 64
    assert heard[-1].share == 1.0
    assert heard[-1].metrics["fd"] == record["metrics"]["fd"]


def test_no_prunes(tmp_path: Path) -> None:
    run_dir = frozen(tmp_path, "callbacks.metrics.every_kimg=0.016")
    assert ended(run_dir, listen=lambda progress: progress.images_seen < 32) == Ended("pruned")
    record = read_json(run_dir / "run.json")
    assert record["status"] == "pruned"
    assert 32 <= record["images_seen"] < 64


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("raises", "crashed", "unexpected KeyError: 'this data set is broken'"),
        ("exits", "crashed", "its process ended with exit code 7"),
        ("aborts", "killed", "its process was ended by SIGABRT"),
        ("killed", "killed", "its process was ended by SIGKILL; the system kills what takes too much memory"),
        ("out_of_memory", "out_of_memory", "the device ran out of memory"),
        ("memory_error", "out_of_memory", "the device ran out of memory"),
        ("wrong", "configuration", "dataset: this data set needs something else"),
    ],
)
def test_every_failure_is_named(how: str, kind: str, words: str, tmp_path: Path) -> None:
    result = ended(failing_run(tmp_path, how))
    assert (result.status, result.kind) == ("failed", kind)
    assert result.reason is not None
    assert result.reason.startswith(words)
    log = (tmp_path / "run.log").read_text()
    if how == "raises":
        assert "Traceback" in log
    if how == "aborts":
        assert "last words" in log


def failing_run(run_dir: Path, how: str, *overrides: str) -> Path:
    return frozen(run_dir, "++dataset={_target_: failing.failing, how: " + how + "}", *overrides)


def test_a_loss_that_diverges_is_named(tmp_path: Path) -> None:
    result = ended(frozen(tmp_path, "optimizer.lr=1e30"))
    assert (result.status, result.kind) == ("failed", "diverged")
    assert result.reason is not None
    assert "loss became nan" in result.reason


def test_too_slow_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "SECONDS_TO_SAVE", 1.0)
    started = time.monotonic()
    result = ended(failing_run(tmp_path, "hangs"), timeout_seconds=2.0)
    assert result == Ended("failed", "timed_out", "not finished after 0.0333333 minutes (timeout_minutes)")
    assert time.monotonic() - started < 30


def test_asked_to_stop_it_saves_and_goes_on_later(tmp_path: Path) -> None:
    long = ["budget.kimg=1", "callbacks.metrics.every_kimg=0.016", "callbacks.checkpoint.every_kimg=100"]
    seen: list[int] = []

    def listen(progress: Progress) -> bool:
        seen.append(progress.images_seen)
        return True

    run_dir = frozen(tmp_path / "stopped", *long)
    assert ended(run_dir, listen=listen, should_stop=lambda: len(seen) > 2) == Ended("interrupted")
    assert read_json(run_dir / "run.json")["status"] == "interrupted"
    assert (run_dir / "checkpoints" / "last.ckpt").is_file()
    assert ended(run_dir) == Ended("finished")
    assert ended(frozen(tmp_path / "whole", *long)) == Ended("finished")
    assert_same_run(run_dir, tmp_path / "whole")


def test_environment_and_folder_reach_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAN_LAB_TEST", "here")
    overrides = "++dataset={_target_: reading.reading}"
    (tmp_path / "reading.py").write_text(
        "import os\nfrom gan_lab.data.digits import digits\n"
        "def reading(**settings):\n"
        "    open('seen.txt', 'w').write(os.environ['GAN_LAB_TEST'] + os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "    return digits()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert ended(frozen(tmp_path / "run", overrides), environment={"CUDA_VISIBLE_DEVICES": "5"}) == Ended("finished")
    assert (tmp_path / "seen.txt").read_text() == "here5"


def test_a_trial_stops_when_its_worker_is_killed(tmp_path: Path) -> None:
    """The trial saves and ends by itself; the run is whole when it is resumed."""
    import subprocess

    run_dir = frozen(tmp_path, "budget.kimg=50", "callbacks.metrics.every_kimg=0.016")
    script = (
        "import sys; from pathlib import Path; from gan_lab.sweep.child import run_in_child\n"
        "if __name__ == '__main__':\n"
        f"    run_in_child(Path({str(run_dir)!r}), command=[], threads=1, environment={{}}, timeout_seconds=None,\n"
        "        listen=lambda progress: print(progress.images_seen, flush=True) is None, should_stop=lambda: False)\n"
    )
    path = tmp_path / "worker.py"
    path.write_text(script)
    worker = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert int(worker.stdout.readline()) > 0
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    wait_for(lambda: read_json(run_dir / "run.json")["status"] == "interrupted")
    assert (run_dir / "checkpoints" / "last.ckpt").is_file()


def wait_for(condition: Callable[[], bool], seconds: float = 100.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
