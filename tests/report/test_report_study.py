import logging
import math
import sys
from itertools import product

import pytest
from made_runs import OTHER_CARD, write_run, write_sweep

from gan_lab.report.runs import find
from gan_lab.report.study import FEWEST_TRIALS, Parameter, parameters, study

LR = {"key": "optimizer.lr", "low": 1e-5, "high": 1e-2, "log": True, "step": None, "integer": False, "when": []}


def grid(folder, values_of, *, kind="grid", **keys):
    """A sweep over all combinations of `keys` (dots as __), whose value is `values_of(...)`."""
    names = [key.replace("__", ".") for key in keys]
    sweep = write_sweep(folder, kind=kind, space=[{"key": name, "values": ["x"], "when": []} for name in names])
    for number, choice in enumerate(product(*keys.values())):
        params = dict(zip(names, choice, strict=True))
        value = values_of(*choice)
        write_run(sweep / str(number), [value], settings=params, trial={"params": params, "values": {"fd": value}})
    return sweep


def study_of(sweep):
    found = find([sweep])
    return study(found.whole[0], found.runs, found.whole[0].objectives)


def test_importances_find_what_matters(tmp_path):
    sweep = grid(
        tmp_path / "sweep",
        lambda lr, loss, size: 20 + 5 * math.log10(lr) + (3 if loss == "hinge" else 0) + 0.001 * size,
        optimizer__lr=[1e-1, 1e-2, 1e-3],
        loss=["hinge", "vanilla"],
        batch_size=[16, 32],
    )

    found = study_of(sweep)

    (shares,) = found.importances.values()
    assert list(shares) == ["optimizer.lr", "loss", "batch_size"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["optimizer.lr"] > 0.7
    assert shares["batch_size"] < 0.05
    assert found.because is None


def test_a_parameter_of_many_choices_is_explained_as_one_of_few(tmp_path):
    """Thirty names without order; Optuna's columns, one for each, would go through 2^30 combinations."""
    names = [f"name_{index:02}" for index in range(30)]
    sweep = grid(
        tmp_path / "sweep", lambda name, size: 20 + 7 * int(name[-2:]) % 30 + 0.1 * size, loss=names, batch_size=[1, 51]
    )

    (shares,) = study_of(sweep).importances.values()

    between, of_size = (30**2 - 1) / 12, (0.1 * 25) ** 2  # variances of 0 to 29 in equal parts, and of the two sizes
    assert shares["loss"] == pytest.approx(between / (between + of_size), abs=0.05)


def test_wide_values_are_explained_by_their_logarithm(tmp_path):
    sweep = grid(tmp_path / "sweep", lambda a, b: 10.0**a * (1 + b), batch_size=[1, 2, 3, 4], model__width=[1, 2])

    found = study_of(sweep)

    assert found.by_log == ["fd"]
    assert found.importances["fd"]["batch_size"] > 0.9


def test_only_finished_trials_are_explained(tmp_path):
    sweep = grid(tmp_path / "sweep", lambda a, b: a + b / 100, batch_size=[1, 2, 3, 4], model__width=[1, 2])
    for number in range(8, 30):  # pruned early, with values that would say the contrary
        params = {"batch_size": 1 + number % 4, "model.width": 1 + number % 2}
        trial = {"params": params, "status": "pruned"}
        write_run(sweep / str(number), [1000.0 * (number % 2)], settings=params, trial=trial, status="pruned")

    found = study_of(sweep)

    assert len(found.finished) == 8
    assert found.importances["fd"]["batch_size"] > 0.9


def test_conditional_parameters_are_left_out_of_the_importances(tmp_path):
    sweep = grid(tmp_path / "sweep", lambda a, b: a + b / 10, batch_size=[1, 2, 3, 4], model__width=[1, 2])
    extra = {"batch_size": 1, "model.width": 1, "loss.penalty.weight": 3.0}
    write_run(sweep / "8", [1.1], settings={"batch_size": 1}, trial={"params": extra})
    write_run(sweep / "9", [1.1], settings={"batch_size": 1}, trial={"params": {**extra, "loss.penalty.weight": 4.0}})

    found = study_of(sweep)

    assert [(parameter.key, parameter.always) for parameter in found.parameters] == [
        ("batch_size", True),
        ("model.width", True),
        ("loss.penalty.weight", False),
    ]
    assert set(found.importances["fd"]) == {"batch_size", "model.width"}


@pytest.mark.parametrize(
    ("kind", "num", "sentence"),
    [
        ("optuna", 4, f"Importances need at least {FEWEST_TRIALS} finished trials; there are 4."),
        ("grid", 4, None),
    ],
)
def test_few_trials_of_a_search_are_shown_without_importances(tmp_path, kind, num, sentence):
    sweep = grid(tmp_path / "sweep", lambda a, b: a + b, kind=kind, batch_size=[1, 2], model__width=[1, 2])

    found = study_of(sweep)

    assert (None if found is None else found.because) == sentence


def test_one_parameter_has_nothing_to_share_with(tmp_path):
    sweep = grid(tmp_path / "sweep", float, kind="optuna", batch_size=range(1, 10))

    assert study_of(sweep).because == "Importances need at least two parameters that every trial has."


def test_trials_of_another_card_are_left_out_and_said_to_be(tmp_path):
    sweep = grid(tmp_path / "sweep", lambda a, b: a + b, batch_size=[1, 2, 3, 4], model__width=[1, 2])
    params = {"batch_size": 4, "model.width": 2}
    write_run(sweep / "8", [0.1], card=OTHER_CARD, trial={"params": params})

    found = study_of(sweep)

    assert len(found.runs) == 8
    assert found.note == "1 trial was measured by another card than aaaa1111, and is left out here."


def test_without_optuna_the_page_says_what_to_install(tmp_path, monkeypatch):
    sweep = grid(tmp_path / "sweep", lambda a, b: a + b, batch_size=[1, 2, 3, 4], model__width=[1, 2])
    monkeypatch.setitem(sys.modules, "optuna", None)

    assert "pip install 'gan_lab[optuna]'" in study_of(sweep).because


def test_optuna_says_nothing_and_keeps_its_settings(tmp_path):
    import optuna

    before = optuna.logging.get_verbosity()
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    logging.getLogger("optuna").addHandler(handler)
    try:
        study_of(grid(tmp_path / "sweep", lambda a, b: a + b, batch_size=[1, 2, 3, 4], model__width=[1, 2]))
    finally:
        logging.getLogger("optuna").removeHandler(handler)

    assert said == []
    assert optuna.logging.get_verbosity() == before == logging.INFO


def test_scales_are_those_of_the_space_or_of_the_values(tmp_path):
    sweep = write_sweep(tmp_path / "sweep", space=[LR, {"key": "batch_size", "values": ["1"], "when": []}])
    for number, (lr, size, width, loss, seed) in enumerate(
        [(1e-4, 10, 1, "hinge", 1), (2e-4, 100, 9, "wgan", 2), (3e-4, 1000, 5, "wgan", 3)]
    ):
        chosen = {"optimizer.lr": lr, "batch_size": size, "model.width": width, "loss": loss, "seed": seed}
        write_run(sweep / str(number), [3.0], trial={"params": {**chosen, "same": 1}})
    found = find([sweep])

    assert parameters(found.whole[0], found.runs) == [
        Parameter("optimizer.lr", is_numeric=True, is_log=True, always=True),
        Parameter("batch_size", is_numeric=True, is_log=True, always=True),
        Parameter("model.width", is_numeric=True, is_log=False, always=True),
        Parameter("loss", is_numeric=False, is_log=False, always=True),
        Parameter("seed", is_numeric=False, is_log=False, always=True),
    ]


def test_a_forest_for_many_trials_is_small_and_still_right(tmp_path, monkeypatch):
    import optuna.importance

    trees: list[int] = []
    evaluator = optuna.importance.FanovaImportanceEvaluator

    def counted(*, n_trees, seed):
        trees.append(n_trees)
        return evaluator(n_trees=n_trees, seed=seed)

    monkeypatch.setattr(optuna.importance, "FanovaImportanceEvaluator", counted)
    sweep = grid(tmp_path / "sweep", lambda a, b: a + b / 100, batch_size=[1, 2, 3, 4], model__width=[1, 2])
    study_of(sweep)
    monkeypatch.setattr("gan_lab.report.study.MOST_FOR_ALL_TREES", 2)
    found = study_of(sweep)

    assert trees == [64, 16]
    assert found.importances["fd"]["batch_size"] > 0.9
