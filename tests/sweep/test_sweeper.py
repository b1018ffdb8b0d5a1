"""Whole sweeps from the command line: failures are recorded, what was stopped goes on, nothing is run twice."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import command, rows_without_wall_time
from test_child import wait_for
from test_cli import SMALL, Result, called, done

from gan_lab.compose import Composer, register_resolvers
from gan_lab.config import plain
from gan_lab.files import read_json, write_json
from gan_lab.sweep.results import best_of, experiment_file
from gan_lab.sweep.sweeper import identity, unfinished

HERE = Path(__file__).parent
FAILING = ["++dataset._target_=failing.failing", "hydra.sweep.dir=sweep"]


def sweep(cwd: Path, *arguments: str) -> Result:
    return called("train", "-m", *SMALL, *arguments, cwd=cwd)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(HERE)])


def trials(sweep_dir: Path) -> list[dict]:
    return [read_json(path) for path in sorted(sweep_dir.glob("*/trial.json"), key=lambda path: int(path.parent.name))]


def test_every_failure_is_a_result(failing: None, tmp_path: Path) -> None:
    marker = tmp_path / "tried before"
    result = sweep(
        tmp_path,
        *FAILING,
        "++dataset.how=not,raises,killed,out_of_memory,killed_once",
        f"++dataset.marker='{marker}'",
        "hydra.sweeper.num_retries=1",
    )
    found = trials(tmp_path / "sweep")
    assert [(trial["status"], trial["kind"], trial["attempts"]) for trial in found] == [
        ("finished", None, 1),
        ("failed", "crashed", 2),
        ("failed", "killed", 2),
        ("failed", "out_of_memory", 2),
        ("finished", None, 2),
    ]
    assert found[1]["reason"] == "unexpected KeyError: 'this data set is broken'"
    assert found[0]["values"] == {"fd": found[4]["values"]["fd"]}
    assert found[0]["params"] == {"dataset.how": "not"}
    assert [line for line in result.out.splitlines() if line.startswith("run: ")] == ["run: sweep/0", "run: sweep/4"]
    assert result.code == 1
    assert result.err.endswith(
        "error: 3 of 5 runs failed (reasons above, and in sweep/*/trial.json); "
        "once mended: gan-lab resume sweep=sweep retry_failed=true\n"
    )
    assert "Traceback" not in result.err
    content = read_json(tmp_path / "sweep" / "sweep.json")
    assert (content["status"], content["num_trials"], content["objectives"]) == ("finished", 5, {"fd": "minimize"})


def test_a_run_that_hangs_is_ended(failing: None, tmp_path: Path) -> None:
    result = sweep(tmp_path, *FAILING, "++dataset.how=hangs", "hydra.sweeper.timeout_minutes=0.05")
    (found,) = trials(tmp_path / "sweep")
    assert (result.code, found["status"], found["kind"], found["attempts"]) == (1, "failed", "timed_out", 1)
    assert found["reason"] == "not finished after 0.05 minutes (timeout_minutes)"


def test_failed_runs_are_tried_again_once_mended(failing: None, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def broken(**settings):\n    raise KeyError\n")
    sys.path.append(str(tmp_path))
    try:
        assert sweep(tmp_path, "++dataset._target_=broken.broken", "seed=1,2", "hydra.sweep.dir=sweep").code == 1
        assert [trial["status"] for trial in trials(tmp_path / "sweep")] == ["failed", "failed"]
        broken.write_text("from gan_lab.data.digits import digits as broken\n")
        assert called("resume", "sweep=sweep", cwd=tmp_path).code == 1  # what has failed is done
        again = called("resume", "sweep=sweep", "retry_failed=true", cwd=tmp_path)
    finally:
        sys.path.remove(str(tmp_path))
    assert again.code == 0, again.err
    assert [trial["status"] for trial in trials(tmp_path / "sweep")] == ["finished", "finished"]


# ---------------------------------------------------------------------- stopped and continued

LONGER = [
    *("model.width=8", "model.depth=1", "batch_size=16", "budget.kimg=8", "evaluation.num_samples=64"),
    *("evaluation.every_kimg=2", "callbacks.metrics.every_kimg=0.5", "callbacks.checkpoint.every_kimg=1", "seed=1,2"),
]


def started(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command("train", "-m", *LONGER, *arguments),
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def descendants(pid: int) -> list[int]:
    """A process and all that it has started, sessions of their own included."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout.split()[2:]
    pairs = list(zip(map(int, lines[::2]), map(int, lines[1::2]), strict=True))
    found = [pid]
    for parent in found:
        found += [child for child, ppid in pairs if ppid == parent]
    return found


def only_sweep(cwd: Path) -> Path:
    (folder,) = (cwd / "outputs" / "sweeps").iterdir()
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep that is never stopped."""
    cwd = tmp_path_factory.mktemp("whole")
    done("train", "-m", *LONGER, cwd=cwd)
    return only_sweep(cwd)


def kill_everything(process: subprocess.Popen[str], sweep_dir: Path) -> None:
    for pid in descendants(process.pid):
        os.kill(pid, signal.SIGKILL)


def interrupt(process: subprocess.Popen[str], sweep_dir: Path) -> None:
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize(("launcher", "stop"), [("basic", interrupt), ("joblib", kill_everything)])
def test_the_same_command_goes_on(
    stop: Callable[[subprocess.Popen[str], Path], None], launcher: str, whole: Path, tmp_path: Path
) -> None:
    engine = [] if launcher == "basic" else ["hydra/launcher=joblib", "hydra.sweeper.n_jobs=2"]
    first = started(tmp_path, *engine)
    wait_for(lambda: any((tmp_path / "outputs").glob("sweeps/*/*/checkpoints/last.ckpt")), 200)
    sweep_dir = only_sweep(tmp_path)
    stop(first, sweep_dir)
    printed, _ = first.communicate(timeout=200)
    if stop is interrupt:
        assert first.returncode == 130, printed
        assert f"go on with the same command, or with: gan-lab resume sweep=outputs/sweeps/{sweep_dir.name}" in printed
        assert read_json(sweep_dir / "sweep.json")["status"] == "interrupted"
    ended_before = {trial["number"]: trial["ended"] for trial in trials(sweep_dir) if trial["ended"]}

    second = started(tmp_path, *engine)
    printed, _ = second.communicate(timeout=200)
    assert second.returncode == 0, printed
    assert f"going on with outputs/sweeps/{sweep_dir.name}" in printed
    assert only_sweep(tmp_path) == sweep_dir
    found = trials(sweep_dir)
    assert [trial["status"] for trial in found] == ["finished", "finished"]
    assert {trial["number"]: trial["ended"] for trial in found if trial["number"] in ended_before} == ended_before
    for number in "01":
        assert rows_without_wall_time(sweep_dir / number) == rows_without_wall_time(whole / number)


def test_one_killed_worker_is_replaced(whole: Path, tmp_path: Path) -> None:
    process = started(tmp_path, "hydra/launcher=joblib", "hydra.sweeper.n_jobs=2")
    wait_for(lambda: any((tmp_path / "outputs").glob("sweeps/*/*/checkpoints/last.ckpt")), 200)
    workers = [pid for pid in descendants(process.pid) if "loky" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(workers[0], signal.SIGKILL)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    for number in "01":
        assert rows_without_wall_time(only_sweep(tmp_path) / number) == rows_without_wall_time(whole / number)


def test_a_finished_sweep_is_not_gone_on_with(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole.parents[1], tmp_path / "outputs")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").rglob("trial.json")}
    result = called("train", "-m", *LONGER, f"hydra.sweep.dir=outputs/sweeps/{whole.name}", cwd=tmp_path)
    assert result.code == 0
    assert "2 runs, 2 of them done before" in result.err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").rglob("trial.json")} == before


def test_another_sweeps_directory_is_refused(whole: Path, tmp_path: Path) -> None:
    result = called("train", "-m", *LONGER, "batch_size=8", f"hydra.sweep.dir={whole}", cwd=tmp_path)
    assert result.code == 2
    assert f"error: hydra.sweep.dir={whole} holds another sweep: gan-lab train -m " in result.err


def test_several_at_a_time_need_a_launcher_that_can(tmp_path: Path) -> None:
    result = sweep(tmp_path, "seed=1,2", "hydra.sweeper.n_jobs=2", "hydra.sweep.dir=sweep")
    assert result.code == 2
    assert "hydra.sweeper.n_jobs=2: hydra/launcher=basic runs one at a time; add hydra/launcher=joblib" in result.err


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    result = sweep(tmp_path, "seed=1,2", "hydra.sweeper.num_retries=-1", "hydra.sweep.dir=sweep")
    assert result.code == 2
    assert result.err == "error: hydra.sweeper.num_retries=-1: expected an integer at least 0\n"
    result = sweep(tmp_path, "seed=1,2", "hydra.sweeper.objectives={fdd: minimize}", "hydra.sweep.dir=sweep")
    assert result.code == 2
    assert "hydra.sweeper.objectives.fdd: the runs do not measure this; did you mean fd?" in result.err
    result = sweep(tmp_path, "seed=1,2", "hydra.sweeper.objectives={fd: minimise, kd: 3}", "hydra.sweep.dir=sweep")
    assert result.code == 2
    assert result.err.splitlines() == [
        "error: hydra.sweeper.objectives.fd=minimise: no such direction; did you mean minimize?",
        "error: hydra.sweeper.objectives.kd=3: no such direction; known: minimize, maximize",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("hydra.sweeper.sampler=null", "a search needs one, such as hydra/sweeper/sampler=tpe"),
        ("+hydra.sweeper.pruner.budget_images=3", "this is set by the program; remove it"),
    ],
)
def test_wrong_settings_of_a_search_are_named(setting: str, problem: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs the extra optuna")
    result = sweep(tmp_path, "optimizer.lr=interval(1e-4,1e-3)", "hydra/sweeper=optuna", setting)
    assert (result.code, result.err) == (2, f"error: {setting.lstrip('+')}: {problem}\n")


def test_a_search_without_optuna_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = sweep(tmp_path, "optimizer.lr=interval(1e-4,1e-3)", "hydra/sweeper=optuna", "hydra.sweep.dir=sweep")
    assert result.code == 2
    assert result.err == "error: hydra/sweeper=optuna needs the package optuna: pip install 'gan_lab[optuna]'\n"


def test_runs_of_several_processes_work_in_a_sweep(tmp_path: Path) -> None:
    result = sweep(tmp_path, "accelerator=ddp", "accelerator.num_processes=2", "seed=1,2", "hydra.sweep.dir=sweep")
    assert result.code == 0, result.err
    assert [trial["status"] for trial in trials(tmp_path / "sweep")] == ["finished", "finished"]
    seeds = [read_json(tmp_path / "sweep" / number / "run.json")["seed"] for number in "01"]
    assert seeds == [1, 2]


# ---------------------------------------------------------------------- results


def test_the_best_run_is_an_experiment(tmp_path: Path) -> None:
    result = sweep(
        tmp_path, "loss=vanilla,wgan_gp", "optimizer.lr=1e-3,1e-4", "++model.generator.slope=0.1", "penalty=[r1]",
        "model.discriminator.norm=none", "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert result.code == 0, result.err
    found = trials(tmp_path / "sweep")
    best = min(found, key=lambda trial: trial["values"]["fd"])
    assert f"best: sweep/{best['number']}: fd {best['values']['fd']:.5g}" in result.err
    text = (tmp_path / "sweep" / "conf" / "experiment" / "best.yaml").read_text()
    assert text.startswith("# @package _global_\n# The best of 4 runs")
    again = done(
        "train", "--config-dir", "sweep/conf", "experiment=best", "hydra.run.dir=again", cwd=tmp_path
    )  # as the log says
    assert again.out == "run: again\n"
    assert rows_without_wall_time(tmp_path / "again") == rows_without_wall_time(
        tmp_path / "sweep" / str(best["number"])
    )


def test_experiment_files_say_what_overrides_say(tmp_path: Path) -> None:
    register_resolvers(make=False)
    overrides = ["experiment=quickstart", "loss=hinge", "optimizer.betas=[0.1,0.9]", "model.width=8", "seed=5"]
    text = experiment_file(Composer(), overrides, "comment")
    assert yaml.safe_load(text)["defaults"] == ["quickstart", {"override /loss": "hinge"}, "_self_"]
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    mine = plain(Composer(str(tmp_path)).compose(["experiment=mine"]))
    assert mine == plain(Composer().compose(overrides))


def test_best_of_one_and_of_several_objectives() -> None:
    results: list[tuple[str, dict[str, float]]] = [
        ("finished", {"fd": 3.0, "recall": 0.5}),
        ("finished", {"fd": 2.0, "recall": 0.4}),
        ("finished", {"fd": 4.0, "recall": 0.4}),
        ("pruned", {"fd": 1.0, "recall": 0.9}),
        ("failed", {}),
    ]
    found = [
        {"number": number, "status": status, "values": values, "params": {"x": number}}
        for number, (status, values) in enumerate(results)
    ]
    front = best_of(found, {"fd": "minimize", "recall": "maximize"})
    assert [best.trial["number"] for best in front] == [0, 1]
    assert [best.trial["number"] for best in best_of(found, {"fd": "minimize"})] == [1]
    assert [best.trial["number"] for best in best_of(found, {"fd": "maximize"})] == [2]


def test_the_best_configuration_is_the_best_mean_over_seeds() -> None:
    """One lucky seed does not win."""
    results = [("hinge", 1, 1.0), ("hinge", 2, 9.0), ("vanilla", 1, 3.0), ("vanilla", 2, 4.0)]
    found = [
        {"number": n, "status": "finished", "values": {"fd": fd}, "params": {"loss": loss, "seed": seed}}
        for n, (loss, seed, fd) in enumerate(results)
    ]
    (best,) = best_of(found, {"fd": "minimize"})
    assert (best.trial["number"], best.values, best.num_seeds) == (2, {"fd": 3.5}, 2)
    assert str(best) == "fd 3; its configuration's mean over 2 seeds: fd 3.5"


def test_a_configuration_that_won_is_told_by_its_best_run_and_counts_each_seed_once() -> None:
    results = [("hinge", 1, 4.0), ("hinge", 2, 3.0), ("hinge", 2, 3.0), ("vanilla", 1, 9.0)]
    found = [
        {"number": n, "status": "finished", "values": {"fd": fd}, "params": {"loss": loss, "seed": seed}}
        for n, (loss, seed, fd) in enumerate(results)
    ]
    (best,) = best_of(found, {"fd": "minimize"})
    assert (best.trial["number"], best.values, best.num_seeds) == (1, {"fd": 3.5}, 2)
    (worst,) = best_of(found[:3], {"fd": "maximize"})
    assert (worst.trial["number"], worst.values) == (0, {"fd": 3.5})


def test_the_fastest_run_wins(tmp_path: Path) -> None:
    """A metric of training, of which more is better, as in the report."""
    speed = ["evaluation=none", "objective=images_per_second", "hydra.sweep.dir=sweep"]
    given = [text for text in SMALL if not text.startswith("evaluation.")]
    result = called("train", "-m", *given, *speed, "seed=1,2", cwd=tmp_path)
    assert result.code == 0, result.err
    assert read_json(tmp_path / "sweep" / "sweep.json")["objectives"] == {"images_per_second": "maximize"}
    fastest = max(trials(tmp_path / "sweep"), key=lambda trial: trial["values"]["images_per_second"])
    assert f"best: sweep/{fastest['number']}: images_per_second " in result.err


def test_identity_is_what_is_run_not_where() -> None:
    one = identity(["seed=1,2", "loss=hinge", "hydra/launcher=joblib", "hydra.sweeper.n_jobs=3"], None)
    assert one == identity(["loss=hinge", "seed=1,2", "hydra.sweep.dir=there", "hydra.sweeper.num_trials=50"], None)
    assert one == identity(["++loss=hinge", "seed=1,2"], None)
    assert one != identity(["loss=hinge", "seed=1,2,3"], None)
    assert one != identity(["loss=hinge", "seed=1,2", "hydra/sweeper=optuna"], None)


def test_a_sweep_over_other_groups_of_the_users_own_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides, folder = ["loss=mine", "seed=1,2"], Path("outputs", "sweeps", "2026-01-31_12-00-00")
    write_json(folder / "sweep.json", {"identity": identity(overrides, "conf"), "status": "interrupted"})
    assert unfinished(overrides, "conf") == unfinished(overrides, str(tmp_path / "conf")) == folder
    assert unfinished(overrides, "other") is None
    assert unfinished(overrides, None) is None


@pytest.mark.parametrize("flag", [["-cd=own"], ["--config-di", "own"]])
def test_a_sweep_reaches_the_users_own_groups(flag: list[str], tmp_path: Path) -> None:
    """However the flag is spelt; the commands that it shows can be repeated from anywhere."""
    own = tmp_path / "own"
    (own / "loss").mkdir(parents=True)
    (own / "loss" / "mine.yaml").write_text("defaults:\n  - hinge\nwarmup_kimg: 0.001\n")
    result = sweep(tmp_path, *flag, "loss=mine", "seed=1,2", "hydra.sweep.dir=sweep")
    assert result.code == 0, result.err
    assert [trial["status"] for trial in trials(tmp_path / "sweep")] == ["finished", "finished"]
    assert f"  again: gan-lab train --config-dir={own} " in result.err
    content = read_json(tmp_path / "sweep" / "sweep.json")
    assert (content["config_dir"], content["status"]) == (str(own), "finished")
    assert content["command"].startswith(f"gan-lab train --config-dir={own} -m ")

    best = Path("sweep", "conf", "experiment", "best.yaml")
    again = (
        f"as an experiment file: gan-lab train --config-dir={own} experiment=best, with {best} in {own}/experiment\n"
    )
    assert again in result.err
    assert f"put it into {own}/experiment" in (tmp_path / "sweep" / "report.md").read_text()
    (own / "experiment").mkdir()
    shutil.copy(tmp_path / best, own / "experiment")
    shown = done("train", *flag, "experiment=best", "--cfg", "job", cwd=tmp_path).out
    assert yaml.safe_load(shown)["loss"]["warmup_kimg"] == 0.001


def test_a_ready_search_space_names_its_sweep(tmp_path: Path) -> None:
    space = tmp_path / "own" / "sweep" / "seeds.yaml"
    space.parent.mkdir(parents=True)
    space.write_text("# @package _global_\nhydra: {sweeper: {params: {seed: '1,2'}}}\n")
    result = sweep(tmp_path, "--config-dir=own", "sweep=seeds", "name=mine", "hydra.sweep.dir=sweep")
    assert result.code == 0, result.err
    assert read_json(tmp_path / "sweep" / "sweep.json")["name"] == "seeds"
    assert (tmp_path / "sweep" / "report.md").read_text().splitlines()[0] == "# Report: seeds"

    sweep(tmp_path, "seed=1,2", "name=mine", "hydra.sweep.dir=other")
    assert read_json(tmp_path / "other" / "sweep.json")["name"] == "mine"
