"""A search on a real PostgreSQL server, started here: two commands, one killed, and no result too few or too many."""

import json
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cli import SMALL, called

from gan_lab.errors import ConfigError
from gan_lab.files import read_json
from gan_lab.sweep.space import parse_space
from gan_lab.sweep.storage import without_password
from gan_lab.sweep.trials import Outcome

optuna = pytest.importorskip("optuna", reason="needs the extra optuna")
pytest.importorskip("psycopg", reason="needs the package psycopg")
from gan_lab.sweep.study import Study  # noqa: E402

NUM_TRIALS = 6
WORKER = """
import json, sys, time
from pathlib import Path
from test_postgres import study_in
from gan_lab.sweep.trials import Outcome

study = study_in(Path(sys.argv[1]), sys.argv[2])
left = int(sys.argv[3])
while study.waiting():
    trial = study.claim()
    if trial is None:
        time.sleep(0.05)
        continue
    print(json.dumps([trial.number, trial.params]), flush=True)
    left -= 1
    if left == 0:
        time.sleep(60)
    for step in range(1, 6):
        time.sleep(0.05)
        study.beat(trial)
        study.report(trial, 1000 * step, {"fd": trial.params["x"] / step})
    study.finish(trial, Outcome("finished", {"fd": trial.params["x"]}))
"""


def study_in(sweep_dir: Path, url: str, **changes: Any) -> Study:
    settings: dict[str, Any] = {
        "sweep_dir": sweep_dir,
        "parameters": parse_space(["x=interval(0,1)", "n=1,2,3"])[1],
        "objectives": {"fd": "minimize"},
        "num_trials": NUM_TRIALS,
        "sampler": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 4},
        "pruner": None,
        "storage": url,
        "study_name": "search",
        "seed": 0,
        "budget_images": 1000,
        "stale_seconds": 2.0,
    }
    return Study(**(settings | changes))


def programs() -> Path | None:
    """Where PostgreSQL's server is: on the PATH, or where Debian has it."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)


class Server:
    """A PostgreSQL server with a data directory of its own, on a free port of this machine."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.folder = programs, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.user: int | None = None
        if os.geteuid() == 0:  # as which PostgreSQL refuses to run
            self.user = next(pwd.getpwnam(name).pw_uid for name in ("postgres", "nobody") if _is_user(name))
            os.chown(folder, self.user, -1)
        self._run("initdb", "--auth=trust", "--username=me", "--no-sync", "--encoding=UTF8", "--locale=C")
        self.start()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://me:secret@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        result = subprocess.run(
            command,
            user=self.user,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stdout + result.stderr

    def start(self) -> None:
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "start", "-w", "-o", settings, "-l", str(self.folder / "log"))

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-m", "immediate")


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        running = Server(found, Path(folder))
        yield running
        running.stop()


@pytest.fixture
def url(server: Server) -> str:
    """A database of the test's own."""
    import psycopg

    name = f"test_{random.randrange(10**9)}"
    with psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.url(name)


def worker(sweep_dir: Path, url: str, hangs_at: int = 0) -> "subprocess.Popen[str]":
    """A process that runs trials until none is left; its trial number `hangs_at` (from 1) does not end."""
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(sweep_dir), url, str(hangs_at)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def said(process: "subprocess.Popen[str]") -> list[Any]:
    """[number, params] of the trials that a worker claims until it ends."""
    assert process.stdout is not None
    return [json.loads(line) for line in process.stdout]


def test_two_commands_share_a_search_and_one_is_killed(url: str, tmp_path: Path) -> None:
    killed, other = worker(tmp_path / "one", url, hangs_at=2), worker(tmp_path / "other", url)
    try:
        assert killed.stdout is not None
        started = [json.loads(killed.stdout.readline()) for _ in range(2)]
        killed.send_signal(signal.SIGKILL)
        claims = said(other)
        assert other.wait(60) == 0
        assert said(killed) == []
    finally:
        for process in (killed, other):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    study = study_in(tmp_path / "look", url)
    assert study.counts() == {"finished": NUM_TRIALS, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    lost = started[-1]  # what the killed one was at is run again, with the same parameters, by the other
    assert lost in claims
    assert sorted(number for number, _ in claims + started[:-1]) == list(range(NUM_TRIALS))
    states = sorted((one.state.name, one.user_attrs.get("kind")) for one in study.study.trials)
    assert states[:-1] == [("COMPLETE", None)] * NUM_TRIALS
    assert states[-1] == ("FAIL", "replaced")
    study.close()


def test_two_commands_that_start_at_once_agree_on_the_trials(url: str, tmp_path: Path) -> None:
    """Tables, study and trials are made by whoever comes first."""
    workers = [worker(tmp_path / name, url) for name in ("one", "other")]
    claims = [number for process in workers for number, _ in said(process)]
    for process in workers:
        assert process.wait(60) == 0
        assert process.stdout is not None
        process.stdout.close()
    assert sorted(claims) == list(range(NUM_TRIALS))
    study = study_in(tmp_path / "look", url)
    assert study.counts()["finished"] == NUM_TRIALS
    best = min(study.study.trials, key=lambda one: one.value or 0)
    run = best.user_attrs["run"]
    assert study.best() == [run]
    places = [f"{socket.gethostname()}:{tmp_path / name}/{run}" for name in ("one", "other")]
    x, n = best.params["x"], best.params["n"]
    assert study.standing() in [f"6 finished; best: {place}: fd {x:.5g} (x={x!r} n={n})" for place in places]
    study.close()


def test_a_search_outlives_a_restart_of_its_server(server: Server, url: str, tmp_path: Path) -> None:
    study = study_in(tmp_path / "one", url)
    trial = study.claim()
    assert trial is not None
    server.stop()
    time.sleep(0.3)
    study.beat(trial)  # is not an error
    restart = threading.Timer(1.0, server.start)
    restart.start()
    assert study.report(trial, 1000, {"fd": 1.0})  # waits for the server
    restart.join()
    study.finish(trial, Outcome("finished", {"fd": 1.0}))
    assert study.counts()["finished"] == 1
    study.close()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"hydra.sweeper.storage=postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x cannot be"
    ):
        study_in(tmp_path, "postgresql+psycopg://me:secret@127.0.0.1:1/x")


def test_the_password_of_a_storage_is_shown_nowhere(url: str, tmp_path: Path) -> None:
    """The second command, elsewhere, runs what is left and says where the whole search stands."""
    search = [*SMALL, "hydra/sweeper=optuna", f"hydra.sweeper.storage={url}", "hydra.sweeper.study_name=shared"]
    search += ["optimizer.lr=interval(1e-4,1e-3)", "hydra.sweep.dir=sweep"]
    for number, place in enumerate(("one", "other"), start=1):
        (tmp_path / place).mkdir()
        result = called("train", "-m", *search, f"hydra.sweeper.num_trials={number}", cwd=tmp_path / place)
        assert result.code == 0, result.err
        assert f"study shared, on all machines: {number} finished; best: " in result.err
        assert "secret" not in result.out + result.err
        shown = read_json(tmp_path / place / "sweep" / "sweep.json")["command"]
        assert f"hydra.sweeper.storage={without_password(url)}" in shown
        assert "me:***@" in shown
    telling = [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    assert telling  # gan-lab resume needs it
    assert {stat.S_IMODE(path.stat().st_mode) for path in telling} == {0o600}
