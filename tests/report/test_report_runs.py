import fcntl
import itertools
import json
import math
from pathlib import Path

import pytest
from made_runs import CARD, FLOOR, OTHER_CARD, seeds, write_run, write_sweep, write_trial

from gan_lab.errors import ConfigError
from gan_lab.report.runs import find, read_metrics, read_run
from gan_lab.report.summary import facts, summarise


def names(*paths: Path) -> list[str]:
    return [run.name for run in find(list(paths)).runs]


def test_runs_are_found_below_folders_and_by_patterns_each_once(tmp_path):
    for place in ("day/10-run", "day/2-run", "other/run"):
        write_run(tmp_path / place, [3.0])

    assert names(tmp_path) == ["day/2-run", "day/10-run", "other/run"]
    assert names(tmp_path / "day") == ["2-run", "10-run"]
    assert names(tmp_path / "day" / "*-run", tmp_path / "day" / "2-run") == ["2-run", "10-run"]
    assert names(tmp_path / "other" / "run") == ["run"]
    assert names(tmp_path / "other" / "run" / "run.json") == ["run"]


def test_relative_paths_and_the_home_directory(tmp_path, monkeypatch):
    write_run(tmp_path / "runs" / "a", [3.0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert find([Path("runs")]).runs[0].path == Path("runs/a")
    assert names(Path("~/runs")) == ["a"]


def test_a_sweep_is_whole_only_where_all_its_trials_are_asked_for(tmp_path):
    sweep = write_sweep(tmp_path / "sweep")
    for number in range(2):
        write_run(sweep / str(number), [3.0], trial={"values": {"fd": 3.0}})

    whole = find([sweep])
    part = find([sweep / "1"])

    assert [found.path for found in whole.whole] == [sweep]
    assert part.whole == []
    assert [run.number for run in whole.runs] == [0, 1]
    assert part.runs[0].sweep.objectives == {"fd": "minimize"}


def test_latest_is_the_run_that_was_started_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"runs=latest: there is no run in .*; give its directory: runs=DIR"):
        find([Path("latest")])

    write_run(tmp_path / "outputs" / "day" / "2-old", [3.0], seed=1)
    write_run(tmp_path / "outputs" / "day" / "1-new", [3.0], seed=2)  # it is told to start a second later

    assert [run.path for run in find([Path("latest")]).runs] == [Path("outputs/day/1-new")]


def test_every_path_that_leads_to_no_run_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    write_sweep(tmp_path / "unstarted")

    with pytest.raises(ConfigError) as caught:
        find([tmp_path / "missing", tmp_path / "empty", tmp_path / "unstarted", tmp_path / "none-*"])

    missing, empty, unstarted, pattern = caught.value.problems
    assert "missing: there is no such directory" in missing
    assert "empty holds no run" in empty
    assert "no trial of this sweep has been started yet" in unstarted
    assert "none-*: there is no such directory" in pattern


def test_a_half_written_line_and_an_older_header_are_passed_over(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "images_seen,fd,fd/floor,card\n100,5.5,2,c\n200,,,\nnot a number,1,1,c\n300,4\n400,3.25,2,c\n500,9.75,2,c"
    )

    metrics = read_metrics(path)

    assert metrics.images == [100, 200, 400]
    assert metrics.points("fd") == ([100, 400], [5.5, 3.25])
    assert math.isnan(metrics.columns["fd"][1])


@pytest.mark.parametrize("text", ["", "\n", "nonsense\n1\n", "images_seen,loss\n", "images_seen"])
def test_a_file_without_rows_has_no_metrics(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)

    assert read_metrics(tmp_path / "metrics.csv").images == []
    assert read_metrics(tmp_path / "missing.csv").images == []


def test_long_files_are_thinned_and_keep_evaluations_and_the_last_rows(tmp_path):
    lines = ["images_seen,loss,fd,fd/floor,card"]
    for index in range(1, 1001):
        lines.append(f"{index},{index}.5," + (f"{index},2,c" if index % 100 == 0 else ",,"))
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")

    metrics = read_metrics(tmp_path / "metrics.csv", most_rows=50)

    assert metrics.points("fd")[0] == list(range(100, 1001, 100))
    images, _ = metrics.points("loss")
    assert len(images) == 10 + 50
    assert images[-2:] == [999, 1000]
    steps = [b - a for a, b in itertools.pairwise(images)]
    assert max(steps) <= 20


def test_scores_of_another_card_are_not_the_runs(tmp_path):
    run_dir = write_run(tmp_path / "run", [3.0, 4.0])
    text = (run_dir / "metrics.csv").read_text().splitlines()
    text[2] = text[2].replace(CARD, OTHER_CARD).replace("3.0", "1.0").replace(f"{FLOOR}", "7.5")
    (run_dir / "metrics.csv").write_text("\n".join(text) + "\n")

    run = read_run(run_dir, "run")

    assert run.card_id == CARD
    assert run.metrics.points("fd") == ([10_000, 20_000], [1.0, 4.0])
    assert run.metrics.points("fd", CARD) == ([20_000], [4.0])
    assert run.floor("fd") == FLOOR


def test_values_are_the_best_generators_or_the_trials_own(tmp_path):
    run_dir = write_run(tmp_path / "3", [5.0, 3.0, 4.0], recall=[0.1, 0.2, 0.9])
    run = read_run(run_dir, "3")

    assert (run.value("fd"), run.final("fd")) == (3.0, 4.0)
    assert (run.value("recall"), run.final("recall")) == (0.2, 0.9)
    assert run.value("loss/discriminator") == 3.0
    assert run.value("unknown") is None

    write_trial(run_dir, {"values": {"recall": 0.75}})
    assert read_run(run_dir, "3").value("recall") == 0.75


def test_a_run_without_a_checkpoint_is_as_far_as_its_last_row(tmp_path):
    run = read_run(write_run(tmp_path / "run", [5.0, 3.0], images_seen=0, wall_seconds=0.0, status="running"), "run")

    assert (run.images_seen, run.seconds) == (20_000, 4.0)


@pytest.mark.parametrize(
    ("record", "trial", "status"),
    [
        ("running", None, "running"),
        ("running", "failed", "failed"),
        ("finished", "running", "finished"),
        ("finished", "pruned", "pruned"),
        ("interrupted", "running", "interrupted"),
        ("of-the-future", None, "of-the-future"),
    ],
)
def test_status_is_the_trials_once_it_has_ended(tmp_path, record, trial, status):
    told = None if trial is None else {"status": trial}
    run_dir = write_run(tmp_path / "0", [3.0], status=record, trial=told)

    assert read_run(run_dir, "0").status == status


@pytest.mark.parametrize("lock", [".lock", ".claim"])
def test_a_run_that_no_process_holds_any_more_was_killed(tmp_path, lock):
    run_dir = write_run(tmp_path / "a run", [3.0], status="running")
    assert read_run(run_dir, "run").status == "running"  # nothing tells otherwise

    with (run_dir / lock).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_run(run_dir, "run").status == "running"

    assert read_run(run_dir, "run").status == "killed"
    told = dict(facts(summarise(find([run_dir]))))
    assert told["status"] == "1 killed"
    assert told["to go on"] == f"gan-lab resume 'run={run_dir}'"
    with (run_dir / lock).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock is not kept


def test_a_lock_says_nothing_of_a_run_that_has_ended_and_a_trial_goes_on_with_its_sweep(tmp_path):
    sweep = write_sweep(tmp_path / "sweep")
    for number, status in enumerate(["finished", "running", "running", "interrupted"]):
        run_dir = write_run(sweep / str(number), [3.0], status=status, trial={"params": {"loss": f"l{number}"}})
        (run_dir / ".lock").touch()

    told = dict(facts(summarise(find([sweep]))))

    assert told["status"] == "1 finished, 1 interrupted, 2 killed"
    assert told["to go on"] == f"gan-lab resume sweep={sweep}"


def test_failures_have_a_kind_and_a_reason(tmp_path):
    health = [{"problem": "non_finite", "images_seen": 16, "message": "nan"}]
    plain = read_run(
        write_run(tmp_path / "plain", status="failed", error="the loss became nan", health=health), "plain"
    )
    write_trial(tmp_path / "7", {"status": "failed", "kind": "configuration", "reason": "model.width=x: a number"})
    trial = read_run(tmp_path / "7", "7")

    assert (plain.kind, plain.reason) == ("diverged", "the loss became nan")
    assert (trial.status, trial.kind, trial.reason) == ("failed", "configuration", "model.width=x: a number")
    assert trial.log_tail == []


def test_damaged_files_are_problems_of_the_run(tmp_path):
    run_dir = write_run(tmp_path / "run", [3.0])
    (run_dir / "run.json").write_text('{"status": "fini')
    (run_dir / ".hydra" / "resolved.yaml").write_text("a: [1, 2")

    run = read_run(run_dir, "run")

    assert run.status == "failed"
    assert "run.json is damaged" in run.reason
    assert "resolved.yaml is damaged" in run.reason


def test_content_of_the_wrong_kind_is_as_good_as_none(tmp_path):
    run_dir = write_run(tmp_path / "0", [3.0], trial={"number": "x", "params": [1], "values": None, "seconds": "long"})
    content = json.loads((run_dir / "run.json").read_text())
    wrong = {"best": 3, "metrics": [], "cards": None, "health": "bad", "machine": 1, "images_seen": "many"}
    (run_dir / "run.json").write_text(json.dumps(content | wrong | {"wall_seconds": None, "resumed": 4}))

    run = read_run(run_dir, "0")

    assert (run.number, run.params, run.health, run.machine, run.changes) == (None, {}, [], {}, [])
    assert run.value("fd") == 3.0
    assert run.images_seen == 10_000


def test_the_log_ends_with_its_last_lines_without_colours(tmp_path):
    run_dir = write_run(tmp_path / "run", [3.0])
    (run_dir / "run.log").write_text(
        "x" * 50_000 + "\n" + "\n".join(f"\x1b[31mline {i}\x1b[0m" for i in range(30)) + "\n"
    )

    tail = read_run(run_dir, "run").log_tail

    assert len(tail) == 12
    assert tail[-1] == "line 29"
    (run_dir / "run.log").write_text("y" * 1000)
    assert read_run(run_dir, "run").log_tail == ["y" * 400 + " ..."]


def test_what_was_changed_by_resuming_is_known(tmp_path):
    resumed = [{"at": "x", "changed": {"optimizer.lr": [1, 2]}}, {"at": "y", "changed": {"budget.kimg": [1, 2]}}]

    assert read_run(write_run(tmp_path / "run", [3.0], resumed=resumed), "run").changes == [
        "optimizer.lr",
        "budget.kimg",
    ]


def test_seeds_have_their_own_runs(tmp_path):
    runs = find([seeds(tmp_path, vanilla=[3.0, 4.0])]).runs

    assert [(run.name, run.seed, run.seed_text) for run in runs] == [
        ("vanilla-1", 1, "seed 1"),
        ("vanilla-2", 2, "seed 2"),
    ]
