import pytest
from made_runs import seeds, write_run, write_sweep, write_trial

from gan_lab.report.runs import find, read_run
from gan_lab.report.settings import differing, identity, is_setting, label, repeat_command, short_keys


def runs_of(folder):
    return find([folder]).runs


def test_only_what_was_chosen_and_differs_is_a_column(tmp_path):
    write_run(tmp_path / "a", [3.0], settings={"loss": "vanilla", "optimizer.lr": 1e-3, "batch_size": 32})
    write_run(tmp_path / "b", [3.0], settings={"loss": "hinge", "optimizer.lr": 1e-4, "batch_size": 32})

    # neither the losses' own leaves, nor the players' learning rates that follow from optimizer.lr
    assert differing(runs_of(tmp_path)) == ["loss", "optimizer.lr"]


def test_a_key_that_one_run_left_at_its_default_is_compared_by_its_value(tmp_path):
    write_run(tmp_path / "a", [3.0])
    write_run(tmp_path / "b", [3.0], settings={"optimizer.lr": 2e-4})
    assert differing(runs_of(tmp_path)) == []

    write_run(tmp_path / "c", [3.0], settings={"optimizer.lr": 3e-4})
    assert differing(runs_of(tmp_path)) == ["optimizer.lr"]


def test_what_differs_though_nobody_chose_it_is_a_column_too(tmp_path):
    """As by another version's defaults, which say more than the words that were typed."""
    write_run(tmp_path / "a", [3.0], settings={"loss": "hinge"}, overrides=["loss=hinge"])
    write_run(tmp_path / "b", [3.0], settings={"loss": "hinge", "batch_size": 99}, overrides=["loss=hinge"])

    assert differing(runs_of(tmp_path)) == ["batch_size"]


def test_technical_keys_count_only_where_a_sweep_chose_them(tmp_path):
    write_run(tmp_path / "a", [3.0], settings={"accelerator.num_threads": 1, "name": "x"})
    write_run(tmp_path / "b", [3.0], settings={"accelerator.num_threads": 2, "name": "y"})
    one, other = runs_of(tmp_path)
    assert differing([one, other]) == []
    assert identity(one) == identity(other)

    sweep = write_sweep(tmp_path / "sweep")
    for number, action in enumerate(("warn", "stop")):
        swept = {"callbacks.health.action": action}
        write_run(sweep / str(number), [3.0], settings=swept, trial={"params": swept})
    one, other = runs_of(sweep)
    assert differing([one, other]) == ["callbacks.health.action"]
    assert identity(one) != identity(other)


def test_the_technical_keys_are_those_that_runs_are_not_compared_by():
    from gan_lab.compose import Composer, register_resolvers
    from gan_lab.config import TECHNICAL, check, flat_keys, hyperparameters, plain

    register_resolvers(make=False)
    cfg = Composer().compose(["hydra.job.num=0"])
    compared = {key for key, value in flat_keys(plain(cfg)) if value is not None and not key.startswith(TECHNICAL)}

    # `hyperparameters` has the schema's defaults too; whatever it has and is set, is compared here
    assert compared <= set(hyperparameters(check(cfg)))
    assert {key for key in hyperparameters(check(cfg)) if not is_setting(key)} == {"seed"}


def test_runs_that_differ_in_their_seed_alone_are_one_configuration(tmp_path):
    runs = runs_of(seeds(tmp_path, vanilla=[3.0, 4.0], hinge=[5.0]))
    hinge, first, second = runs

    assert identity(first) == identity(second) != identity(hinge)


def test_runs_without_a_configuration_are_told_apart_by_the_sweep_or_by_name(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text('{"status": "failed"}')
    a, b = runs_of(tmp_path)
    assert identity(a) != identity(b)

    sweep = write_sweep(tmp_path / "sweep")
    for number, (loss, seed) in enumerate([("hinge", 1), ("hinge", 2), ("vanilla", 1)]):
        write_trial(sweep / str(number), {"status": "failed", "params": {"loss": loss, "seed": seed}})
    one, other, unlike = runs_of(sweep)
    assert identity(one) == identity(other) != identity(unlike)
    assert label(one, differing([one, other, unlike])) == "loss=hinge"


def test_the_options_of_groups_are_known_from_hydra_overrides_and_sweeps(tmp_path):
    write_run(tmp_path / "a", [3.0])
    write_run(tmp_path / "b", [3.0], settings={"loss": "hinge"})
    wgan = {"loss": "wgan"}
    write_run(tmp_path / "2", [3.0], settings=wgan, overrides=[], trial={"params": wgan})
    (tmp_path / "a" / ".hydra" / "hydra.yaml").write_text(
        "hydra: {runtime: {choices: {loss: vanilla, hydra/launcher: basic}}}"
    )

    assert [run.choices for run in runs_of(tmp_path)] == [{"loss": "wgan"}, {"loss": "vanilla"}, {"loss": "hinge"}]
    assert [label(run, ["loss"]) for run in runs_of(tmp_path)] == ["loss=wgan", "loss=vanilla", "loss=hinge"]


def test_an_option_that_is_not_known_everywhere_is_no_difference(tmp_path):
    write_run(tmp_path / "a", [3.0], settings={"loss": "hinge"}, overrides=[])
    write_run(tmp_path / "b", [3.0], settings={"loss": "hinge"})

    assert differing(runs_of(tmp_path)) == []


def test_keys_are_shortened_as_far_as_they_stay_distinct():
    keys = ["optimizer.generator.lr", "optimizer.discriminator.lr", "loss.penalty.weight", "loss.adversarial._target_"]

    assert list(short_keys(keys).values()) == ["generator.lr", "discriminator.lr", "weight", "adversarial"]


def test_labels_are_as_typed_and_not_endless(tmp_path):
    run = read_run(write_run(tmp_path / "run", [3.0], settings={"optimizer.lr": 3e-5, "loss": "hinge"}), "run")

    assert (
        label(run, ["loss", "optimizer.lr", "loss.adversarial._target_"]) == "loss=hinge, lr=3e-05, adversarial=hinge"
    )
    assert label(run, ["loss.penalty"]) == "digits-mlp"
    assert len(label(run, ["loss"] * 40)) == 90


@pytest.mark.parametrize(
    ("command", "overrides", "expected"),
    [
        (["-m", "gan_lab", "train", "loss=hinge", "hydra.run.dir=x"], [], "gan-lab train loss=hinge"),
        (
            ["-u", "scripts/train.py", "-cd=my conf", "loss=wgan"],
            ["loss=wgan"],
            "gan-lab train '-cd=my conf' loss=wgan",
        ),
        (["gan-lab", "train"], [], "gan-lab train"),
        (None, ["loss=wgan"], "gan-lab train loss=wgan"),
        (None, [], None),
        (["/bin/gan-lab", "reproduce", "run=latest"], [], None),
    ],
)
def test_the_command_that_repeats_a_run(tmp_path, command, overrides, expected):
    run = read_run(write_run(tmp_path / "run", [3.0], command=command, overrides=overrides), "run")

    assert repeat_command(run) == expected


def test_the_command_of_a_trial_knows_the_sweeps_own_configuration(tmp_path):
    sweep = write_sweep(tmp_path / "sweep", config_dir="mine")
    write_run(sweep / "0", [3.0], settings={"loss": "hinge"}, trial={}, command=None)  # it could not be started

    assert repeat_command(runs_of(sweep)[0]) == "gan-lab train --config-dir=mine loss=hinge seed=0"
