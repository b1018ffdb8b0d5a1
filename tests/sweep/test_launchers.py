"""Where a sweep runs does not change its numbers: each launcher gives what the basic one gives, to the last bit.

SLURM is played by three commands that do as sbatch, srun and sacct do, on this machine.
"""

import importlib.util
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from conftest import assert_same_run, command
from hydra.core.global_hydra import GlobalHydra
from test_cli import SMALL, called

from gan_lab.compose import Composer, conf_dir, register_resolvers
from gan_lab.errors import ConfigError
from gan_lab.files import read_json
from gan_lab.sweep.sweeper import refuse_missing_engine

PRESETS = sorted(path.stem for path in (conf_dir() / "hydra" / "launcher").glob("*.yaml"))
SWEEP = [*SMALL, "loss=hinge", "seed=1,2", "hydra.sweep.dir=sweep"]
TWO = "hydra.sweeper.n_jobs=2"

Command = Callable[..., subprocess.CompletedProcess[str]]


def needs(plugin: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec("hydra_plugins") is None or not importlib.util.find_spec(
        f"hydra_plugins.{plugin}"
    )
    return pytest.mark.skipif(missing, reason=f"the package {plugin.replace('_', '-')} is not installed")


JOBLIB, RAY, SUBMITIT = (needs(f"hydra_{name}_launcher") for name in ("joblib", "ray", "submitit"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep by the basic launcher: one run after the other."""
    cwd = tmp_path_factory.mktemp("basic")
    threads = os.environ.get("OMP_NUM_THREADS")
    result = called("train", "-m", *SWEEP, cwd=cwd, OMP_NUM_THREADS="1")
    assert os.environ.get("OMP_NUM_THREADS") == threads
    assert result.code == 0, result.err
    return cwd / "sweep"


def assert_same_sweep(done: subprocess.CompletedProcess[str], sweep: Path, expected: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("run: ")) == [
        "run: sweep/0",
        "run: sweep/1",
    ]
    assert "Traceback" not in done.stderr
    assert "is validated against ConfigStore schema" not in done.stderr  # the preset stands alone
    for number in ("0", "1"):
        trial = read_json(sweep / number / "trial.json")
        assert (trial["status"], trial["attempts"], trial["threads"]) == ("finished", 1, 1)
        assert trial["params"] == {"seed": int(number) + 1}
        assert trial["values"] == read_json(expected / number / "trial.json")["values"]
        assert_same_run(expected / number, sweep / number)
    assert read_json(sweep / "sweep.json")["status"] == "finished"
    assert len([path for path in (sweep / "workers").iterdir() if path.is_dir()]) == 2


# ---------------------------------------------------------------------- the engines


@JOBLIB
def test_joblib(gan_lab: Command, expected: Path, tmp_path: Path) -> None:
    done = gan_lab("train", "-m", *SWEEP, "hydra/launcher=joblib", TWO)
    assert_same_sweep(done, tmp_path / "sweep", expected)


@RAY
def test_ray_on_this_machine(gan_lab: Command, expected: Path, tmp_path: Path) -> None:
    local = ["hydra.launcher.ray.init.num_cpus=2"]
    done = gan_lab("train", "-m", *SWEEP, "hydra/launcher=ray", TWO, *local)
    assert_same_sweep(done, tmp_path / "sweep", expected)


@SUBMITIT
def test_submitit_on_this_machine(gan_lab: Command, expected: Path, tmp_path: Path) -> None:
    done = gan_lab("train", "-m", *SWEEP, "hydra/launcher=submitit_local", TWO)
    assert_same_sweep(done, tmp_path / "sweep", expected)
    assert len(list((tmp_path / "sweep" / ".submitit").glob("*/*_result.pkl"))) == 2


COMMANDS = {
    "sbatch": """\
cp "$1" script.sh
echo "Submitted batch job 42"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for task in $(seq 0 "$last"); do
  (
    export SLURM_ARRAY_JOB_ID=42 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=$((42 + task)) SLURM_JOB_NODELIST=here
    export SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1
    bash "$1"
    echo $? > "ended.$task"
  ) > "output.$task" 2>&1 < /dev/null &
done
""",
    "srun": """\
while [[ $1 == -* ]]; do
  case $1 in --output | --error) shift ;; esac
  shift
done
exec "$@"
""",
    "sacct": """\
echo "JobID|State|NodeList"
for output in output.*; do
  task=${output##*.}
  if [ -e "ended.$task" ]; then state=COMPLETED; else state=RUNNING; fi
  echo "42_$task|$state|here"
done
""",
}


@SUBMITIT
def test_submitit_slurm(gan_lab: Command, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in COMMANDS.items():
        (programs / name).write_text(f'#!/usr/bin/env bash\ncd "{tmp_path}" || exit\n{text}')
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    settings = ["partition=gpu", "account=me", "cpus_per_task=1", "gpus_per_node=2", "mem_gb=8", "timeout_min=90"]
    settings += ["array_parallelism=1", "setup=['export LOADED=yes']"]
    keys = [f"hydra.launcher.{setting}" for setting in settings]
    mail = "+hydra.launcher.additional_parameters.mail-type=END"
    done = gan_lab("train", "-m", *SWEEP, "hydra/launcher=submitit_slurm", TWO, *keys, mail)
    assert_same_sweep(done, tmp_path / "sweep", expected)

    lines = (tmp_path / "script.sh").read_text().splitlines()
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    folder = tmp_path / "sweep" / ".submitit" / "%A_%a"
    assert options == {
        "array": "0-1%1",
        "partition": "gpu",
        "account": "me",
        "cpus-per-task": "1",
        "gpus-per-node": "2",
        "mem": "8GB",
        "nodes": "1",
        "ntasks-per-node": "1",
        "time": "90",
        "signal": "USR2@120",
        "open-mode": "append",
        "job-name": "gan_lab",
        "mail-type": "END",
        "wckey": "submitit",
        "output": str(folder / "%A_%a_0_log.out"),
        "error": str(folder / "%A_%a_0_log.err"),
    }
    assert "export LOADED=yes" in lines
    assert lines[-1].startswith("srun ")
    assert lines[-1].endswith(f"-m submitit.core._submit {tmp_path / 'sweep' / '.submitit' / '%j'}")
    assert [(tmp_path / f"ended.{task}").read_text() for task in (0, 1)] == ["0\n", "0\n"]


def workers(directory: Path) -> list[int]:
    """The processes in which submitit works for a sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"submitit.core._submit" in words and any(os.fsencode(directory) in word for word in words):
            found.append(int(path.parent.name))
    return found


@SUBMITIT
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to find the process")
def test_job_that_is_preempted_saves_and_goes_on_in_a_new_one(tmp_path: Path) -> None:
    """What SLURM does before a job's time is up, or when it needs the node: SIGUSR2, and the job is queued again."""
    long = [text for text in SMALL if not text.startswith(("budget", "evaluation"))]
    long += ["seed=1", "budget.kimg=20", "callbacks.metrics.every_kimg=0.1", "evaluation=none", "objective=null"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    sweep = tmp_path / "sweep"
    process = subprocess.Popen(
        command(
            "train", "-m", *long, "hydra/launcher=submitit_local", "hydra.sweeper.n_jobs=1", "hydra.sweep.dir=sweep"
        ),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (sweep / "0" / "metrics.csv").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[0]
    (worker,) = workers(sweep)
    os.kill(worker, signal.SIGUSR2)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert read_json(sweep / "0" / "trial.json")["status"] == "finished"
    record = read_json(sweep / "0" / "run.json")
    (sitting,) = record["resumed"]
    assert 0 < sitting["from_images"] < record["images_seen"] == 20_000
    done = called("train", *long, "hydra.run.dir=whole", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.code == 0, done.err
    assert_same_run(tmp_path / "whole", sweep / "0")


# ---------------------------------------------------------------------- the presets


@pytest.fixture
def composer() -> Iterator[Composer]:
    register_resolvers(make=False)
    yield Composer()
    GlobalHydra.instance().clear()


def test_there_is_a_preset_for_each_engine() -> None:
    assert PRESETS == ["joblib", "ray", "submitit_local", "submitit_slurm"]


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_what_is_composed(name: str, composer: Composer) -> None:
    """And not what the plugin has registered under the same name."""
    launcher = composer.whole([f"hydra/launcher={name}", "hydra.sweeper.n_jobs=3"]).hydra.launcher
    written = yaml.safe_load((conf_dir() / "hydra" / "launcher" / f"{name}.yaml").read_text())
    assert set(launcher) == set(written)
    assert launcher._target_.startswith("hydra_plugins.hydra_")
    if name == "joblib":
        assert launcher.n_jobs == 3
    if name.startswith("submitit"):
        assert launcher.submitit_folder.endswith("/.submitit/%j")


@pytest.mark.parametrize(
    ("name", "module", "schema", "beyond"),
    [
        pytest.param("joblib", "hydra_joblib_launcher.config", "JobLibLauncherConf", set(), marks=JOBLIB),
        pytest.param("ray", "hydra_ray_launcher._config", "RayLauncherConf", set(), marks=RAY),
        pytest.param(
            "submitit_local", "hydra_submitit_launcher.config", "LocalQueueConf", {"max_num_timeout"}, marks=SUBMITIT
        ),
        pytest.param("submitit_slurm", "hydra_submitit_launcher.config", "SlurmQueueConf", set(), marks=SUBMITIT),
    ],
)
def test_preset_has_all_keys_of_its_plugin(name: str, module: str, schema: str, beyond: set[str]) -> None:
    written = yaml.safe_load((conf_dir() / "hydra" / "launcher" / f"{name}.yaml").read_text())
    plugin = getattr(importlib.import_module(f"hydra_plugins.{module}"), schema)
    assert set(written) - beyond == {field.name for field in fields(plugin)}
    assert written["_target_"] == plugin()._target_


@RAY
def test_arguments_of_ray_exist() -> None:
    import inspect

    import ray

    written = yaml.safe_load((conf_dir() / "hydra" / "launcher" / "ray.yaml").read_text())["ray"]
    known = inspect.signature(ray.init).parameters
    assert set(written["init"]) <= set(known)
    ray.remote(**written["remote"])(lambda: None)  # refuses what it does not know


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [
        pytest.param("joblib", "joblib", marks=JOBLIB),
        pytest.param("ray", "ray", marks=RAY),
        pytest.param("submitit_local", "submitit", marks=SUBMITIT),
    ],
)
def test_an_engine_that_is_not_installed_says_how_to_get_it(
    launcher: str, extra: str, composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = str(composer.whole([f"hydra/launcher={launcher}"]).hydra.launcher._target_)
    refuse_missing_engine(target)
    monkeypatch.setitem(sys.modules, target.rpartition(".")[0].rpartition(".")[0], None)
    with pytest.raises(ConfigError) as caught:
        refuse_missing_engine(target)
    assert caught.value.problems == [f"hydra/launcher={extra} needs another package: pip install 'gan_lab[{extra}]'"]


@SUBMITIT
def test_slurm_is_refused_where_there_is_none(
    composer: Composer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = str(composer.whole(["hydra/launcher=submitit_slurm"]).hydra.launcher._target_)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no SLURM here"):
        refuse_missing_engine(target)
    (tmp_path / "srun").touch(stat.S_IRWXU)
    refuse_missing_engine(target)
