"""checkpoints/best.ckpt: which generator is kept, that it is the one that was scored, and what scoring leaves alone."""

import csv
import json
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_same
from test_cli import SMALL, called, done, record_of, restored
from tiny import tiny_gan
from torch import Tensor, nn

import gan_lab.callbacks.evaluation
import gan_lab.callbacks.stop
from gan_lab.callbacks.evaluation import Evaluate
from gan_lab.compose import Composer, register_resolvers
from gan_lab.data import Data
from gan_lab.data.digits import digits
from gan_lab.evaluation import Evaluator, Metric, better, card_id
from gan_lab.features.cache import Cache
from gan_lab.models.mlp import Generator
from gan_lab.module import GAN
from gan_lab.reading import discriminator_gap
from gan_lab.run import train
from gan_lab.streams import Streams

FAST: tuple[Metric, ...] = ("frechet", "manifold", "sliced_wasserstein", "modes", "diversity")
NUM = 64
"""Samples that runs score."""

RUN = ["train", *SMALL, f"evaluation.num_samples={NUM}", "evaluation.every_kimg=0.016", "optimizer.lr=0.02"]
RUN += ["hydra.run.dir=run"]
"""An evaluation after each of the four cycles."""

RUIN = ["resume", "run=run", "budget.kimg=0.128", "optimizer.generator.lr=1"]
"""Four more, with a step that spoils the generator."""


def evaluator() -> Evaluator:
    cache = Cache(Path(os.environ["GAN_LAB_CACHE"]))
    return Evaluator(digits(), digits(split="test"), FAST, cache, num_samples=NUM, split="train")


@pytest.fixture(scope="module", autouse=True)
def extractor() -> None:
    """Made before any run, so that all read it from the cache."""
    evaluator().prepare()


@pytest.fixture(scope="module")
def ruined(tmp_path_factory: pytest.TempPathFactory, extractor: None) -> Path:
    """A run that gets worse."""
    cwd = tmp_path_factory.mktemp("ruined")
    done(*RUN, cwd=cwd)
    done(*RUIN, cwd=cwd)
    return cwd / "run"


def best_of(run_dir: Path) -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)


def last_of(run_dir: Path) -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


def evaluations_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["card"]]


def scores_by_another_way(weights: dict[str, Tensor]) -> dict[str, float]:
    """Of a generator of SMALL's size with these weights, on the evaluations' latents."""
    generator = Generator(sample_shape=(1, 8, 8), latent_dim=4, width=8, depth=1, norm="batch").eval()
    generator.load_state_dict(weights)
    with torch.no_grad():
        drawn = generator(Streams(0).normal((256, 4), "noise/evaluation", 0))[:NUM].numpy()
    return evaluator().score(torch.from_numpy(np.rint((drawn.clip(-1, 1) + 1) * 127.5).astype(np.uint8)))


# ---------------------------------------------------------------------- what is kept


def test_the_best_not_the_last_is_kept(ruined: Path) -> None:
    rows = evaluations_of(ruined)
    assert [int(row["images_seen"]) for row in rows] == list(range(16, 129, 16))
    values = [float(row["fd"]) for row in rows]
    index = values.index(min(values))
    assert index < 7  # the run got worse, or the test shows nothing
    content = best_of(ruined)
    score = content["score"]
    assert (score["metric"], score["value"]) == ("fd", values[index])
    assert score["images_seen"] == int(rows[index]["images_seen"])
    assert score["scores"] == {name: float(rows[index][name]) for name in score["scores"]}
    assert record_of(ruined)["best"] == {key: value for key, value in score.items() if key != "card"}
    weights, last = content["generator"], last_of(ruined)["generator_ema"]
    assert not all(torch.equal(weights[name], last[name]) for name in weights)


def test_weights_are_exactly_those_that_were_scored(ruined: Path) -> None:
    content = best_of(ruined)
    assert content["score"]["weights"] == "ema"
    assert scores_by_another_way(content["generator"]) == content["score"]["scores"]
    assert scores_by_another_way(last_of(ruined)["generator_ema"]) != content["score"]["scores"]


def test_raw_weights(tmp_path: Path) -> None:
    done(*RUN, "evaluation.weights=raw", "budget.kimg=0.016", cwd=tmp_path)
    content, last = best_of(tmp_path / "run"), last_of(tmp_path / "run")
    assert_same(content["generator"], last["generator"])
    assert not all(torch.equal(value, last["generator_ema"][name]) for name, value in last["generator"].items())
    assert scores_by_another_way(content["generator"]) == content["score"]["scores"]
    assert content["score"]["weights"] == content["score"]["card"]["weights"] == "raw"


def test_content(ruined: Path) -> None:
    content = best_of(ruined)
    assert (content["seed"], content["sample_shape"], content["modes"]) == (0, [1, 8, 8], None)
    assert content["model"]["latent_dim"] == 4
    assert "discriminator" not in content
    assert content["score"]["card_id"] == card_id(content["score"]["card"])


@pytest.mark.parametrize("verb", ["sample", "evaluate", "resume"])
def test_changed_weights_are_refused(ruined: Path, tmp_path: Path, verb: str) -> None:
    """One value, by its smallest step."""
    copied(ruined, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    weight = next(value for value in content["generator"].values() if value.is_floating_point())
    weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(math.inf))
    torch.save(content, path)
    arguments = {
        "sample": ["sample", "run=run", "weights=best", "out=a.npz"],
        "evaluate": ["evaluate", "run=run", "weights=best", "num=60"],
        "resume": ["resume", "run=run", "budget.kimg=0.2"],
    }[verb]
    result = called(*arguments, cwd=tmp_path)
    assert (result.code, result.out) == (1, "")
    message = "error: run/checkpoints/best.ckpt is damaged: its weights are not those that were scored"
    assert result.err.splitlines()[-1] == message
    assert result.err.count("error: ") == 1
    assert not (tmp_path / "a.npz").exists()
    if verb != "resume":
        assert result.err == message + "\n"
        others = [text for text in arguments if text != "weights=best"]
        done(*others, cwd=tmp_path)  # the last checkpoint is whole


def copied(run_dir: Path, to: Path) -> None:
    for path in run_dir.rglob("*"):
        if path.is_file():
            (to / path.relative_to(run_dir)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(run_dir)).write_bytes(path.read_bytes())


# ---------------------------------------------------------------------- which is the best


class Kept:
    """An Evaluate whose scores are given, and what it kept."""

    def __init__(self, objective: str, best: dict[str, Any] | None = None):
        self.callback = Evaluate(metrics=list(FAST))
        self.callback.objective, self.callback.best = objective, best
        self.callback.keep = lambda gan, score: self.images.append(score["images_seen"])
        self.images: list[int] = []
        self.gan = SimpleNamespace(images_seen=0)

    def __call__(self, *values: float, card: dict[str, Any] | None = None, name: str | None = None) -> list[int]:
        """The counts of images at which the generator was kept."""
        for value in values:
            self.gan.images_seen += 1
            scores = {name or str(self.callback.objective): value, "other": -value}
            self.callback._keep_if_best(self.gan, scores, card or {"num_fake": 100})  # type: ignore[arg-type]
        return self.images


def test_smaller_is_better() -> None:
    assert Kept("fd")(5, 6, 4, 4.5, 3, 9) == [1, 3, 5]


@pytest.mark.parametrize("objective", ["recall", "modes_covered", "authentic", "inception_score"])
def test_larger_is_better(objective: str) -> None:
    assert Kept(objective)(5, 6, 4, 6.5, 3, 9) == [1, 2, 4, 6]


@pytest.mark.parametrize("objective", ["fd", "recall"])
def test_of_equals_the_earlier_is_kept(objective: str) -> None:
    assert Kept(objective)(5, 5, 5) == [1]


@pytest.mark.parametrize(("objective", "values"), [("fd", (5, math.nan, 4)), ("recall", (4, math.nan, 5))])
def test_not_a_number_is_never_better(objective: str, values: tuple[float, ...]) -> None:
    assert Kept(objective)(*values) == [1, 3]
    assert not better(objective, math.nan, 1)
    assert not better(objective, math.nan, math.nan)


@pytest.mark.parametrize("objective", ["fd", "recall"])
def test_not_a_number_is_not_the_first_best_either(objective: str) -> None:
    assert Kept(objective)(math.nan, math.nan, 5, 5) == [3]


def test_not_a_number_under_another_card() -> None:
    kept = Kept("fd")
    kept(5)
    assert kept(math.nan, 7, card={"num_fake": 50}) == [1, 3]


@pytest.mark.parametrize(("objective", "worst", "better_one"), [("fd", math.inf, 5), ("recall", -math.inf, 0)])
def test_infinite_is_worse_than_any(objective: str, worst: float, better_one: float) -> None:
    assert Kept(objective)(worst, better_one, worst) == [1, 2]


def test_another_card_starts_anew() -> None:
    """What was scored (weights, noise) is no part of how it was measured."""
    kept = Kept("fd")
    kept(5, card={"num_fake": 100, "weights": "ema"})
    assert kept(6, card={"num_fake": 100, "weights": "raw"}) == [1]
    assert kept(6, card={"num_fake": 50}) == [1, 3]
    assert kept(5.5, 5.8, card={"num_fake": 50}) == [1, 3, 4]


def test_another_objective_starts_anew() -> None:
    first = Kept("fd")
    first(5)
    assert Kept("sliced_wasserstein", first.callback.best)(9) == [1]
    assert Kept("fd", first.callback.best)(9) == []
    assert Kept("fd", first.callback.best)(4) == [1]


def test_objective_that_is_not_scored() -> None:
    kept = Kept("loss/generator")
    assert kept(5, name="fd") == []
    assert kept.callback.best is None


def test_larger_is_better_in_a_run(tmp_path: Path) -> None:
    done(*RUN, "objective=high_quality", cwd=tmp_path)
    done(*RUIN, cwd=tmp_path)
    values = [float(row["high_quality"]) for row in evaluations_of(tmp_path / "run")]
    score = best_of(tmp_path / "run")["score"]
    assert len(set(values)) > 1
    assert (score["metric"], score["value"]) == ("high_quality", max(values))
    assert score["images_seen"] == 16 * (values.index(max(values)) + 1)  # the first of equals


def test_another_number_of_samples_on_resume(ruined: Path, tmp_path: Path) -> None:
    """Fewer samples make a larger distance, which is kept all the same: the two must not be ranked."""
    copied(ruined, tmp_path / "run")
    before: Any = record_of(tmp_path / "run")
    done("resume", "run=run", "budget.kimg=0.16", "evaluation.num_samples=32", cwd=tmp_path)
    after: Any = record_of(tmp_path / "run")
    assert after["best"]["value"] > before["best"]["value"]
    assert after["best"]["images_seen"] > 128
    assert best_of(tmp_path / "run")["score"]["card"]["num_fake"] == 32
    rows = evaluations_of(tmp_path / "run")
    old, new = before["best"]["card_id"], after["best"]["card_id"]
    assert old != new
    assert [row["card"] for row in rows] == [old] * 8 + [new] * 2
    assert list(after["cards"]) == [old, new]
    for name, num in ((old, NUM), (new, 32)):
        card = after["cards"][name]
        assert (card["num_fake"], card["num_real"], card_id(card)) == (num, num, name)
        assert (card["weights"], card["noise_seed"], card["split"]) == ("ema", 0, "train")


# ---------------------------------------------------------------------- what `train` returns


def trained(run_dir: Path, *overrides: str) -> float | None:
    """`train`, as a sweep calls it."""
    with restored():
        register_resolvers(make=False)
        return train(Composer().compose([*SMALL, *overrides]), run_dir)


def test_train_returns_the_best_value(tmp_path: Path) -> None:
    given = ["evaluation.every_kimg=0.016", "optimizer.lr=0.3", "objective=sliced_wasserstein"]  # it grows worse
    value = trained(tmp_path / "run", *given)
    values = [float(row["sliced_wasserstein"]) for row in evaluations_of(tmp_path / "run")]
    assert value == min(values) == best_of(tmp_path / "run")["score"]["value"]
    assert value != values[-1]


def test_train_returns_the_last_value_of_a_training_metric(tmp_path: Path) -> None:
    given = ["evaluation.every_kimg=0.016", "callbacks.metrics.every_kimg=0.016", "objective=loss/generator"]
    value = trained(tmp_path / "run", *given)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["loss/generator"]) for row in csv.DictReader(file)]
    assert value == losses[-1]
    assert len(set(losses)) == 4
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def test_a_finished_run_whose_objective_is_no_number_is_resumed(tmp_path: Path) -> None:
    """run.json has null for it."""
    done(*RUN, cwd=tmp_path)
    record: Any = record_of(tmp_path / "run")
    del record["best"]
    record["metrics"]["fd"] = None
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    done("resume", "run=run", cwd=tmp_path)


def test_train_returns_nothing_without_an_objective(tmp_path: Path) -> None:
    assert trained(tmp_path / "run", "objective=null") is None
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


# ---------------------------------------------------------------------- training is left alone

MLP = [*SMALL, "model.discriminator.dropout=0.3"]
DCGAN = ["model=dcgan", "model.width=4", "model.latent_dim=4", "batch_size=16", "budget.kimg=0.064"]


@pytest.mark.parametrize("model", [MLP, DCGAN, [*DCGAN, "accelerator.precision=bf16"]], ids=["mlp", "dcgan", "bf16"])
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_evaluation_does_not_change_training(tmp_path: Path, model: list[str], weights: str) -> None:
    given = [text for text in model if not text.startswith("evaluation.")]
    with_it = ["evaluation=fast", "evaluation.num_samples=32", "evaluation.every_kimg=0.016"]
    done("train", *given, *with_it, f"evaluation.weights={weights}", "hydra.run.dir=with", cwd=tmp_path)
    done("train", *given, "evaluation=none", "hydra.run.dir=without", cwd=tmp_path)
    assert len(evaluations_of(tmp_path / "with")) == 4
    states = []
    for name in ("with", "without"):
        state = last_of(tmp_path / name)
        states.append({key: value for key, value in state.items() if key not in ("wall_seconds", "health")})
    assert_same(*states)
    assert {"generator", "discriminator", "generator_ema", "optimizers", "counters", "recorded"} <= set(states[0])


@pytest.mark.parametrize("stop", ["signal", "crash"])
def test_stopped_run_has_the_same_best(
    ruined: Path, tmp_path: Path, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash leaves best.ckpt ahead of last.ckpt: the evaluations in between are done again, and change nothing."""
    original = Evaluate.on_cycle_end

    def stopping(self: Evaluate, trainer: Any, gan: GAN) -> None:
        original(self, trainer, gan)
        if gan.images_seen == 48:
            if stop == "crash":
                raise RuntimeError("pulled the plug")
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluate, "on_cycle_end", stopping)
        result = called(*RUN, "callbacks.checkpoint.every_kimg=0.032", cwd=tmp_path)
    assert result.code == (130 if stop == "signal" else 1)
    run_dir = tmp_path / "run"
    assert record_of(run_dir)["images_seen"] == (64 if stop == "signal" else 32)
    if stop == "crash":
        assert best_of(run_dir)["score"]["images_seen"] == 48
    done("resume", "run=run", cwd=tmp_path)
    done(*RUIN, cwd=tmp_path)
    assert_same(best_of(run_dir), best_of(ruined))
    assert record_of(run_dir)["best"] == record_of(ruined)["best"]
    assert [row["fd"] for row in evaluations_of(run_dir)] == [row["fd"] for row in evaluations_of(ruined)]


def test_best_checkpoint_without_its_entry_in_run_json(ruined: Path, tmp_path: Path) -> None:
    """A kill between the two writes: the record is made whole, and `train` would return the best value."""
    copied(ruined, tmp_path / "run")
    record = record_of(tmp_path / "run")
    best = record.pop("best")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    done("resume", "run=run", "budget.kimg=0.144", cwd=tmp_path)
    assert record_of(tmp_path / "run")["best"] == best


def test_making_the_extractor_is_no_training_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of it, on a clock of our own, is neither in wall_seconds nor taken from budget.minutes."""
    clock = SimpleNamespace(now=0.0)

    def tick() -> float:
        clock.now += 0.001
        return clock.now

    for module in (gan_lab.callbacks.evaluation, gan_lab.callbacks.stop):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=tick))
    original, calls = Evaluator.prepare, []

    def slow(self: Evaluator) -> None:
        calls.append(clock.now)
        clock.now += 3600
        original(self)

    monkeypatch.setattr(Evaluator, "prepare", slow)
    done(*RUN, "budget.minutes=1", cwd=tmp_path)
    assert len(calls) == 1
    record: Any = record_of(tmp_path / "run")
    assert record["images_seen"] == 64
    assert 0 < record["wall_seconds"] < 1
    assert last_of(tmp_path / "run")["wall_seconds"] < 1


# ---------------------------------------------------------------------- how far D knows its training data


class FirstPixel(nn.Module):
    """The logit is the first value of a sample; in training mode anything."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.modes: list[bool] = []

    def forward(self, samples: Tensor) -> Tensor:
        self.modes.append(self.training)
        if self.training:
            return torch.randn(len(samples))
        return self.scale * samples.flatten(1)[:, 0]


def gan_of(network: nn.Module) -> GAN:
    gan = tiny_gan()
    gan.discriminator = network
    return gan


def points_at(value: float, num: int = 40) -> Tensor:
    """Points whose first coordinate has exactly this mean, and a spread."""
    spread = torch.linspace(-1, 1, num)
    return torch.stack([value + spread, torch.full((num,), 7.0)], dim=1)


@pytest.mark.parametrize(
    ("train_at", "held_out_at", "fake_at", "gap"),
    [
        (2, 2, -1, 0.0),
        (2, -1, -1, 1.0),
        (2, 0.5, -1, 0.5),
        (2, -4, -1, 2.0),
        (2, 3.5, -1, -0.5),
    ],
)
def test_gap(train_at: float, held_out_at: float, fake_at: float, gap: float) -> None:
    """(train - held out) / (train - fake)."""
    data, held_out = (Data(points_at(value), None, None) for value in (train_at, held_out_at))
    found = discriminator_gap(gan_of(FirstPixel()), data, held_out, points_at(fake_at))
    assert found == pytest.approx(gap, abs=1e-6)


@pytest.mark.parametrize("fake_at", [1, 2])
def test_no_gap_where_fakes_are_taken_for_no_less_real_than_training_data(fake_at: float) -> None:
    """It would have no meaning, and as a number contradict what the health watch has found."""
    data, held_out = (Data(points_at(value), None, None) for value in (1, 0))
    assert discriminator_gap(gan_of(FirstPixel()), data, held_out, points_at(fake_at)) is None


def test_a_gap_that_is_not_there_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_lab.callbacks.evaluation.discriminator_gap", lambda *given: None)
    done(*RUN, "budget.kimg=0.016", cwd=tmp_path)
    assert "fd/floor" in record_of(tmp_path / "run")["metrics"]
    assert "discriminator/gap" not in record_of(tmp_path / "run")["metrics"]
    assert "discriminator/gap" not in evaluations_of(tmp_path / "run")[0]


def test_gap_of_images() -> None:
    """Bytes come to D as they do in training, in [-1, 1]; the logit of 255 is 1, of 0 is -1."""

    def images(value: int) -> Tensor:
        return torch.full((20, 1, 2, 2), value, dtype=torch.uint8)

    data, held_out = Data(images(255), None, None), Data(images(51), None, None)
    before = data.samples.clone()
    gap = discriminator_gap(gan_of(FirstPixel()), data, held_out, images(0))
    assert gap == pytest.approx((1 - (51 / 127.5 - 1)) / 2)
    assert torch.equal(data.samples, before)


def test_gap_takes_a_thousand_of_each_from_everywhere() -> None:
    """Sorted data: the first thousand alone would have another mean."""
    train = torch.arange(4000.0).unsqueeze(1).repeat(1, 2)
    network = FirstPixel()
    seen: list[Tensor] = []
    network.register_forward_hook(lambda module, given, result: seen.append(given[0][:, 0]))
    data = Data(train, None, None)
    assert discriminator_gap(gan_of(network), data, data, points_at(-10_000)) == 0.0
    shown = torch.cat(seen)
    assert len(shown) == 1000 + 1000 + 40
    assert shown[:1000].mean().item() == pytest.approx(1999.5, abs=150)
    assert len(shown[:1000].unique()) == 1000


@pytest.mark.parametrize("training", [True, False])
def test_gap_leaves_the_discriminator_and_the_generators_of_numbers_alone(training: bool) -> None:
    network = FirstPixel().train(training)
    data = Data(points_at(2), None, None)
    before = torch.get_rng_state()
    discriminator_gap(gan_of(network), data, data, points_at(0))
    assert network.training is training
    assert not any(network.modes)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.scale.grad is None
