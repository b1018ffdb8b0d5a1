"""An Optuna study as the ledger of a search: exact counts, orphans, the same suggestions after a kill, pruning."""

import json
import math
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from gan_lab.compose import conf_dir
from gan_lab.errors import ConfigError
from gan_lab.sweep.space import parse_space
from gan_lab.sweep.trials import Outcome, Trial, take_claim

optuna = pytest.importorskip("optuna", reason="needs the extra optuna")
from gan_lab.sweep.study import Study, judged  # noqa: E402

SPACE = parse_space(
    [
        "lr=tag(log,interval(1e-5,1e-1))",
        "loss=vanilla,wgan_gp,hinge",
        "w=interval(0,1)",
        "n=range(1,6)",
        "x=range(0,1,0.1)",
    ],
    when={"w": "loss=wgan_gp"},
)[1]
CHOICES = [one for one in SPACE if not one.is_interval]
LOSSES = {"vanilla": 0.0, "hinge": 0.2, "wgan_gp": 0.1}
GROUPS = conf_dir() / "hydra" / "sweeper"
SAMPLERS = sorted(path.stem for path in (GROUPS / "sampler").glob("*.yaml"))
PRUNERS = sorted(path.stem for path in (GROUPS / "pruner").glob("*.yaml"))


def option(kind: str, name: str, **changes: Any) -> dict[str, Any]:
    """A file of conf/hydra/sweeper, with changes."""
    content = OmegaConf.to_container(OmegaConf.load(GROUPS / kind / f"{name}.yaml"))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()} | changes


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Study]]:
    """Makes studies, by default all of one directory, and closes them."""
    studies: list[Study] = []

    def make(where: str = "sweep", **changes: Any) -> Study:
        settings: dict[str, Any] = {
            "sweep_dir": tmp_path / where,
            "parameters": SPACE,
            "objectives": {"fd": "minimize"},
            "num_trials": 3,
            "sampler": {"_target_": "optuna.samplers.RandomSampler"},
            "pruner": None,
            "storage": None,
            "study_name": "search",
            "seed": 0,
            "budget_images": 200_000,
        }
        studies.append(Study(**(settings | changes)))
        return studies[-1]

    yield make
    for study in studies:
        study.close()


def score(params: Mapping[str, Any]) -> float:
    """Something to minimise: best is lr=1e-3, loss=vanilla, n=1, x=0."""
    return abs(math.log10(params.get("lr", 1e-3)) + 3) + LOSSES[params["loss"]] + 0.1 * params["n"] + params["x"]


def finished(value: float) -> Outcome:
    return Outcome("finished", {"fd": value})


def claimed(study: Study) -> Trial:
    trial = study.claim()
    assert trial is not None
    return trial


def all_of(study: Study) -> list[Trial]:
    """Runs all that is left."""
    done = []
    while (trial := study.claim()) is not None:
        study.finish(trial, finished(score(trial.params)))
        done.append(trial)
    return done


def numbers(study: Study) -> dict[str, int]:
    """Counts without those that are 0."""
    return {name: number for name, number in study.counts().items() if number}


def frozen(study: Study, number: int) -> Any:
    """What Optuna has of a run."""
    (found,) = [one for one in study.study.trials if one.user_attrs["run"] == number]
    return found


# ---------------------------------------------------------------------- one worker


def test_a_search_has_as_many_trials_as_asked_for(made: Callable[..., Study], tmp_path: Path) -> None:
    study = made()
    assert numbers(study) == {"waiting": 3}
    assert study.waiting()
    assert [trial.number for trial in all_of(study)] == [0, 1, 2]
    assert numbers(study) == {"finished": 3}
    assert not study.waiting()
    assert study.claim() is None
    folders = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["0", "1", "2"]
    for folder in folders:  # nobody holds them any more
        claim = take_claim(folder)
        assert claim is not None
        claim.close()


def test_a_trial_is_overrides_and_typed_values(made: Callable[..., Study]) -> None:
    study = made(parameters=[*SPACE, *parse_space(["++b=[0.0,0.9],[0.5,0.999]", "flag=true,false"])[1]], num_trials=8)
    for trial in all_of(study):
        params = trial.params
        keys = ["lr", "loss", *(["w"] if params["loss"] == "wgan_gp" else []), "n", "x", "b", "flag"]
        assert list(params) == keys
        assert 1e-5 <= params["lr"] <= 1e-1
        assert params["n"] in (1, 2, 3, 4, 5)
        assert params["x"] in [number / 10 for number in range(10)]
        assert params["b"] in ([0.0, 0.9], [0.5, 0.999])
        assert type(params["flag"]) is bool
        texts = dict(text.split("=", 1) for text in trial.overrides)
        assert [key.lstrip("+") for key in texts] == keys
        assert float(texts["lr"]) == params["lr"]
        assert texts["loss"] == params["loss"]
        assert texts["++b"] == str(params["b"]).replace(" ", "")
        assert texts["flag"] == str(params["flag"])
    losses = {trial.params["loss"] for trial in all_of(made(where="other", num_trials=12))}
    assert losses == {"vanilla", "hinge", "wgan_gp"}


def test_choices_that_python_takes_for_equal_stay_apart(made: Callable[..., Study]) -> None:
    space = parse_space(["x=1,1.0,true,'1'"])[1]
    study = made(parameters=space, num_trials=4, sampler=option("sampler", "grid"))
    trials = []
    while (trial := study.claim()) is not None:
        study.finish(trial, finished(1.0))
        trials.append(trial)
    assert sorted(trial.overrides[0] for trial in trials) == ["x='1'", "x=1", "x=1.0", "x=True"]


def test_how_trials_end(made: Callable[..., Study]) -> None:
    study = made(num_trials=5)
    outcomes = [
        finished(2.5),
        Outcome("failed", {}, "out_of_memory", "the device ran out of memory"),
        Outcome("pruned", {}),
        finished(math.nan),
        Outcome("finished", {"recall": 1.0}),
    ]
    for outcome in outcomes:
        trial = claimed(study)
        study.report(trial, 1000, {"fd": 7.0})
        study.finish(trial, outcome)
    assert numbers(study) == {"finished": 1, "pruned": 1, "failed": 3}
    assert [one.state.name for one in study.study.trials] == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "FAIL"]
    assert [frozen(study, 0).value, frozen(study, 2).value] == [2.5, 7.0]
    reasons = [
        (frozen(study, number).user_attrs["kind"], frozen(study, number).user_attrs["reason"]) for number in (1, 3, 4)
    ]
    assert reasons == [
        ("out_of_memory", "the device ran out of memory"),
        ("diverged", "objective fd is nan"),
        ("diverged", "objective fd is missing"),
    ]
    assert study.best() == [0]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"fd": 1.0}, None),
        ({}, "objective fd is missing"),
        ({"fd": math.nan}, "objective fd is nan"),
        ({"fd": -math.inf}, "objective fd is -inf"),
    ],
)
def test_judged(values: dict[str, float], reason: str | None) -> None:
    outcome = judged(Outcome("finished", values), {"fd": "minimize"})
    assert (outcome.status, outcome.kind, outcome.reason) == (
        ("finished", None, None) if reason is None else ("failed", "diverged", reason)
    )
    assert judged(Outcome("pruned", values), {"fd": "minimize"}) == Outcome("pruned", values)


def test_more_trials_are_added_later_and_none_is_taken_away(made: Callable[..., Study]) -> None:
    first = all_of(made(num_trials=2))
    more = all_of(made(num_trials=5))
    assert [trial.number for trial in first + more] == [0, 1, 2, 3, 4]
    assert numbers(made(num_trials=1)) == {"finished": 5}
    assert all_of(made(where="other", num_trials=5)) == first + more


def test_other_tools_read_the_study(made: Callable[..., Study], tmp_path: Path) -> None:
    study = made(objectives={"recall": "maximize", "fd": "minimize"}, study_name="mine")
    trial = claimed(study)
    study.finish(trial, Outcome("finished", {"fd": 3.0, "recall": 0.5, "else": 1.0}))
    study.close()
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "sweep" / "study.journal"))
    seen = optuna.load_study(study_name="mine", storage=optuna.storages.JournalStorage(journal))
    assert [direction.name for direction in seen.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert seen.metric_names == ["recall", "fd"]
    assert seen.trials[0].values == [0.5, 3.0]
    assert seen.trials[0].params == trial.params | {"x": pytest.approx(trial.params["x"])}
    assert seen.trials[0].user_attrs["run"] == 0
    assert seen.trials[0].user_attrs["worker"]["directory"] == str(tmp_path / "sweep")


@pytest.mark.parametrize("name", ["{braces} and 100% of a?b#c", "ü"])
def test_directories_of_any_name(made: Callable[..., Study], name: str, tmp_path: Path) -> None:
    study = made(where=name, num_trials=1)
    all_of(study)
    assert (tmp_path / name / "study.journal").is_file()
    study.close()
    (tmp_path / name).rename(tmp_path / "moved")
    assert numbers(made(where="moved", num_trials=1)) == {"finished": 1}


# ---------------------------------------------------------------------- stopped and continued


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_search_that_is_stopped_again_and_again_suggests_the_same(made: Callable[..., Study], name: str) -> None:
    if name == "cmaes":
        pytest.importorskip("cmaes", reason="needs the package cmaes")
    early = {"tpe": {"n_startup_trials": 4}, "gp": {"n_startup_trials": 4}, "nsga2": {"population_size": 4}}
    settings: dict[str, Any] = {
        "parameters": CHOICES if name == "grid" else SPACE,
        "num_trials": 6 if name == "gp" else 10,
        "sampler": option("sampler", name, **early.get(name, {})),
        "seed": 5,
    }
    at_once = all_of(made(where="one", **settings))
    stopped = []
    for _ in at_once:
        study = made(where="other", **settings)
        trial = claimed(study)
        study.close()  # as a worker that dies
        study = made(where="other", **settings)
        assert claimed(study) == trial
        study.finish(trial, finished(score(trial.params)))
        study.close()
        stopped.append(trial)
    assert stopped == at_once
    assert len({str(trial.params) for trial in at_once}) > len(at_once) / 2
    if name != "grid":
        other = all_of(made(where="seed", **(settings | {"seed": 6})))
        assert [trial.params for trial in other] != [trial.params for trial in at_once]


def test_a_trial_that_was_interrupted_is_the_next_one(made: Callable[..., Study]) -> None:
    study = made()
    trial = claimed(study)
    study.report(trial, 1000, {"fd": 3.0})
    study.release(trial)
    assert study.waiting()
    assert claimed(study) == trial
    assert study.report(trial, 1000, {"fd": 4.0})  # evaluated again: the first report stays
    assert study.report(trial, 2000, {"fd": 5.0})
    assert frozen(study, 0).intermediate_values == {1000: 3.0, 2000: 5.0}
    study.finish(trial, finished(1.0))
    assert [one.number for one in all_of(study)] == [1, 2]


class Deadly(optuna.samplers.RandomSampler):
    """Kills its process before it suggests `key`."""

    def __init__(self, key: str, seed: int | None = None):
        super().__init__(seed)
        self.key = key

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        if param_name == self.key:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample_independent(study, trial, param_name, param_distribution)


def in_process(action: Callable[..., None], *arguments: Any) -> multiprocessing.Process:
    """Starts `action` in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=action, args=arguments)
    process.start()
    return process  # type: ignore[return-value]


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def test_a_worker_killed_between_two_suggestions(made: Callable[..., Study]) -> None:
    deadly = {"_target_": f"{__name__}.Deadly", "key": "n"}
    process = in_process(lambda: made(sampler=deadly).claim())
    process.join()
    assert process.exitcode == -signal.SIGKILL
    study = made()
    half = frozen(study, 0)
    assert (half.state.name, list(half.params)) == ("RUNNING", ["lr", "loss", "w"])
    assert all_of(study) == all_of(made(where="other"))
    assert numbers(study) == {"finished": 3}


def test_a_trial_whose_end_is_recorded_in_its_directory_is_not_run_again(
    made: Callable[..., Study], tmp_path: Path
) -> None:
    """Its worker was killed after it had written trial.json and before it told the study."""
    study = made()
    claimed(study)
    record = {"status": "failed", "values": {}, "kind": "timed_out", "reason": "too long"}
    (tmp_path / "sweep" / "0" / "trial.json").write_text(json.dumps(record))
    study.close()
    study = made()
    assert [trial.number for trial in all_of(study)] == [1, 2]
    assert numbers(study) == {"failed": 1, "finished": 2}
    assert frozen(study, 0).user_attrs["reason"] == "too long"


@pytest.mark.parametrize("torn", [b"{", b'{"op_code":6,"worker_id":"', b"x" * 10000])
def test_a_torn_last_line_of_the_journal_is_cut_off(made: Callable[..., Study], tmp_path: Path, torn: bytes) -> None:
    """As a worker leaves it that was killed while it wrote, or whose disk was full."""
    study = made()
    trial = claimed(study)
    path = tmp_path / "sweep" / "study.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    study.report(trial, 1000, {"fd": 1.0})
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_text().splitlines())
    study.finish(trial, finished(1.0))
    study.close()
    study = made()
    assert frozen(study, 0).intermediate_values == {1000: 1.0}
    assert len(all_of(study)) == 2


def test_a_worker_killed_while_it_writes_holds_nobody_up(made: Callable[..., Study], tmp_path: Path) -> None:
    study = made()
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def take() -> None:
        from gan_lab.sweep.storage import JournalLock

        lock = JournalLock(tmp_path / "sweep" / "study.journal")
        theirs.send(lock.acquire())
        time.sleep(60)

    process = in_process(take)
    assert ours.recv()
    process.kill()
    started = time.monotonic()
    claimed(study)
    assert time.monotonic() - started < 5
    process.join()


# ---------------------------------------------------------------------- several workers


def work(make: Callable[..., Study], pipe: Connection, settings: dict[str, Any]) -> None:
    """Runs trials until none is left; sends each number."""
    study = make(**settings)
    chance = random.Random(os.getpid())
    while study.waiting():
        trial = study.claim()
        if trial is None:
            time.sleep(0.02)
            continue
        pipe.send(trial.number)
        for step in (1000, 2000):
            time.sleep(chance.uniform(0, 0.02))
            study.report(trial, step, {"fd": score(trial.params)})
        study.finish(trial, finished(score(trial.params)))


def test_four_workers_run_each_trial_once(made: Callable[..., Study]) -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    settings = {"num_trials": 12, "sampler": option("sampler", "tpe", n_startup_trials=4)}
    processes = [in_process(work, made, theirs, settings) for _ in range(4)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    theirs.close()
    received = []
    while ours.poll():
        try:
            received.append(ours.recv())
        except EOFError:
            break
    assert sorted(received) == list(range(12))
    study = made(num_trials=12)
    assert numbers(study) == {"finished": 12}
    assert len({str(one.params) for one in study.study.trials}) == 12
    assert all(list(one.intermediate_values) == [1000, 2000] for one in study.study.trials)


def hold(make: Callable[..., Study], pipe: Connection) -> None:
    """Claims a trial and keeps it for ever."""
    study = make()
    trial = claimed(study)
    study.report(trial, 1000, {"fd": 3.0})
    pipe.send(trial)
    time.sleep(60)


def test_an_orphan_is_taken_over_by_the_first_to_ask(made: Callable[..., Study]) -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = in_process(hold, made, theirs)
    theirs = ours.recv()
    study = made()
    assert claimed(study).number == 1  # not the one that is held
    process.kill()
    process.join()
    assert study.waiting()
    assert claimed(study) == theirs
    assert claimed(study).number == 2
    assert study.claim() is None
    assert numbers(study) == {"running": 3}
    assert frozen(study, 0).intermediate_values == {1000: 3.0}


def test_what_others_run_is_waited_for(made: Callable[..., Study]) -> None:
    one, other = made(num_trials=1), made(num_trials=1)
    trial = claimed(one)
    assert not one.waiting()  # its own
    assert other.waiting()
    assert other.claim() is None
    one.finish(trial, finished(1.0))
    assert not other.waiting()


# ---------------------------------------------------------------------- pruning


def run(study: Study, value: float, steps: range = range(1, 11)) -> int:
    """Runs a trial that always scores `value`; returns the last step, 10 if it was not pruned."""
    trial = claimed(study)
    for step in steps:
        if not study.report(trial, 20000 * step, {"fd": value, "recall": 0.5}):
            study.finish(trial, Outcome("pruned", {}))
            return step
    study.finish(trial, finished(value))
    return 10


def test_successive_halving_ends_what_is_not_in_the_best_third(made: Callable[..., Study]) -> None:
    study = made(num_trials=8, pruner=option("pruner", "successive_halving"))
    assert [run(study, value) for value in (3.0, 5.0, 4.0, 1.0, 6.0, 2.0, 0.5, 1.5)] == [10, 1, 1, 10, 1, 3, 10, 1]
    assert numbers(study) == {"finished": 3, "pruned": 5}
    assert study.best() == [6]


def test_successive_halving_judges_again_later(made: Callable[..., Study]) -> None:
    """At 10, 30 and 90 %: a run that starts well and grows bad ends at the next point."""
    study = made(num_trials=3, pruner=option("pruner", "successive_halving"))
    assert run(study, 2.0) == 10
    trial = claimed(study)
    answers = [study.report(trial, 20000 * step, {"fd": 1.0 if step < 3 else 5.0}) for step in range(1, 5)]
    assert answers == [True, True, False, False]


def test_hyperband_ends_some(made: Callable[..., Study]) -> None:
    study = made(num_trials=12, pruner=option("pruner", "hyperband"))
    ends = [run(study, value) for value in range(12)]
    assert ends[0] == 10
    assert {1, 3} <= set(ends)  # halvings that begin at different times
    assert numbers(study)["pruned"] == sum(end < 10 for end in ends)


def test_median_ends_the_worse_half_after_its_warm_up(made: Callable[..., Study]) -> None:
    study = made(num_trials=6, pruner=option("pruner", "median", num_startup_trials=3))
    assert [run(study, value) for value in (1.0, 2.0, 3.0, 2.5, 1.5, 9.0)] == [10, 10, 10, 2, 10, 2]


def test_of_an_objective_that_is_maximised_the_small_ones_end(made: Callable[..., Study]) -> None:
    median = option("pruner", "median", num_startup_trials=1, warm_up_share=0.3)
    study = made(num_trials=3, pruner=median, objectives={"fd": "maximize"})
    assert [run(study, value) for value in (5.0, 1.0, 7.0)] == [10, 3, 10]
    assert study.best() == [2]


def test_without_a_pruner_none_ends(made: Callable[..., Study]) -> None:
    for where, pruner in (("one", None), ("other", option("pruner", "none"))):
        study = made(where=where, num_trials=4, pruner=pruner)
        assert [run(study, value) for value in (1.0, 5.0, 7.0, 9.0)] == [10] * 4


def test_values_that_are_no_numbers_are_not_reported(made: Callable[..., Study]) -> None:
    study = made(pruner={"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1})
    run(study, 1.0)
    trial = claimed(study)
    for step, values in enumerate(({"fd": math.nan}, {"fd": math.inf}, {}, {"recall": 0.1})):
        assert study.report(trial, step, values)
    assert frozen(study, 1).intermediate_values == {}
    assert not study.report(trial, 20000, {"fd": 2.0})


def test_a_trial_resumed_after_it_was_to_end_ends(made: Callable[..., Study]) -> None:
    settings: dict[str, Any] = {"pruner": option("pruner", "successive_halving")}
    study = made(**settings)
    run(study, 1.0)
    trial = claimed(study)
    assert not study.report(trial, 20000, {"fd": 2.0})
    assert not study.report(trial, 20000, {"fd": 2.0})
    study.close()
    study = made(**settings)
    assert claimed(study) == trial
    assert not study.report(trial, 20000, {"fd": 2.0})
    assert not study.report(trial, 40000, {"fd": 0.1})


class DeadlyPruner(optuna.pruners.BasePruner):
    """Kills its process when it is asked."""

    def prune(self, study: Any, trial: Any) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return True


def test_a_worker_killed_while_a_value_is_judged_has_reported_nothing(made: Callable[..., Study]) -> None:
    """So that the value, which comes again when the run is resumed, is judged as if nothing had happened."""

    def report() -> None:
        study = made(pruner={"_target_": f"{__name__}.DeadlyPruner"})
        study.report(claimed(study), 20000, {"fd": 2.0})

    process = in_process(report)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert frozen(made(), 0).intermediate_values == {}


def test_a_verdict_that_a_killed_worker_has_not_carried_out(made: Callable[..., Study]) -> None:
    study = made()
    trial = claimed(study)
    verdict = {"step": 20000, "value": 2.0, "is_over": True, "notes": {"completed_rung_0": 2.0}}
    study._storage.set_trial_user_attr(frozen(study, 0)._trial_id, "verdict", verdict)
    study.close()
    study = made()
    assert claimed(study) == trial
    assert frozen(study, 0).intermediate_values == {20000: 2.0}
    assert frozen(study, 0).system_attrs["completed_rung_0"] == 2.0
    assert not study.report(trial, 20000, {"fd": 2.0})


# ---------------------------------------------------------------------- several objectives


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_the_pareto_front_of_several_objectives(made: Callable[..., Study], sampler: str) -> None:
    objectives = {"fd": "minimize", "recall": "maximize"}
    study = made(
        num_trials=12, objectives=objectives, sampler=option("sampler", sampler), pruner=option("pruner", "median")
    )
    values = []
    while (trial := study.claim()) is not None:
        fd, recall = round(score(trial.params), 1), round(trial.params["x"] + trial.params["n"] / 10, 1)
        assert study.report(trial, 100000, {"fd": 1e9, "recall": 0.0})
        if trial.number == 5:
            study.finish(trial, Outcome("failed", {}, "crashed", "it crashed"))
            continue
        study.finish(trial, Outcome("finished", {"recall": recall, "fd": fd}))
        values.append((trial.number, fd, recall))
    front = [
        number
        for number, fd, recall in values
        if not any(a <= fd and b >= recall and (a, b) != (fd, recall) for _, a, b in values)
    ]
    assert study.best() == front
    assert 1 < len(front) < 11
    assert not any(one.intermediate_values for one in study.study.trials)


def test_best_of_nothing(made: Callable[..., Study]) -> None:
    study = made(num_trials=1)
    assert study.best() == []
    study.finish(claimed(study), Outcome("failed", {}, "crashed", "it crashed"))
    assert study.best() == []


# ---------------------------------------------------------------------- samplers and pruners by configuration


@pytest.mark.parametrize("target", ["GridSampler", "BruteForceSampler"])
def test_every_combination_once(made: Callable[..., Study], target: str) -> None:
    space = parse_space(["loss=a,b,c", "n=range(1,4)", "w=0.1,0.2"], when={"w": "loss=b"})[1]
    node = {"_target_": f"optuna.samplers.{target}"}
    study = made(parameters=space, sampler=node, num_trials=100)
    assert study.num_trials == 12
    seen = []
    while (trial := study.claim()) is not None:
        study.finish(trial, finished(1.0) if trial.number % 2 else Outcome("failed", {}, "crashed", "it crashed"))
        seen.append(tuple(trial.overrides))
    assert len(set(seen)) == len(seen) == 12
    assert seen != sorted(seen)  # in random order
    few = made(where="few", parameters=space, sampler=node, num_trials=5)
    more = made(where="few", parameters=space, sampler=node, num_trials=9)
    assert few.num_trials == 5
    assert more.num_trials == 9


def test_trials_of_qmc_are_points_of_one_sequence(made: Callable[..., Study]) -> None:
    """Sobol's: after a random one, the first eight lie one in each eighth; what has a condition is random."""
    space = parse_space(["x=interval(0,1)", "f=true,false", "w=interval(0,1)"], when={"w": "f=true"})[1]
    study = made(parameters=space, num_trials=9, sampler=option("sampler", "qmc"))
    trials = []
    while (trial := study.claim()) is not None:
        study.finish(trial, finished(1.0))
        trials.append(trial.params)
    assert sorted(int(8 * params["x"]) for params in trials[1:]) == list(range(8))
    conditional = [params["w"] for params in trials if params["f"]]
    assert len(set(conditional)) == len(conditional) > 2


def test_all_files_are_there() -> None:
    assert SAMPLERS == ["cmaes", "gp", "grid", "nsga2", "qmc", "random", "tpe"]
    assert PRUNERS == ["hyperband", "median", "none", "successive_halving"]


def test_components_within_components(made: Callable[..., Study]) -> None:
    inner = {"_target_": "optuna.pruners.ThresholdPruner", "upper": 5.0}
    patient = {"_target_": "optuna.pruners.PatientPruner", "wrapped_pruner": inner, "patience": 1}
    study = made(pruner=patient, sampler={"_target_": "optuna.samplers.QMCSampler", "qmc_type": "halton"})
    trial = claimed(study)
    assert [study.report(trial, step, {"fd": 3.0 * step}) for step in range(1, 5)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"objectives": {}}, "hydra/sweeper=optuna needs an objective: objective=fd, or hydra.sweeper.objectives"),
        (
            {"sampler": {"seed": 1}},
            "hydra.sweeper.sampler.seed: set hydra.sweeper.seed, from which each trial gets its own",
        ),
        ({"sampler": {"a": 1}}, "hydra.sweeper.sampler has no _target_ (such as optuna.samplers.TPESampler)"),
        (
            {"sampler": {"_target_": "optuna.samplers.TpeSampler"}},
            "hydra.sweeper.sampler._target_=optuna.samplers.TpeSampler cannot be imported: ",
        ),
        (
            {"sampler": {"_target_": "optuna.samplers.TPESampler", "startup": 3}},
            "hydra.sweeper.sampler: TPESampler.__init__() got an unexpected keyword argument 'startup'",
        ),
        (
            {"pruner": {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": -1}},
            "hydra.sweeper.pruner: Number of startup trials cannot be negative",
        ),
        (
            {"sampler": {"_target_": "optuna.samplers.BruteForceSampler"}},
            "lr=interval(1e-05,0.1): a grid has values, not intervals; name them (lr=a,b,c), or search the interval ",
        ),
        ({"storage": "nonsense"}, "hydra.sweeper.storage=nonsense: "),
        (
            {"storage": "postgresql+nodriver://me:secret@host/x"},
            "hydra.sweeper.storage=postgresql+nodriver://me:***@host/x: ",
        ),
    ],
)
def test_wrong_settings(made: Callable[..., Study], changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**changes)
    assert caught.value.problems[0].startswith(problem)
    assert "secret" not in str(caught.value)


def test_a_driver_that_is_missing(made: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"its driver is not installed; .*pip install 'gan_lab\[postgresql\]'"):
        made(storage="postgresql+psycopg://me@host/x")


def test_a_study_of_this_name_that_searches_something_else_is_refused(made: Callable[..., Study]) -> None:
    made()
    with pytest.raises(ConfigError, match="there is a study of this name with another space; choose another name"):
        made(parameters=SPACE[:2])
    for objectives in ({"fd": "maximize"}, {"kd": "minimize"}, {"fd": "minimize", "kd": "minimize"}):
        with pytest.raises(ConfigError, match="there is a study of this name with another objectives"):
            made(objectives=objectives)


def test_without_optuna_its_extra_is_named(made: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'gan_lab\[optuna\]'"):
        made()


def test_cmaes_needs_its_package_and_one_objective(made: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cmaes", None)
        with pytest.raises(ConfigError, match="cmaes needs the package cmaes: pip install cmaes"):
            made(sampler=option("sampler", "cmaes"))
    pytest.importorskip("cmaes", reason="needs the package cmaes")
    with pytest.raises(ConfigError, match="searches for one objective; use nsga2 for several"):
        made(sampler=option("sampler", "cmaes"), objectives={"fd": "minimize", "kd": "minimize"})


# ---------------------------------------------------------------------- one database, several directories


@pytest.fixture
def shared(made: Callable[..., Study], tmp_path: Path) -> Callable[..., Study]:
    """Makes studies as on several machines: each its own directory, and one database."""

    def make(where: str, **changes: Any) -> Study:
        storage = f"sqlite:///{tmp_path}/shared.db"
        return made(where=where, **({"storage": storage, "stale_seconds": 1.5} | changes))

    return make


def test_two_machines_share_the_trials(shared: Callable[..., Study], tmp_path: Path) -> None:
    one, other = shared("one", num_trials=4), shared("other", num_trials=4)
    first, free = claimed(one), frozen(one, 1)
    second = claimed(other)
    assert one._taken(1, free, "WAITING") is None  # by one that still took it for free
    assert (first.number, second.number) == (0, 1)
    for study, trial in ((one, first), (other, second)):
        study.finish(trial, finished(1.0))
    assert [trial.number for trial in all_of(other)] == [2, 3]
    assert numbers(one) == numbers(other) == {"finished": 4}
    assert not (tmp_path / "one" / "1").exists()
    assert not (tmp_path / "other" / "0").exists()


def test_a_machine_that_does_not_show_is_replaced(shared: Callable[..., Study]) -> None:
    one, other = shared("one", num_trials=2), shared("other", num_trials=2)
    lost = claimed(one)
    one.report(lost, 1000, {"fd": 1.0})
    other.finish(claimed(other), finished(1.0))
    assert other.claim() is None
    for _ in range(10):  # it shows
        time.sleep(0.2)
        one.beat(lost)
        assert other.claim() is None
        assert other.waiting()
    time.sleep(1.6)  # it does not
    assert claimed(other) == lost
    assert not one.report(lost, 2000, {"fd": 1.0})
    one.finish(lost, finished(9.0))  # too late
    assert one.claim() is None
    assert one.waiting()
    other.finish(lost, finished(2.0))
    assert numbers(one) == numbers(other) == {"finished": 2}
    assert not one.waiting()
    states = [(one.state.name, one.user_attrs["run"], one.user_attrs.get("kind")) for one in other.study.trials]
    assert states == [("FAIL", 0, "replaced"), ("COMPLETE", 1, None), ("COMPLETE", 0, None)]
    assert other.study.trials[2].params == other.study.trials[0].params
    assert other.best() == [1]


def test_own_orphans_are_taken_over_at_once(shared: Callable[..., Study]) -> None:
    one = shared("one", stale_seconds=60)
    trial = claimed(one)
    one.close()
    assert claimed(shared("other", stale_seconds=60)).number == 1
    assert claimed(shared("one", stale_seconds=60)) == trial


def test_beats_are_few(shared: Callable[..., Study]) -> None:
    study = shared("one", stale_seconds=120)
    trial = claimed(study)
    for _ in range(20):
        study.beat(trial)
    assert "beat" not in frozen(study, 0).user_attrs
    quick = shared("other", stale_seconds=0.0)
    trial = claimed(quick)
    quick.beat(trial)
    assert time.time() - frozen(quick, trial.number).user_attrs["beat"] < 10


def test_trials_queued_twice_are_run_once(shared: Callable[..., Study]) -> None:
    """Two commands that start at the same moment may both queue; the first of each run counts for both."""
    one = shared("one", num_trials=3)
    for number in (1, 0, 2, 1):
        one.study.enqueue_trial({}, user_attrs={"run": number})
    one.study.enqueue_trial({"lr": 0.5})  # by other tools: not ours
    other = shared("other", num_trials=3)
    assert sorted(trial.number for trial in [*all_of(one), *all_of(other)]) == [0, 1, 2]
    assert numbers(one) == numbers(other) == {"finished": 3}
    kinds = [trial.user_attrs.get("kind") for trial in one.study.trials]
    assert kinds == [None] * 3 + ["surplus"] * 4 + [None]


def test_what_nobody_queues_is_queued_by_the_next_one(
    shared: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that was killed right after it had made the study, or between the two halves of a replacement."""
    monkeypatch.setattr("gan_lab.sweep.study.SECONDS_UNTIL_QUEUED", 1.5)
    one = shared("one", num_trials=2)
    trial = claimed(one)
    one._fail(frozen(one, 0), "replaced", "for the test")
    other = shared("other", num_trials=4)
    other.finish(claimed(other), finished(1.0))
    assert other.claim() is None
    assert other.waiting()
    assert numbers(other) == {"finished": 1, "waiting": 3}
    time.sleep(1.6)
    assert [one.number for one in all_of(other)] == [0, 2, 3]
    replaced, again = (one for one in other.study.trials if one.user_attrs["run"] == 0)
    assert again.params == replaced.params == trial.params | {"x": pytest.approx(trial.params["x"])}
