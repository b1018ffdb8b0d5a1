"""The machine is shared: threads are divided, and no GPU has more runs than it was given room for, whatever dies."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import joblib
import pytest
import torch

from gan_lab.errors import RunError
from gan_lab.sweep import devices
from gan_lab.sweep.devices import (
    GPUS,
    default_num_jobs,
    gpus,
    hand_on_gpus,
    take_gpus,
    threads_per_run,
    usable_cores,
    visible_gpus,
)

BOTH = ["GPU-a", "GPU-b"]


@pytest.fixture(autouse=True)
def _own_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks in a folder of the test's own, as a machine of its own would have."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    names = (
        "SLURM_JOB_ID",
        "SLURM_CPUS_PER_TASK",
        "SUBMITIT_EXECUTOR",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        GPUS,
    )
    for name in names:
        monkeypatch.delenv(name, raising=False)


def started(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def printed(program: str) -> str:
    return started(program).communicate(timeout=60)[0].strip()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


HOLD = """
import sys
from gan_lab.sweep.devices import gpus
with gpus({num}, {runs_per_gpu}, {visible}) as taken:
    print(*taken, flush=True)
    sys.stdin.read()
"""


def holding(num: int, runs_per_gpu: int, visible: list[str]) -> subprocess.Popen[str]:
    """A process that holds places until its standard input ends; it prints where once it has them."""
    return started(HOLD.format(num=num, runs_per_gpu=runs_per_gpu, visible=visible))


class GaveUp(Exception):
    pass


def give_up() -> None:
    raise GaveUp


def is_free(num: int, runs_per_gpu: int, visible: list[str]) -> bool:
    try:
        with gpus(num, runs_per_gpu, visible, give_up):
            return True
    except GaveUp:
        return False


# ---------------------------------------------------------------------- threads


@pytest.mark.parametrize(
    ("num_jobs", "limit", "threads"),
    [
        (1, None, 8),
        (2, None, 4),
        (3, None, 2),
        (9, None, 1),
        (2, "1", 1),
        (2, "3", 3),
        (2, "64", 4),
        (2, " 3,2", 3),
        (2, "0", 4),
        (2, "many", 4),
    ],
)
def test_threads_are_divided(num_jobs: int, limit: str | None, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 8)
    if limit is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert threads_per_run(num_jobs) == threads
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))  # a worker that asks again
    assert threads_per_run(num_jobs) == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_cores_are_those_that_this_process_may_use() -> None:
    program = "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])\n"
    program += "from gan_lab.sweep.devices import usable_cores; print(usable_cores())"
    assert printed(program) == "1"


def test_slurm_may_give_fewer_cores_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    for share, expected in (("4", 4), ("64", 8), ("0", 8), ("", 8)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", share)
        assert usable_cores() == expected


# ---------------------------------------------------------------------- what is there


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("0", ["0"]),
        ("3,1", ["3", "1"]),
        ("GPU-8932f937-d72c, GPU-1", ["GPU-8932f937-d72c", "GPU-1"]),
        ("", []),
        ("-1", []),
        ("2,-1,1", ["2"]),
    ],
)
def test_visible_gpus_are_those_that_cuda_would_see(
    names: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert visible_gpus() == expected


def test_all_gpus_are_visible_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert visible_gpus() == ["0", "1", "2"]
    assert default_num_jobs(2) == 6


def test_counting_gpus_does_not_initialise_cuda() -> None:
    program = "from gan_lab.sweep.devices import visible_gpus; visible_gpus()\n"
    program += "import torch; print(torch.cuda.is_initialized())"
    assert printed(program) == "False"


def test_as_many_jobs_as_gpus_have_room_for_or_as_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [default_num_jobs(1), default_num_jobs(3)] == [2, 6]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert default_num_jobs(3) == usable_cores()


def test_workers_of_submitit_see_the_gpus_of_their_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its local executor shows its jobs no GPU, or the first few of the machine."""
    monkeypatch.setenv(GPUS, "")  # undone at the end
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-b")
    hand_on_gpus()
    for executor, hidden, expected in (
        ("local", "", ["4", "GPU-b"]),
        ("local", "0,1", ["4", "GPU-b"]),
        ("slurm", "0", ["0"]),
    ):
        monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        take_gpus()
        assert visible_gpus() == expected
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    take_gpus()
    assert visible_gpus() == ["0"]


# ---------------------------------------------------------------------- the pool


def test_emptiest_gpu_first_and_no_more_than_there_is_room_for() -> None:
    with ExitStack() as held:
        taken = [held.enter_context(gpus(1, 2, BOTH)) for _ in range(4)]
        assert taken == [["GPU-a"], ["GPU-b"], ["GPU-a"], ["GPU-b"]]
        assert not is_free(1, 2, BOTH)
    with gpus(1, 2, BOTH), gpus(1, 2, BOTH) as second:
        assert second == ["GPU-b"]
        with gpus(2, 2, BOTH) as all_of_them:
            assert all_of_them == BOTH
    with gpus(1, 2, BOTH), gpus(2, 2, BOTH) as in_order:
        assert in_order == BOTH


def test_what_is_left_is_found() -> None:
    with ExitStack() as held:
        first = ExitStack()
        first.enter_context(gpus(1, 1, ["a", "b", "c"]))
        held.enter_context(gpus(1, 1, ["a", "b", "c"]))
        first.close()
        assert held.enter_context(gpus(2, 1, ["a", "b", "c"])) == ["a", "c"]
        assert not is_free(1, 1, ["a", "b", "c"])


def test_all_or_none() -> None:
    """A run that finds one of the two GPUs that it needs holds nothing while it waits."""
    with gpus(1, 1, BOTH):
        tries = 0

        def look() -> None:
            nonlocal tries
            tries += 1
            assert is_free(1, 1, BOTH)
            if tries == 3:
                raise GaveUp

        with pytest.raises(GaveUp), gpus(2, 1, BOTH, look):
            pass
    assert is_free(2, 1, BOTH)


def test_more_gpus_than_there_are_is_refused() -> None:
    message = r"num_processes=3: this machine offers 2 GPU\(s\) \(GPU-a, GPU-b\); use at most as many"
    with pytest.raises(RunError, match=message), gpus(3, 1, BOTH, give_up):
        pass
    with pytest.raises(RunError, match=r"0 GPU\(s\) \(none\)"), gpus(1, 1, [], give_up):
        pass


def test_place_is_given_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), gpus(2, 1, BOTH):
        raise ZeroDivisionError
    assert is_free(2, 1, BOTH)


def test_sweeps_with_different_room_respect_each_other() -> None:
    with gpus(1, 2, ["a"]), gpus(1, 2, ["a"]):
        assert not is_free(1, 1, ["a"])
        assert is_free(1, 3, ["a"])
    with ExitStack() as second_place:
        with gpus(1, 2, ["a"]):
            second_place.enter_context(gpus(1, 2, ["a"]))
        assert not is_free(1, 1, ["a"])  # its own place is free, the GPU is not
    with gpus(1, 1, ["a"]):
        assert is_free(1, 2, ["a"])


def test_names_that_are_no_file_names() -> None:
    with gpus(1, 1, ["MIG-GPU-1/2/0"]):
        assert not is_free(1, 1, ["MIG-GPU-1/2/0"])


def test_jobs_of_slurm_do_not_take_their_gpus_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM may show every job its own GPU as number 0."""
    monkeypatch.setenv("SLURM_JOB_ID", "17_1")
    with gpus(1, 1, ["0"]):
        assert not is_free(1, 1, ["0"])
        monkeypatch.setenv("SLURM_JOB_ID", "17_2")
        assert is_free(1, 1, ["0"])


# ---------------------------------------------------------------------- several processes


def test_killed_process_gives_its_gpus_back() -> None:
    holder = holding(2, 1, BOTH)
    assert answer(holder) == "GPU-a GPU-b"
    assert not is_free(1, 1, BOTH)
    waiter = holding(1, 1, BOTH)
    time.sleep(0.5)
    assert waiter.poll() is None
    holder.kill()
    holder.communicate()
    assert answer(waiter) == "GPU-a"
    assert not is_free(2, 1, BOTH)
    waiter.communicate("")
    assert is_free(2, 1, BOTH)


TRIES = """
from gan_lab.sweep import devices
devices.SECONDS_BETWEEN_TRIES = 0
print("tries", flush=True)
with devices.gpus(2, 1, {visible}):
    pass
"""


def test_who_only_looks_is_not_in_the_way() -> None:
    with gpus(1, 1, BOTH):
        looking = started(TRIES.format(visible=BOTH))
        assert answer(looking) == "tries"
        assert all(is_free(1, 1, BOTH) for _ in range(300))
    looking.communicate(timeout=60)
    assert looking.returncode == 0


RUNS = """
import json, random, sys, time
from pathlib import Path
from gan_lab.sweep import devices
devices.SECONDS_BETWEEN_TRIES = 0.005
random.seed({seed})
most = dict.fromkeys("abc", 0)
for _ in range(25):
    num = random.choice([1, 2, 3])
    with devices.gpus(num, 2, list("abc")) as taken:
        assert len(set(taken)) == num
        marks = [Path("marks", f"{{name}}-{seed}") for name in taken]
        for name, mark in zip(taken, marks):
            mark.touch(exist_ok=False)
            most[name] = max(most[name], len(list(Path("marks").glob(name + "-*"))))
        time.sleep(random.uniform(0, 0.01))
        for mark in marks:
            mark.unlink()
print(json.dumps(most), flush=True)
"""


def test_many_processes_that_want_several_gpus_each_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None waits forever, and no GPU ever has more than its two runs."""
    (tmp_path / "marks").mkdir()
    monkeypatch.chdir(tmp_path)
    processes = [started(RUNS.format(seed=seed)) for seed in range(4)]
    most = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert {name: max(seen[name] for seen in most) for name in "abc"} == {"a": 2, "b": 2, "c": 2}
