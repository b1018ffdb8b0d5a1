"""What is shown of a sweep: on a terminal, elsewhere, and when its files are missing, half written or foreign."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gan_lab.sweep import monitor as monitor_module
from gan_lab.sweep.monitor import Block, Monitor, short_overrides

NOW = 1_800_000_000.0


class Sweep:
    """A sweep's directory, written as workers would."""

    def __init__(self, directory: Path, num_trials: int | None = 10, **objectives: str):
        self.directory = directory
        directory.mkdir()
        self.write("sweep.json", {"num_trials": num_trials, "objectives": objectives or {"fd": "minimize"}})
        self.seconds = 0

    def write(self, name: str, content: Any) -> None:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    def starts(self, number: int, *overrides: str) -> None:
        self.write(f"{number}/trial.json", {"status": "running", "overrides": overrides or [f"seed={number}"]})
        os.utime(self.directory / str(number) / "trial.json", (NOW, NOW))

    def runs(self, number: int, share: float, at: float = 0.0, fd: float | None = None) -> None:
        live = {"share": share, "images_seen": share * 10_000, "images_per_second": 1234.5, "at": NOW + at}
        self.write(f"{number}/.live.json", live | {"metrics": {} if fd is None else {"fd": fd, "recall": 0.5}})

    def ends(self, number: int, status: str = "finished", **facts: Any) -> None:
        chosen = {"overrides": [f"seed={number}"], "params": {"number": number}}
        content = {"status": status, **chosen, "seconds": 60.0, "values": {}, **facts}
        self.write(f"{number}/trial.json", content)
        self.seconds += 1  # files of one test are written within a tick of the file system's clock
        os.utime(self.directory / str(number) / "trial.json", (NOW + self.seconds, NOW + self.seconds))
        (self.directory / str(number) / ".live.json").unlink(missing_ok=True)


class Screen(io.StringIO):
    """A terminal of 80 columns, as far as cursor movements go; `text` is what a person sees."""

    width = 80

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[str] = [""]
        self.row = self.column = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[\d*[A-Z]|\n|\r|[^\x1b\n\r]+", text):
            if part == "\n":
                self.row, self.column = self.row + 1, 0
            elif part == "\r":
                self.column = 0
            elif part == "\x1b[J":
                self.rows = [*self.rows[: self.row], self.rows[self.row][: self.column]]
            elif up := re.fullmatch(r"\x1b\[(\d+)A", part):
                self.row -= int(up[1])
                assert self.row >= 0
            else:
                assert not part.startswith("\x1b"), part
                assert self.column + len(part) <= self.width
                self.rows[self.row] = self.rows[self.row][: self.column].ljust(self.column) + part
                self.column += len(part)
            self.rows += [""] * (self.row + 1 - len(self.rows))
        return len(text)

    @property
    def text(self) -> list[str]:
        return self.rows[:-1] if self.rows[-1] == "" else self.rows


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "sweep")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time, in seconds after NOW."""

    def set_clock(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: NOW + seconds)
        monkeypatch.setattr(time, "monotonic", lambda: seconds)

    set_clock(0.0)
    return set_clock


class Watched:
    """A monitor whose refreshes the test asks for."""

    def __init__(self, sweep: Sweep, terminal: bool = False):
        self.screen = Screen() if terminal else io.StringIO()
        self.out = io.StringIO()
        self.monitor = Monitor(sweep.directory, screen=self.screen, out=self.out)
        self.monitor.read()

    def __call__(self) -> list[str]:
        """What a refresh leaves on the screen, or adds to it where it is no terminal."""
        before = 0 if isinstance(self.screen, Screen) else len(self.screen.getvalue())
        self.monitor.refresh()
        if isinstance(self.screen, Screen):
            return self.screen.text
        return self.screen.getvalue()[before:].splitlines()

    @property
    def runs(self) -> list[str]:
        return [Path(line.removeprefix("run: ")).name for line in self.out.getvalue().splitlines()]


# ---------------------------------------------------------------------- where there is no terminal


def test_each_end_is_said_once_with_its_reason(sweep: Sweep, clock: Any) -> None:
    watched = Watched(sweep)
    assert watched() == []
    sweep.starts(0, "loss=hinge", "optimizer.lr=0.000312345")
    assert watched() == []
    sweep.ends(0, values={"fd": 3.2149}, overrides=["loss=hinge", "optimizer.lr=0.000312345"], seconds=75.2)
    assert watched() == ["#0 finished in 01:15: fd 3.215 (loss=hinge, lr=0.0003123)"]
    sweep.ends(2, "pruned", values={"fd": 20}, seconds=8)
    sweep.ends(1, "failed", kind="diverged", reason="the loss became nan\nat 16 images", seconds=3, overrides=["a.b=1"])
    assert watched() == [
        "#2 pruned after 00:08: fd 20 (seed=2)",
        "#1 failed after 00:03: the loss became nan at 16 images (b=1)",
    ]
    assert watched() == []
    assert watched.out.getvalue() == f"run: {sweep.directory / '0'}\n"


def test_runs_are_printed_in_the_order_of_their_ends(sweep: Sweep, clock: Any) -> None:
    watched = Watched(sweep)
    for number in (7, 0, 12, 3):
        sweep.ends(number, "failed" if number == 12 else "finished")
    watched()
    sweep.ends(1)
    watched()
    assert watched.runs == ["7", "0", "3", "1"]


def test_what_had_ended_before_is_counted_but_not_said(sweep: Sweep) -> None:
    sweep.ends(0, values={"fd": 5.0})
    sweep.ends(1, "failed")
    screen, out = io.StringIO(), io.StringIO()
    with Monitor(sweep.directory, screen=screen, out=out):
        sweep.ends(2, values={"fd": 7.0})
    assert out.getvalue() == f"run: {sweep.directory / '2'}\n"
    first, last = screen.getvalue().splitlines()
    assert first == "#2 finished in 01:00: fd 7 (seed=2)"
    assert last == "3 of 10 done (1 failed), best #0: fd 5 (seed=0), in 00:00"


def test_a_summary_every_half_minute(sweep: Sweep, clock: Any) -> None:
    watched = Watched(sweep)
    said = []
    for seconds in range(0, 100, 10):
        clock(float(seconds))
        said.append(watched())
    assert [index for index, lines in enumerate(said) if lines] == [4, 8]
    assert said[4] == ["0 of 10 done"]


# ---------------------------------------------------------------------- the summary


def test_best_by_each_objective(tmp_path: Path, clock: Any) -> None:
    sweep = Sweep(tmp_path / "sweep", 4, fd="minimize", recall="maximize")
    for number, (fd, recall) in enumerate([(3.0, 0.5), (2.0, 0.4), (9.0, 0.9)]):
        sweep.ends(number, values={"fd": fd, "recall": recall})
    sweep.ends(3, "pruned", values={"fd": 0.1, "recall": 1.0})
    assert Watched(sweep).monitor.summary() == "4 of 4 done (1 pruned), best fd 2 (#1), recall 0.9 (#2)"


def test_the_best_so_far_is_the_configuration_that_would_win(tmp_path: Path, clock: Any) -> None:
    """One lucky seed is not the best in the progress lines and another in the results."""
    sweep = Sweep(tmp_path / "sweep", 4)
    for number, (loss, seed, fd) in enumerate(
        [("hinge", 1, 1.0), ("hinge", 2, 9.0), ("vanilla", 1, 4.0), ("vanilla", 2, 3.0)]
    ):
        chosen = {"overrides": [f"loss={loss}", f"seed={seed}"], "params": {"loss": loss, "seed": seed}}
        sweep.ends(number, values={"fd": fd}, **chosen)
    expected = "4 of 4 done, best #3: fd 3 (loss=vanilla, seed=2), mean of 2 seeds 3.5"
    assert Watched(sweep).monitor.summary() == expected
    sweep.write("sweep.json", {"num_trials": 4, "objectives": {"fd": "minimize", "wall_seconds": "minimize"}})
    assert Watched(sweep).monitor.summary() == "4 of 4 done, best fd 3 (#3, mean of 2 seeds 3.5)"


def test_larger_may_be_better_and_there_may_be_no_objective(tmp_path: Path, clock: Any) -> None:
    sweep = Sweep(tmp_path / "sweep", 2, recall="maximize")
    sweep.ends(0, values={"recall": 0.2})
    sweep.ends(1, values={"recall": 0.7})
    assert Watched(sweep).monitor.summary() == "2 of 2 done, best #1: recall 0.7 (seed=1)"
    sweep.write("sweep.json", {"num_trials": None, "objectives": {}})
    assert Watched(sweep).monitor.summary() == "2 done"


def test_time_left_is_the_rest_by_the_mean_shared_by_those_that_run(sweep: Sweep, clock: Any) -> None:
    watched = Watched(sweep)
    for number in range(4):
        sweep.ends(number, seconds=100.0 + 20 * number)  # mean: 130
    watched()
    assert watched.monitor.seconds_left() is None  # nothing runs
    sweep.starts(4)
    sweep.starts(5)
    sweep.runs(4, 0.5)
    watched()
    # One half and one whole that run, four that wait, two at a time.
    assert watched.monitor.seconds_left() == pytest.approx((65 + 130 + 4 * 130) / 2)
    sweep.write("sweep.json", {"num_trials": 6, "objectives": {}})
    watched()
    assert watched.monitor.seconds_left() == pytest.approx(130)  # not before the last has ended


def test_time_left_of_a_trial_is_by_its_own_speed_since_it_was_first_seen(sweep: Sweep, clock: Any) -> None:
    watched = Watched(sweep)
    sweep.starts(0)
    sweep.runs(0, 0.6, at=0)  # resumed: the first 0.6 say nothing of today's speed
    watched()
    assert watched.monitor.seconds_left() is None
    clock(20)
    sweep.runs(0, 0.8, at=10)
    watched()
    assert watched.monitor.running[0].seconds_left(NOW + 20) == pytest.approx(0.0)
    assert watched.monitor.running[0].seconds_left(NOW + 13) == pytest.approx(7.0)
    sweep.runs(0, 0.2, at=30)  # taken over by another worker, from an older checkpoint
    watched()
    assert watched.monitor.running[0].seconds_left(NOW + 30) is None
    sweep.runs(0, 0.3, at=40)
    watched()
    assert watched.monitor.running[0].seconds_left(NOW + 40) == pytest.approx(70.0)


def test_before_the_first_end_the_running_ones_tell(sweep: Sweep, clock: Any) -> None:
    watched = Watched(sweep)
    for number in (0, 1):
        sweep.starts(number)
        sweep.runs(number, 0.0, at=0)
    watched()
    clock(10)
    for number in (0, 1):
        sweep.runs(number, 0.25, at=10)  # 40 seconds each
    watched()
    assert watched.monitor.seconds_left() == pytest.approx((2 * 30 + 8 * 40) / 2)
    clock(50)  # both have gone on, unheard: their last evaluation is a long one
    watched()
    assert watched.monitor.seconds_left() == pytest.approx(8 * 50 / 2)


def test_a_trial_that_is_silent_is_not_counted_on(sweep: Sweep, clock: Any) -> None:
    watched = Watched(sweep, terminal=True)
    sweep.ends(0, seconds=100)
    sweep.starts(1)
    sweep.starts(2)
    sweep.runs(2, 0.5, at=100)
    clock(130)
    live, dead = watched()[1], watched()[0]
    assert "silent for 02:10" in dead
    assert "silent" not in live
    assert watched.monitor.seconds_left() == pytest.approx(50 + 8 * 100)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("content", ["", '{"status": "finis', "[1]", "null", "\x00\xff"])
def test_half_written_files_are_looked_at_again(sweep: Sweep, content: str, clock: Any) -> None:
    watched = Watched(sweep)
    sweep.write("3/trial.json", content)
    sweep.write("3/.live.json", content)
    sweep.write("sweep.json", content)
    watched()
    assert watched.monitor.summary() == "0 of 10 done"
    sweep.starts(3)
    watched()
    assert list(watched.monitor.running) == [3]
    assert watched.monitor.running[3].live == {}
    sweep.ends(3)
    watched()
    assert watched.runs == ["3"]


def test_foreign_and_missing_things_do_no_harm(sweep: Sweep, clock: Any) -> None:
    watched = Watched(sweep, terminal=True)
    for name in ("workers", "1x", "²", "5", "-1"):
        (sweep.directory / name).mkdir()
    sweep.write("7", "a file with a number for a name")
    strange = {"share": "half", "images_seen": None, "metrics": [1], "at": NOW, "images_per_second": "fast"}
    sweep.starts(8)
    sweep.write("8/.live.json", strange)
    sweep.starts(9)
    sweep.write("9/.live.json", strange | {"share": 0.5, "metrics": {"fd": "low"}})
    sweep.write("6/trial.json", {"status": "finished", "values": None, "seconds": "long", "overrides": None})
    sweep.write("4/trial.json", {"status": "failed", "values": {"fd": True}, "kind": "killed", "overrides": [1, "a"]})
    sweep.write("3/trial.json", {"status": "unheard of"})
    for line in watched():
        assert len(line) < 80
    assert watched.runs == ["6"]
    assert watched.monitor.counts == {"finished": 1, "pruned": 0, "failed": 1}
    assert sorted(watched.monitor.running) == [3, 8, 9]
    assert "#4 failed: killed (a=)" in watched.screen.text  # type: ignore[union-attr]
    for path in sweep.directory.rglob("*.json"):
        path.unlink()
    watched()
    assert watched.monitor.running == {}


def test_a_directory_that_is_gone(sweep: Sweep, clock: Any) -> None:
    watched = Watched(sweep)
    (sweep.directory / "sweep.json").unlink()
    sweep.directory.rmdir()
    assert watched() == []
    assert watched.monitor.summary() == "0 of 10 done"


def test_what_has_ended_is_not_read_again(sweep: Sweep, clock: Any) -> None:
    """A refresh of a long sweep costs what runs now, not what has been."""
    sweep.write("sweep.json", {"num_trials": 1000, "objectives": {"fd": "minimize"}})
    for number in range(300):
        sweep.ends(number, values={"fd": number})
    watched = Watched(sweep)
    for number in range(300):
        sweep.write(f"{number}/trial.json", {"status": "failed"})
    sweep.starts(300)
    read: list[Path] = []
    original = monitor_module.read_mapping
    monitor_module.read_mapping = lambda path: (read.append(path), original(path))[1]  # type: ignore[func-returns-value]
    try:
        watched()
        assert [str(path.relative_to(sweep.directory)) for path in read] == ["300/trial.json", "300/.live.json"]
        read.clear()
        watched()
        assert [str(path.relative_to(sweep.directory)) for path in read] == ["300/.live.json"]
    finally:
        monitor_module.read_mapping = original
    assert watched.monitor.counts == {"finished": 300, "pruned": 0, "failed": 0}


# ---------------------------------------------------------------------- a terminal


def test_a_line_for_each_running_trial(sweep: Sweep, clock: Any) -> None:
    watched = Watched(sweep, terminal=True)
    sweep.starts(0, "loss=hinge", "optimizer.lr=0.01")
    sweep.starts(12, "seed=3")
    sweep.runs(0, 0.0)
    watched()
    clock(10)
    sweep.runs(0, 0.41, at=10, fd=12.345)
    assert watched() == [
        "#0    41% [####......]  4.1 kimg  fd 12.35  00:14 left  loss=hinge, lr=0.01",
        "#12    0% [..........]  seed=3",
        "0 of 10 done, 01:56 left",
    ]
    sweep.ends(0, values={"fd": 8.0}, overrides=["loss=hinge"], seconds=30)
    sweep.ends(12, "failed", reason="out of memory", seconds=2)
    assert watched() == [
        "#12 failed after 00:02: out of memory (seed=12)",
        "2 of 10 done (1 failed), best #0: fd 8 (loss=hinge)",
    ]
    assert watched.runs == ["0"]


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_the_sweep_goes_on_when_nobody_reads(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "SECONDS_BETWEEN_REFRESHES", 0.01)
    with Monitor(sweep.directory, screen=Closed(), out=Closed()) as monitor:
        sweep.ends(0)
        monitor._thread.join(5)
        assert not monitor._thread.is_alive()


def test_messages_go_above_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    handler = logging.StreamHandler(screen)
    root = logging.getLogger()
    root.addHandler(handler)
    block = Block(screen)
    try:
        block.open()
        block.show(["one", "two"])
        logging.getLogger("somebody").warning("logged")
        print("printed")
        assert screen.text == ["logged", "printed", "one", "two"]
        print("half", end="")
        assert screen.text == ["logged", "printed", "half"]
        block.show(["three"])  # would end that line
        assert screen.text == ["logged", "printed", "half"]
        print(" and half")
        sys.stderr.writelines(["a\n", "b\n"])
        print("", end="")
        assert screen.text == ["logged", "printed", "half and half", "a", "b", "three"]
        block.show([])
        logging.getLogger("somebody").warning("last")
        assert screen.text == ["logged", "printed", "half and half", "a", "b", "last"]
    finally:
        block.close()
        root.removeHandler(handler)
    assert (sys.stderr, sys.stdout, handler.stream) == (screen, screen, screen)


def test_only_what_leads_to_the_terminal_goes_through_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, file = Screen(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", file)
    block = Block(screen)
    block.open()
    try:
        block.show(["one"])
        print("to a file")
        assert sys.stdout is file
    finally:
        block.close()
    assert (screen.text, file.getvalue()) == (["one"], "to a file\n")


def test_more_lines_than_the_terminal_has(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    block = Block(screen)
    monkeypatch.setattr(Block, "_size", lambda self: (80, 7))
    block.show([f"trial {number}" for number in range(20)] + ["summary"])
    assert screen.text == ["trial 0", "trial 1", "trial 2", "... and 17 more", "summary"]
    block.show(["x" * 200])
    assert screen.text == ["x" * 78 + "~"]
    monkeypatch.setattr(Block, "_size", lambda self: (40, 7))
    screen.rows = ["x" * 40, "x" * 38 + "~", ""]  # what a terminal makes of the line when it becomes narrower
    screen.row = 2
    block.show(["y"])
    assert screen.text == ["y"]


PROGRAM = """
import json, sys, time
from pathlib import Path
from gan_lab.sweep import monitor
monitor.SECONDS_BETWEEN_REFRESHES = 0.05
sweep = Path("sweep")
(sweep / "0").mkdir(parents=True)
(sweep / "sweep.json").write_text(json.dumps({"num_trials": 1, "objectives": {"fd": "minimize"}}))
(sweep / "0" / "trial.json").write_text(json.dumps({"status": "running", "overrides": ["seed=1"]}))
with monitor.Monitor(sweep):
    time.sleep(0.5)
    print("a message")
    ended = {"status": "finished", "overrides": ["seed=1"], "values": {"fd": 2}, "seconds": 61}
    (sweep / "0" / "trial.json").write_text(json.dumps(ended))
    time.sleep(0.5)
"""


@pytest.mark.parametrize("how", ["terminal", "dumb terminal", "pipe"])
def test_in_a_real_terminal_and_without(how: str, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="needs a system with pseudo-terminals")
    environment = {**os.environ, "TERM": "dumb" if how == "dumb terminal" else "xterm"}
    command = [sys.executable, "-c", PROGRAM]
    if how == "pipe":
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.stdout == "a message\nrun: sweep/0\n"
        assert done.stderr == "#0 finished in 01:01: fd 2 (seed=1)\n1 of 1 done, best #0: fd 2 (seed=1), in 00:01\n"
        return
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 4096):
            written += part
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0
    screen = Screen()
    screen.write(written.decode().replace("\r\n", "\n"))
    end = ["run: sweep/0", "1 of 1 done, best #0: fd 2 (seed=1), in 00:01"]
    if how == "terminal":
        assert b"#0     0% [..........]  seed=1" in written
        assert screen.text == ["a message", *end]
    else:
        assert b"\x1b" not in written
        assert screen.text == ["a message", "#0 finished in 01:01: fd 2 (seed=1)", *end]


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        (["loss=hinge", "++optimizer.lr=0.00031234567"], "loss=hinge, lr=0.0003123"),
        (
            ["optimizer.generator.lr=1", "optimizer.discriminator.lr=2.0"],
            "optimizer.generator.lr=1, optimizer.discriminator.lr=2",
        ),
        (["seed=12345678", "a=-3", "b=1e-5", "c=1e400"], "seed=12345678, a=-3, b=1e-05, c=inf"),
        (["optimizer.betas=[0.5,0.9]", "name='a\nb'"], "betas=[0.5,0.9], name='a b'"),
        ([], ""),
        (None, ""),
    ],
)
def test_short_overrides(overrides: list[str] | None, shown: str) -> None:
    assert short_overrides(overrides) == shown
