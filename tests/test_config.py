"""The check of the configuration: everything wrong at once, in sentences that name the key and what to do."""

import importlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import nn

from gan_lab.compose import Composer, changed_config, checked_overrides, parsed
from gan_lab.conditioning import AuxiliaryClassifier
from gan_lab.config import (
    ConfigError,
    RunConfig,
    build_data,
    build_gan,
    check,
    check_data,
    deciding_metric,
    measured,
    problems_of,
    save,
)
from gan_lab.data import Data
from gan_lab.data.digits import digits
from gan_lab.data.points import gaussian_ring
from gan_lab.files import write_json
from gan_lab.sweep import plan
from gan_lab.sweep.plan import representative_choices


@pytest.fixture(autouse=True)
def _no_hydra_left() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def defaults() -> Iterator[DictConfig]:
    yield Composer().compose([])
    GlobalHydra.instance().clear()


def problems_with(defaults: DictConfig, override: str) -> list[str]:
    """What is wrong with the default configuration once one key is set: Hydra's composition takes far longer."""
    cfg = defaults.copy()
    one = parsed(override)
    OmegaConf.update(cfg, one.key_or_group, one.value(), force_add=True)
    return problems_of(cfg)


def composed(*overrides: str, config_dir: str | None = None) -> DictConfig:
    """What the command line makes of the overrides, each of them checked."""
    checked = checked_overrides(list(overrides), config_dir)
    return Composer(config_dir).compose(checked)


def typed(*overrides: str) -> RunConfig:
    return check(Composer().compose(overrides))


def refused(*overrides: str, multirun: bool = False) -> list[str]:
    """The sentences with which the overrides are refused."""
    with pytest.raises(ConfigError) as caught:
        checked_overrides(list(overrides), None, representative_choices if multirun else None)
    return caught.value.problems


# ---------------------------------------------------------------------- unknown names


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("lr", "optimizer.lr"),
        ("batchsize", "batch_size"),
        ("modle", "model"),
        ("model.norm", "model.generator.norm"),
        ("kimg", "budget.kimg"),
        ("budget.kimgs", "budget.kimg"),
        ("ema.halflife_kimg", "ema.half_life_kimg"),
        ("accelerator.divice", "accelerator.device"),
        ("optimizer.clip_norm.generatr", "optimizer.clip_norm.generator"),
        ("optimizer.generator.weight_decy", "optimizer.generator.weight_decay"),
        ("model.depht", "model.depth"),
        ("model.discriminator.nrom", "model.discriminator.norm"),
        ("dataset.imagesize", "dataset.image_size"),
        ("evaluation.num_sample", "evaluation.num_samples"),
        ("callbacks.samples.evry_kimg", "callbacks.samples.every_kimg"),
        ("logger.tensorboard.flush", "logger.tensorboard.flush_secs"),
    ],
)
def test_unknown_key_and_the_nearest_one(defaults: DictConfig, key: str, nearest: str) -> None:
    assert problems_with(defaults, f"{key}=1") == [f"{key}: unknown key; did you mean {nearest}?"]


@pytest.mark.parametrize("overrides", ["+foo.bar=3", "foo.bar=3", "+loss.foo.bar=3"])
def test_a_wrong_key_is_not_the_nearest_to_itself(overrides: str) -> None:
    for problem in refused(*overrides.split()):
        assert not re.search("did you mean .*foo", problem)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_unknown_key_on_the_command_line(plus: str) -> None:
    assert refused(f"{plus}lr=0.1") == ["lr: unknown key; did you mean optimizer.lr?"]


def test_unknown_key_of_a_chosen_penalty() -> None:
    assert refused("loss=wgan_gp", "penalty=r1", "loss.penalty.wieght=1", "penalty.r1.wieght=1") == [
        "loss.penalty.wieght: unknown key; did you mean loss.penalty.weight?",
        "penalty.r1.wieght: unknown key; did you mean penalty.r1.weight?",
    ]


def test_unknown_options() -> None:
    problems = refused("model=mpl", "loss=wgangp", "dataset=3", "penalty=[r1,r3]", "experiment=quikstart")
    assert [problem for problem in problems if "=3: " not in problem] == [
        "model=mpl: no such option; did you mean mlp?",
        "loss=wgangp: no such option; did you mean wgan_gp?",
        "penalty=r3: no such option; known: class_consistency, consistency, gradient, lecam, none, r1, r1_r2, r2",
        "experiment=quikstart: no such option; did you mean quickstart?",
    ]
    (number,) = (problem for problem in problems if "=3: " in problem)
    assert number.startswith("dataset=3: no such option; known: celeba, cifar10, coupled_digits, ")


@pytest.mark.parametrize("group", ["penalty", "evaluation", "experiment"])
def test_null_is_no_option_of_a_group(group: str) -> None:
    (problem,) = refused(f"{group}=null")
    assert problem.startswith(f"{group}=null: ")


@pytest.mark.parametrize("text", ["model.discriminator.norm", "@@", "a=b=c"])
def test_what_is_no_override_is_shown(text: str) -> None:
    (problem,) = refused(text)
    assert problem.startswith(f"{text}: ")


# ---------------------------------------------------------------------- wrong values


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=a", "an integer at least 0"),
        ("seed=1.5", "an integer at least 0"),
        ("seed=true", "an integer at least 0"),
        ("seed=null", "an integer at least 0"),
        ("seed=-1", "an integer at least 0"),
        ("debug=1", "true or false"),
        ("name=5", "text"),
        ("batch_size=64.0", "an integer at least 1"),
        ("batch_size=0", "an integer at least 1"),
        ("budget.kimg=0", "a number above 0"),
        ("budget.kimg=-1", "a number above 0"),
        ("budget.kimg=many", "a number above 0"),
        ("budget.minutes=0", "a number above 0 or null"),
        ("ema.half_life_kimg=-1", "a number at least 0"),
        ("ema.rampup=0", "a number above 0 or null"),
        ("optimizer.lr=nan", "a number above 0 or null"),
        ("optimizer.betas=0.5", "a list of 2 (a number at least 0 and below 1) or null"),
        ("optimizer.betas=[0.5]", "a list of 2 (a number at least 0 and below 1) or null"),
        ("optimizer.schedule=linaer", "one of constant, linear, cosine"),
        ("optimizer.clip_norm.generator=0", "a number above 0 or null"),
        ("accelerator.precision=fp16", "one of auto, fp32, bf16"),
        ("accelerator.num_processes=0", "an integer at least 1"),
        ("model.latent_distribution=gaussian", "one of normal, uniform"),
        ("model.discriminator.dropout=1.5", "a number at least 0 and at most 1"),
        ("model.generator.norm=batchnorm", "one of none, batch, layer"),
        ("dataset.image_size=4", "an integer at least 8 and at most 128 or null"),
        ("dataset.split=valid", "one of train, test, all"),
        ("callbacks.samples.weights=best", "one of ema, raw"),
        ("callbacks.checkpoint.every_minutes=0", "a number above 0 or null"),
        ("loss.num_discriminator_steps=0", "an integer at least 1"),
        ("logger.tensorboard.flush_secs=0", "an integer at least 1"),
    ],
)
def test_wrong_type_or_range(defaults: DictConfig, override: str, expected: str) -> None:
    assert problems_with(defaults, override) == [f"{override}: expected {expected}"]


@pytest.mark.parametrize("override", ["optimizer.lr=inf", "budget.kimg=inf", "budget.minutes=inf"])
def test_infinity_is_no_number_to_train_with(defaults: DictConfig, override: str) -> None:
    (problem,) = problems_with(defaults, override)
    assert problem.startswith(f"{override}: expected a number")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("budget=5", "budget=5: expected the keys budget.kimg, budget.minutes"),
        ("budget=null", "budget=null: expected the keys budget.kimg, budget.minutes"),
        ("model.discriminator=3", "model.discriminator=3: expected a component, that is keys with _target_"),
        (
            "loss.penalty.weight=5",
            "loss.penalty={'weight': 5}: this loss has no penalty of its own; use loss=wgan_gp, or penalty=r1",
        ),
        ("callbacks.mine.x=1", "callbacks.mine has no _target_ (the dotted path of what to build)"),
        ("~seed", "seed is missing"),
        ("~loss.adversarial", "loss.adversarial is missing"),
        ("~dataset", "dataset is missing"),
        ("dataset=image_folder", "dataset.root must be given: dataset.root=..."),
        ("~model.generator.latent_dim", None),  # has a default
        ("~optimizer.generator.lr", "optimizer.generator.lr is required by gan_lab.optimizers.adam"),
        (
            "model.generator.sample_shape=[1,2,3]",
            "model.generator.sample_shape=[1, 2, 3]: this is set by the program; remove it",
        ),
        (
            "callbacks.mine._target_=nowhere.Thing",
            "callbacks.mine._target_=nowhere.Thing cannot be imported: there is no module nowhere; put nowhere.py "
            "into the directory where you run gan-lab, or on PYTHONPATH, or install its package",
        ),
    ],
)
def test_missing_or_misplaced(override: str, problem: str | None) -> None:
    if problem is None:
        assert problems_of(composed(override)) == []
    else:
        assert refused(override) == [problem]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("budget.kimg=0.0004", ": that is no image, and at least one batch is needed; use 0.064 or more"),
        ("budget.kimg=0.001", None),
        ("evaluation.num_samples=31", ": too few to score; use 32 or more, or evaluation=none"),
        ("evaluation.num_samples=32", None),
    ],
)
def test_nothing_to_train_or_to_score_with(defaults: DictConfig, override: str, problem: str | None) -> None:
    assert problems_with(defaults, override) == ([] if problem is None else [override + problem])


def test_a_missing_name_is_not_called_a_missing_package() -> None:
    (problem,) = refused("callbacks.mine._target_=gan_lab.callbacks.samples.Nope")
    assert problem.startswith("callbacks.mine._target_=gan_lab.callbacks.samples.Nope cannot be imported: ")
    assert "no module" not in problem


def test_several_problems_in_one_error() -> None:
    problems = refused("lr=0.1", "model=mpl", "batch_size=0", "budget.kimg=x", "model.generator.nrom=batch", "seed")
    assert sorted(problems) == [
        "batch_size=0: expected an integer at least 1",
        "budget.kimg=x: expected a number above 0",
        "lr: unknown key; did you mean optimizer.lr?",
        "model.generator.nrom: unknown key; did you mean model.generator.norm?",
        "model=mpl: no such option; did you mean mlp?",
        "seed: expected key=value",
    ]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("${model.nothing}", "model.generator.width: Interpolation key 'model.nothing' not found"),
        ("${nosuch:1}", "model.generator.width: Unsupported interpolation type nosuch"),
        ("${model.generator.width}", "model.generator.width: Recursive interpolation detected"),
    ],
)
def test_interpolation_that_cannot_be_resolved(defaults: DictConfig, value: str, problem: str) -> None:
    assert problems_with(defaults, f"model.generator.width={value}") == [problem]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.width=-3", "an integer at least 1 or null"),
        ("model.latent_dim=0", "an integer at least 1"),
        ("optimizer.lr=-1", "a number above 0 or null"),
        ("optimizer.betas=[0.5, 1.0]", "a list of 2 (a number at least 0 and below 1) or null"),
    ],
)
def test_what_others_take_over_is_reported_once(defaults: DictConfig, override: str, expected: str) -> None:
    assert problems_with(defaults, override) == [f"{override}: expected {expected}"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            "experiment=quickstart penalty=none",
            "penalty.r1 has no _target_ (the dotted path of what to build) "
            "(experiment=quickstart sets it; ~penalty.r1 takes it out)",
        ),
        (
            "optimizer=rmsprop experiment=gan ~optimizer.betas seed=-1",  # what is wrong by itself gets no addition
            "seed=-1: expected an integer at least 0",
        ),
        # what the way out is asked for cannot be resolved, or is not there:
        ("~optimizer.betas", "optimizer.generator.betas: Interpolation key 'optimizer.betas' not found"),
        ("experiment=gan batch_size=${nope}", "batch_size: Interpolation key 'nope' not found"),
        ("experiment=gan dataset=image_folder", "dataset.root must be given: dataset.root=..."),
        ("penalty.r1.weight=3", "penalty.r1 has no _target_ (the dotted path of what to build) (penalty=r1 brings it)"),
        (
            "experiment=gan penalty.r1.weight=3",
            "penalty.r1 has no _target_ (the dotted path of what to build) (penalty=r1 brings it)",
        ),
    ],
)
def test_a_part_without_its_whole_says_where_it_comes_from(overrides: str, problem: str) -> None:
    assert refused(*overrides.split()) == [problem]


@pytest.mark.parametrize(
    "overrides",
    ["experiment=quickstart penalty=none", "experiment=gan optimizer=rmsprop", "experiment=gan model=dcgan"],
)
def test_what_an_experiment_leaves_behind_is_taken_out_as_the_message_says(overrides: str) -> None:
    (problem,) = refused(*overrides.split())
    composed(*overrides.split(), re.search(r"~\S+", problem)[0])


def test_a_way_out_is_not_named_for_a_sweep_over_choices_of_which_only_some_need_it() -> None:
    assert refused("experiment=quickstart", "penalty=none,r1", multirun=True) == [
        "penalty.r1 has no _target_ (the dotted path of what to build) (with penalty=none)"
    ]


def test_a_way_out_that_cannot_be_looked_for_hides_nothing(tmp_path: Path) -> None:
    """An override that only composes with the experiment, whose group is no other's."""
    for name, text in {
        "extra/a": "x: 1",
        "extra/b": "x: 2",
        "experiment/mine": "# @package _global_\ndefaults:\n  - /extra@dataset.more: a\nseed: 3",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        checked_overrides(["experiment=mine", "extra@dataset.more=b", "batch_size=-1"], str(tmp_path))
    assert "batch_size=-1: expected an integer at least 1" in caught.value.problems


def test_several_values_need_a_sweep() -> None:
    assert refused("seed=1,2") == ["seed=1,2 names several values: add -m to run each, or quote it as one"]
    assert checked_overrides(["seed=1,2"], None, representative_choices) == ["seed=1,2"]


def test_every_value_of_a_sweep_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("seed=1,-2", "batch_size=64,0", multirun=True) == [
        "batch_size=0: expected an integer at least 1 (with seed=1 batch_size=0)",
        "seed=-2: expected an integer at least 0 (with seed=-2 batch_size=64)",
        "seed=-2: expected an integer at least 0 (with seed=-2 batch_size=0)",
        "batch_size=0: expected an integer at least 1 (with seed=-2 batch_size=0)",
    ]
    # Beyond so many combinations, each value is tried beside the others' first.
    monkeypatch.setattr(plan, "MOST_COMBINATIONS", 3)
    assert refused("seed=range(0,2)", "batch_size=64,0", multirun=True) == [
        "batch_size=0: expected an integer at least 1 (with seed=0 batch_size=0)"
    ]


# ---------------------------------------------------------------------- illegal combinations


@pytest.mark.parametrize(
    ("overrides", "key", "penalty", "others"),
    [
        ("loss=wgan_gp model.discriminator.norm=batch", "loss.penalty", "wgan_gp", "layer or none"),
        (
            "loss=wgan_gp model=dcgan model.discriminator.norm=batch",
            "loss.penalty",
            "wgan_gp",
            "instance, layer or none",
        ),
        ("penalty=r1 model.discriminator.norm=batch", "penalty.r1", "r1", "layer or none"),
        (
            "penalty=r1 model=dcgan",
            "penalty.r1",
            "r1",
            "instance, layer or none",
        ),  # there vanilla has batch
        ("penalty=r2 model=dcgan loss=hinge", "penalty.r2", "r2", "instance, layer or none"),
    ],
)
def test_batch_norm_under_a_penalty(overrides: str, key: str, penalty: str, others: str) -> None:
    assert refused(*overrides.split()) == [
        f"model.discriminator.norm=batch with {key} ({penalty}): BatchNorm mixes the samples whose gradients the "
        f"penalty takes one by one; use model.discriminator.norm={others}"
    ]
    for norm in others.replace(" or", ",").split(", "):
        typed(*overrides.split(), f"model.discriminator.norm={norm}")


class Hidden(nn.Module):
    """A discriminator of a user's own, with BatchNorm and no key that says so."""

    def __init__(self, *, sample_shape: tuple[int, ...], **others: object):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return self.layers(samples).squeeze(1)


def test_batch_norm_of_ones_own_under_a_penalty() -> None:
    own = ["dataset=gaussian_ring", f"model.discriminator={{_target_: {__name__}.Hidden}}"]
    with pytest.raises(ConfigError) as refusal:
        build_gan(typed(*own, "penalty=r1"), (2,))
    (problem,) = refusal.value.problems
    assert problem.startswith(f"model.discriminator ({__name__}.Hidden) has BatchNorm, which mixes")
    assert "penalty.r1 (r1)" in problem
    assert "use another norm in it" in problem
    build_gan(typed(*own), (2,))
    build_gan(typed(*own, "penalty=lecam"), (2,))


@pytest.mark.parametrize(
    ("overrides", "processes", "accumulate"),
    [
        ("batch_size=50 optimizer.accumulate=4", 1, 4),
        ("batch_size=51 accelerator=ddp accelerator.device=cpu", 2, 1),
        ("batch_size=50 accelerator=ddp accelerator.device=cpu optimizer.accumulate=4", 2, 4),
        ("batch_size=2 optimizer.accumulate=4", 1, 4),
    ],
)
def test_batch_that_cannot_be_shared(overrides: str, processes: int, accumulate: int) -> None:
    size = overrides.split()[0]
    assert refused(*overrides.split()) == [
        f"{size} cannot be shared equally by accelerator.num_processes={processes} times "
        f"optimizer.accumulate={accumulate}; use a multiple of {processes * accumulate}"
    ]


def test_batch_norm_needs_two_samples_in_each_pass() -> None:
    problem = "BatchNorm needs at least two samples in each pass; use a larger one"
    assert refused("batch_size=1") == [f"batch_size=1: {problem}"]
    assert refused("batch_size=4", "optimizer.accumulate=4") == [f"batch_size=4: {problem}"]
    assert problems_of(composed("batch_size=4", "optimizer.accumulate=4", "model.generator.norm=none")) == []
    assert problems_of(composed("batch_size=8", "optimizer.accumulate=4")) == []


def test_groups_of_samples_need_more_than_one_in_each_pass() -> None:
    style = ["model=style", "model.discriminator.minibatch_std=4", "optimizer.accumulate=4"]
    assert refused(*style, "batch_size=4") == [
        "batch_size=4 gives D one sample in each pass, and model.discriminator.minibatch_std=4 needs a group; use a "
        "larger one"
    ]
    assert problems_of(composed(*style, "batch_size=8")) == []
    assert problems_of(composed(*style[:1], *style[2:], "batch_size=4")) == []


@pytest.mark.parametrize("model", ["dcgan", "article_conv"])
@pytest.mark.parametrize("dataset", ["gaussian_ring", "gaussian_grid"])
def test_points_in_a_network_for_images(model: str, dataset: str) -> None:
    problems = refused(f"model={model}", f"dataset={dataset}")
    for problem in problems:
        assert problem.startswith("model.generator (" if problem == problems[0] else "model.discriminator (")
        assert problem.endswith(f"is for images, and the data set ({dataset}) has points; use model=mlp")
    assert len(problems) == (2 if model == "dcgan" else 1)
    assert problems_of(composed(f"dataset={dataset}")) == []


def test_weight_clipping_beside_a_penalty() -> None:
    assert refused("loss=wgan_gp", "loss.weight_clip=0.1") == [
        "loss.weight_clip=0.1 beside loss.penalty: use one of them; set the other to null"
    ]
    assert problems_of(composed("loss=wgan_gp", "loss.weight_clip=0.1", "loss.penalty=null")) == []


def test_metrics_that_a_kind_of_data_does_not_have() -> None:
    """Pairs of two domains agree or not; the label of a whole stack has no judge."""
    pairs = ["model=coupled", "objective=pair_agreement"]
    assert problems_of(composed(*pairs, "dataset=coupled_digits")) == []
    for more in (["dataset=coupled_digits", "evaluation.extractor=random"], ["model=dcgan", "dataset=digits"]):
        (problem,) = refused(*pairs, *more)
        assert problem.startswith("objective=pair_agreement is not measured by this run; ")
    labels = ["model=dcgan", "conditioning=projection", "evaluation=full", "objective=label_accuracy"]
    assert problems_of(composed(*labels, "dataset=digits")) == []
    (problem,) = refused(*labels, "dataset=stacked_digits")
    assert problem.startswith("objective=label_accuracy is not measured by this run; ")


def test_penalties_are_plain_partials() -> None:
    """Those of Hydra decide at each call whether it is allowed, which takes half a millisecond."""
    gan = build_gan(typed("model=mlp", "loss=wgan_gp", "penalty=[r1,lecam]", "penalty.r1.every=4"), (1, 8, 8))
    assert list(gan.penalties) == ["loss.penalty", "penalty.r1", "penalty.lecam"]
    first, second, third = gan.penalties.values()
    for one, name in ((first, "wgan_gp"), (second, "r1")):
        assert type(one) is partial
        assert one.func.__name__ == name
    assert second.keywords["every"] == 4
    assert type(third).__name__ == "LeCam"


def test_two_penalties_of_one_class_have_a_state_each() -> None:
    gan = build_gan(typed("model=mlp", "penalty=lecam", "+penalty.second._target_=gan_lab.penalties.LeCam"), (1, 8, 8))
    assert list(gan.memories) == ["penalty.lecam", "penalty.second"]
    assert gan.memories["penalty.lecam"] is not gan.memories["penalty.second"]


@pytest.mark.parametrize("objective", ["nearest_train_ratio", "authentic"])
def test_copies_are_no_measure_of_quality(objective: str) -> None:
    (problem,) = refused("evaluation=full", f"objective={objective}")
    assert problem.startswith(f"objective={objective} tells copies of training images from other fakes")


def test_objective_that_is_not_measured() -> None:
    assert refused("objective=loss/generater") == [
        "objective=loss/generater is not measured by this run; did you mean loss/generator?"
    ]
    (problem,) = refused("evaluation=none", "objective=sliced_wasserstein")
    start = "objective=sliced_wasserstein is not measured by this run; known: auto, null, loss/discriminator, "
    assert problem.startswith(start)
    assert problems_of(composed("evaluation=none", "objective=loss/generator")) == []
    assert problems_of(composed("dataset=gaussian_ring", "objective=modes_covered")) == []


def test_a_metric_that_does_not_exist_is_refused_with_those_that_do() -> None:
    (problem,) = refused("evaluation.metrics=[frechett]")
    assert problem.startswith("evaluation.metrics=['frechett']: expected a list of frechet, kernel, manifold, ")


def test_what_is_measured_depends_on_the_data_and_the_extractor() -> None:
    for overrides in (
        ["objective=modes_covered", "evaluation.extractor=random"],
        ["objective=fd", "dataset=gaussian_ring"],
        ["objective=fd", "evaluation.extractor=inception"],
        ["objective=fd", "evaluation.extractor=none"],
        ["objective=kd"],
    ):
        (problem,) = refused(*overrides)
        assert problem.startswith(f"{overrides[0]} is not measured by this run; ")
    assert problems_of(composed("evaluation=full", "objective=kd")) == []
    assert problems_of(composed("evaluation=inception", "objective=fid")) == []


def test_an_error_of_clusters_needs_a_category_for_each_class() -> None:
    given = ["conditioning=infogan", "objective=clusters/error"]
    assert problems_of(composed(*given)) == []
    five = "conditioning.num_categories=5"
    (problem,) = refused(*given, five)
    assert problem == "objective=clusters/error is not measured by this run; did you mean clusters/purity?"
    assert problems_of(composed("conditioning=infogan", five, "objective=clusters/purity")) == []
    (problem,) = refused("conditioning=infogan", "dataset=celeba", "objective=clusters/purity")
    assert problem.startswith("objective=clusters/purity is not measured by this run; ")


class Classifier(AuxiliaryClassifier):
    """Reads classes as what it is derived from."""


def test_a_kind_of_ones_own_reads_what_it_is_derived_from() -> None:
    own = ["conditioning=acgan", "conditioning._target_=test_config.Classifier"]
    assert problems_of(composed(*own, "objective=classes/accuracy")) == []
    (problem,) = refused(*own, "objective=clusters/purity")
    assert problem.startswith("objective=clusters/purity is not measured by this run; ")


def test_what_needs_labels_or_held_out_images_is_not_measured_without() -> None:
    for overrides in (
        ["objective=modes_covered", "dataset=celeba"],
        ["objective=class_score", "dataset=celeba", "evaluation=full"],
        ["objective=nearest_train_ratio", "dataset.split=all", "evaluation=full"],
    ):
        (problem,) = refused(*overrides)
        assert problem.startswith(f"{overrides[0]} is not measured by this run; ")
    assert "authentic" in measured(typed("dataset.split=all", "evaluation=full"))
    assert "nearest_train_ratio" in measured(typed("evaluation=full"))


def my_images(*, root: str, split: str = "train") -> Data:
    """A data source that says nothing of itself, and whose size is what it is."""
    return digits(split=split)  # type: ignore[arg-type]


def my_points(*, root: str) -> Data:
    return gaussian_ring(num_points=100)


my_points.layout = "points"  # type: ignore[attr-defined]


def of_source(source: str, *overrides: str) -> DictConfig:
    cfg = composed(*overrides)
    cfg.dataset = {"_target_": f"test_config.{source}", "root": "somewhere"}
    return cfg


def test_a_source_of_ones_own_has_images_unless_it_says_otherwise() -> None:
    assert problems_of(of_source("my_images", "model=dcgan")) == []
    assert deciding_metric(check(of_source("my_images"))) == "fd"
    assert len(problems_of(of_source("my_points", "model=dcgan"))) == 2
    assert deciding_metric(check(of_source("my_points"))) == "sliced_wasserstein"


def silent_points(*, root: str) -> Data:
    return my_points(root=root)


def test_data_that_are_not_what_their_source_says_are_refused() -> None:
    for source in ("my_images", "my_points"):
        config = check(of_source(source))
        check_data(config, build_data(config))
    config = check(of_source("silent_points"))
    with pytest.raises(ConfigError) as caught:
        check_data(config, build_data(config))
    assert caught.value.problems == [
        'dataset (silent_points) gives points and is taken for images; write silent_points.layout = "points" below it'
    ]


def test_an_objective_that_the_data_do_not_allow_is_refused_before_training() -> None:
    """What the source does not say, the data do: here that there are 8 classes, and no labels."""
    given = ["conditioning=infogan", "objective=clusters/error"]
    config = check(composed(*given, "dataset=gaussian_ring", "dataset.num_points=100"))
    with pytest.raises(ConfigError, match="objective=clusters/error is not measured by this run; did you mean"):
        check_data(config, build_data(config))
    config = check(composed(*given, "dataset=gaussian_ring", "conditioning.num_categories=8"))
    check_data(config, build_data(config))
    config = check(of_source("my_images", "objective=modes_covered"))
    check_data(config, digits())
    with pytest.raises(ConfigError, match="objective=modes_covered is not measured by this run; "):
        check_data(config, digits()._replace(labels=None, classes=None))


@pytest.mark.parametrize("name", ["digits", "stacked_digits", "coupled_digits", "gaussian_ring", "gaussian_grid"])
def test_sources_say_what_their_data_are(name: str) -> None:
    config = check(composed(f"dataset={name}"))
    data = build_data(config)
    check_data(config, data)
    source = getattr(importlib.import_module(config.dataset["_target_"].rsplit(".", 1)[0]), name)
    assert getattr(source, "num_classes", None) in (None, len(data.classes or ()))


def any_images(**settings: Any) -> Data:
    """A data source that hands its arguments on, image_size among them."""
    return digits(**settings)


@pytest.mark.parametrize(
    ("overrides", "decides"),
    [
        ([], "fd"),
        (["evaluation=inception"], "fid"),
        (["evaluation.extractor=none"], "sliced_wasserstein"),
        (["dataset=gaussian_ring"], "sliced_wasserstein"),
        (["experiment=toy_ring"], "mixture_kl"),
        (["experiment=toy_grid"], "mixture_kl"),
        (["evaluation=none"], None),
        (["experiment=toy_ring", "evaluation=none", "objective=null"], None),  # which has its own every_kimg
        (["objective=null"], None),
        (["dataset._target_=test_config.any_images"], "fd"),
        (["objective=coverage"], "coverage"),
    ],
)
def test_the_metric_that_decides(overrides: list[str], decides: str | None) -> None:
    assert deciding_metric(typed(*overrides)) == decides


def test_a_rate_for_an_optimizer_without_it_is_refused() -> None:
    """RMSprop has no betas: setting them must not pass without an effect."""
    (problem,) = refused("optimizer=rmsprop", "optimizer.betas=[0.5, 0.9]")
    assert problem.startswith("optimizer.betas")


# ---------------------------------------------------------------------- what reaches what


def rates(*overrides: str) -> tuple[float, float]:
    optimizer = typed(*overrides).optimizer
    return optimizer.generator["lr"], optimizer.discriminator["lr"]


def test_learning_rate_of_both_players_or_of_one() -> None:
    assert rates() == (2e-4, 2e-4)
    assert rates("optimizer.lr=0.01") == (0.01, 0.01)
    assert rates("optimizer.lr=0.01", "optimizer.generator.lr=0.5") == (0.5, 0.01)
    assert rates("optimizer.discriminator.lr=0.5") == (2e-4, 0.5)
    assert rates("optimizer=rmsprop", "optimizer.lr=0.01") == (0.01, 0.01)
    assert rates("optimizer=ttur") == (1e-4, 4e-4)


def test_shared_keys_reach_both_networks() -> None:
    model = typed(
        "model=dcgan", "model.width=12", "model.depth=1", "model.latent_dim=7", "model.generator.width=9"
    ).model
    assert (model.generator["width"], model.discriminator["width"]) == (9, 12)
    assert (model.generator["depth"], model.discriminator["depth"]) == (1, 1)
    assert (model.latent_dim, model.generator["latent_dim"]) == (7, 7)


def test_seed_zero_is_a_seed() -> None:
    """0 is taken as it is: equal to itself, whatever torch's own seed, and different from 1."""
    weights = []
    for seed, torch_seed in ((0, 1), (0, 2), (1, 1)):
        config = typed(f"seed={seed}", "model.width=4", "model.depth=1")
        assert config.seed == seed
        torch.manual_seed(torch_seed)
        gan = build_gan(config, (1, 8, 8))
        assert gan.streams.seed == seed
        weights.append(torch.cat([parameter.detach().flatten() for parameter in gan.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("loss", "norm"), [("wgan_gp", "layer"), ("vanilla", "batch"), ("wgan", "batch")])
def test_the_loss_chooses_the_norm_of_dcgans_discriminator(loss: str, norm: str) -> None:
    config = typed("model=dcgan", f"loss={loss}")
    assert config.model.discriminator["norm"] == norm
    assert config.model.generator["norm"] == "batch"
    assert typed("model=dcgan", f"loss={loss}", "model.discriminator.norm=none").model.discriminator["norm"] == "none"


@pytest.mark.parametrize(
    ("overrides", "marked"),
    [
        ("optimizer.generator.eps=1e-7", "++optimizer.generator.eps=1e-7"),
        ("model=article_conv model.discriminator.growth=2", "++model.discriminator.growth=2"),
        ("model=dcgan model.discriminator.max_width=128", "model.discriminator.max_width=128"),
        ("+optimizer.generator.eps=1e-7", "+optimizer.generator.eps=1e-7"),
        ("batch_size=32", "batch_size=32"),
    ],
)
def test_keys_with_a_default_need_no_plus(overrides: str, marked: str) -> None:
    assert checked_overrides(overrides.split())[-1] == marked
    assert problems_of(composed(*overrides.split())) == []


def test_legal_key_reaches_the_component() -> None:
    assert check(composed("optimizer.generator.eps=1e-7")).optimizer.generator["eps"] == 1e-7


def test_a_lightning_callback_under_a_name_of_its_own() -> None:
    early = ["callbacks.early._target_=pytorch_lightning.callbacks.EarlyStopping", "callbacks.early.monitor=x"]
    assert check(composed(*early)).callbacks["early"]["monitor"] == "x"
    assert refused(early[0]) == [
        "callbacks.early.monitor is required by pytorch_lightning.callbacks.EarlyStopping",
    ]


def test_a_further_logger_gets_the_runs_directory() -> None:
    config = check(composed("logger.extra.csv._target_=pytorch_lightning.loggers.CSVLogger"))
    assert list(config.logger.extra) == ["csv"]


@pytest.mark.parametrize("path", ["/tmp/Fotös", "a#b;c", "my pictures/März & April"])
def test_a_path_with_letters_that_hydras_grammar_does_not_know(path: str) -> None:
    (text,) = checked_overrides([f"hydra.run.dir={path}"])
    assert parsed(text).value() == path
    assert composed("dataset=mnist", f"dataset.root={path}").dataset.root == path


def test_what_cannot_be_read_says_how_to_quote_it() -> None:
    assert refused("dataset.root=Fotös, alle") == [
        "dataset.root=Fotös, alle: token recognition error at: 'ö'; a text with such characters needs quotes, and the "
        "shell's around them: 'dataset.root=\"...\"'"
    ]
    assert composed("dataset=mnist", "dataset.root='Fotös, alle'").dataset.root == "Fotös, alle"


# ---------------------------------------------------------------------- changes of a run that there is


@pytest.fixture
def run(tmp_path: Path, defaults: DictConfig) -> Path:
    """The directory of a run, as far as its configuration goes."""
    save(defaults, "a name", tmp_path / "run")
    return tmp_path / "run"


def changed(run: Path, *overrides: str) -> DictConfig:
    return changed_config(run, list(overrides))


def test_a_key_before_its_group_is_kept(run: Path) -> None:
    assert changed(run, "loss.penalty.weight=0.5", "loss=wgan_gp").loss.penalty.weight == 0.5
    assert changed(run, "loss=wgan_gp", "loss.penalty.weight=0.5").loss.penalty.weight == 0.5
    cfg = changed(run, "evaluation.metrics=[sliced_wasserstein]", "evaluation=fast")
    assert cfg.evaluation.metrics == ["sliced_wasserstein"]


def test_several_options_of_a_group(run: Path) -> None:
    assert sorted(changed(run, "penalty=[r1,lecam]").penalty) == ["lecam", "r1"]
    assert checked_overrides(["penalty=none,[r1,lecam]"], None, representative_choices) == ["penalty=none,[r1,lecam]"]
    with pytest.raises(ConfigError, match=r"^penalty=lecan: no such option; did you mean lecam\?$"):
        changed(run, "penalty=[r1,lecan]")
    assert refused("penalty=none,[r1,lecan]", multirun=True) == ["penalty=lecan: no such option; did you mean lecam?"]


@pytest.mark.parametrize("recorded", ["hydra", "sweep", None])
def test_the_users_own_groups_reach_a_run_that_there_is(run: Path, tmp_path: Path, recorded: str | None) -> None:
    """Those of the --config-dir that it was started with, or of the one that is given now."""
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    (tmp_path / "mine" / "loss" / "own.yaml").write_text("defaults:\n  - hinge\nwarmup_kimg: 0.5\n")
    place = str(tmp_path / "mine")
    if recorded == "hydra":
        sources = [{"path": place, "schema": "file", "provider": "command-line"}]
        written = {"hydra": {"runtime": {"config_sources": sources}}}
        OmegaConf.save(OmegaConf.create(written), run / ".hydra" / "hydra.yaml")
    elif recorded == "sweep":
        write_json(run.parent / "sweep.json", {"config_dir": place})
    assert changed_config(run, ["loss=own"], place if recorded is None else None).loss.warmup_kimg == 0.5
    if recorded is None:
        with pytest.raises(ConfigError, match=r"^loss=own: no such option; "):
            changed(run, "loss=own")


# ---------------------------------------------------------------------- experiments


def test_users_experiment_has_the_word_over_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# mine\ndefaults:\n  - override /loss: hinge\n  - override /model: dcgan\n"
        "batch_size: 12\nbudget:\n  kimg: 7\noptimizer:\n  lr: 0.5\n"
    )
    cfg = composed("experiment=mine", config_dir=str(tmp_path))
    assert (cfg.batch_size, cfg.budget.kimg, cfg.optimizer.lr) == (12, 7, 0.5)
    assert cfg.loss.adversarial._target_ == "gan_lab.losses.hinge"
    assert cfg.model.generator._target_ == "gan_lab.models.dcgan.Generator"
    # The command line has the last word, over keys and groups.
    cfg = composed("experiment=mine", "batch_size=6", "loss=lsgan", config_dir=str(tmp_path))
    assert (cfg.batch_size, cfg.budget.kimg) == (6, 7)
    assert cfg.loss.adversarial._target_ == "gan_lab.losses.lsgan"


def test_users_own_group_option(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "latent_dim: 3\nwidth: 5\ngenerator:\n  _target_: gan_lab.models.mlp.Generator\n"
        "discriminator:\n  _target_: gan_lab.models.mlp.Discriminator\n"
    )
    assert composed("model=mine", config_dir=str(tmp_path)).model.latent_dim == 3
    with pytest.raises(ConfigError, match=r"^model=mein: no such option; did you mean mine\?$"):
        composed("model=mein", config_dir=str(tmp_path))


def test_config_dir_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config-dir .*nowhere: there is no such directory"):
        composed(config_dir=str(tmp_path / "nowhere"))


def test_cuda_graphs_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = "accelerator.compile=cuda_graphs: needs one of NVIDIA's GPUs; use accelerator.compile=inductor or none"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert refused("accelerator.compile=cuda_graphs") == [problem]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert refused("accelerator.compile=cuda_graphs", "accelerator=cpu") == [problem]
    assert problems_of(composed("accelerator.compile=cuda_graphs")) == []


def test_compiling_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_lab.config.shutil.which", lambda name: None)
    assert refused("accelerator.compile=inductor") == [
        "accelerator.compile=inductor: no C++ compiler was found; install g++, or use accelerator.compile=none"
    ]
    assert problems_of(composed()) == []
    monkeypatch.setattr("gan_lab.config.shutil.which", lambda name: f"/usr/bin/{name}" if name == "clang++" else None)
    assert problems_of(composed("accelerator.compile=inductor")) == []


def test_a_mapping_for_hydra_brings_keys_of_its_own() -> None:
    """As in README: parameters that only some choices have."""
    when = "hydra.sweeper.when={loss.penalty.weight: 'loss=wgan_gp'}"
    given = ["model=mlp", "hydra/sweeper=optuna", when, "hydra.sweeper.num_trials=3"]
    checked = checked_overrides(given, combinations=lambda swept, sweeper: [[]])
    assert f"++{when}" in checked
    assert "hydra.sweeper.num_trials=3" in checked
    whole = Composer().whole(checked)
    GlobalHydra.instance().clear()
    assert whole.hydra.sweeper.when == {"loss.penalty.weight": "loss=wgan_gp"}
