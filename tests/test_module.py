"""The module: one pass or two, precision, averages, schedule of events, state and a golden run."""

import copy
import io
import json
import math
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import assert_same
from tiny import BATCH_SIZE, METHODS, copy_of, cycle_of, fit, points, ready, same_weights, sgd, tiny_gan
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gan_lab.losses import hinge, wasserstein
from gan_lab.module import GAN
from gan_lab.optimizers import adam, rmsprop
from gan_lab.penalties import gradient, r1, r1_r2, r2, wgan_gp
from gan_lab.procedures.noise_to_data import update_discriminator

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
GOLDEN = Path(__file__).parent / "golden" / "ten_cycles.json"


def test_each_player_has_an_optimizer_of_its_own_over_its_own_weights():
    gan = tiny_gan()
    gan.optimization = gan.optimization._replace(generator=sgd(0.1), discriminator=partial(rmsprop, lr=0.2))
    ready(gan)

    assert type(gan.generator_player.optimizer) is torch.optim.SGD
    assert type(gan.discriminator_player.optimizer) is torch.optim.RMSprop
    for player, network in ((gan.generator_player, gan.generator), (gan.discriminator_player, gan.discriminator)):
        moved = [id(parameter) for group in player.optimizer.param_groups for parameter in group["params"]]
        assert moved == [id(parameter) for parameter in network.parameters()]
        assert [id(parameter) for parameter in player.parameters] == moved


# ---------------------------------------------------------------------- judging


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_one_pass_over_real_and_fake_is_two_passes(norm):
    gan = ready(tiny_gan(discriminator={"norm": norm}))
    real, fake = points(8), points(6) - 3
    passes: list[int] = []
    gan.discriminator.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    real_logits, fake_logits = gan.passes().logits(real, fake)

    assert passes == [14]
    torch.testing.assert_close(real_logits, gan.discriminator(real), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fake_logits, gan.discriminator(fake), rtol=1e-6, atol=1e-6)
    assert torch.equal(gan.judge(fake), gan.discriminator(fake))


def test_batch_norm_sees_real_and_fake_apart():
    gan = ready(tiny_gan(discriminator={"norm": "batch"}))
    apart = copy.deepcopy(gan.discriminator)
    real, fake = points(8), points(6) - 3
    passes: list[int] = []
    gan.discriminator.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    real_logits, fake_logits = gan.passes().logits(real, fake)

    assert passes == [8, 6]
    assert torch.equal(real_logits, apart(real))
    assert torch.equal(fake_logits, apart(fake))
    assert (copy.deepcopy(apart)(torch.cat([real, fake]))[:8] - real_logits).abs().max() > 0.01


# ---------------------------------------------------------------------- passes shared by loss and penalties

SHARING = {  # penalties -> how many samples go through D in one update
    "none": ([], [16]),
    "r1": ([partial(r1, weight=1.0)], [8, 8]),
    "r2": ([partial(r2, weight=1.0)], [8, 8]),
    "r1 and r2": ([partial(r1, weight=1.0), partial(r2, weight=2.0)], [8, 8]),
    "r1_r2": ([partial(r1_r2, weight=1.0)], [16]),
    "real and fake": ([partial(gradient, at="real_and_fake", target=0.0)], [16]),
    "wgan_gp": ([partial(wgan_gp, weight=1.0)], [8, 16]),
    "r1 and wgan_gp": ([partial(r1, weight=1.0), partial(wgan_gp, weight=1.0)], [8, 8, 8]),
}


@pytest.mark.parametrize("name", SHARING)
def test_an_update_passes_each_batch_once_and_has_the_gradient_of_separate_passes(name):
    penalties, expected_passes = SHARING[name]
    gan = ready(tiny_gan(penalties=penalties, discriminator={"norm": "layer"}))
    apart, real = copy.deepcopy(gan.discriminator), cycle_of(gan)[:BATCH_SIZE]
    passes: list[int] = []
    gan.discriminator.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    gradients: list[Tensor] = []
    gan.discriminator_player.optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(parameter.grad.clone() for parameter in gan.discriminator.parameters())
    )
    fake = gan.generate(gan.draw_latents("noise/discriminator", 0)).detach()
    update_discriminator(gan, real)

    def uniform(shape):
        return gan.streams.uniform(shape, "penalty", 0)

    terms = [penalty(apart, real, fake, uniform).mean() for penalty in penalties]
    total = gan.adversarial_loss.discriminator(apart(real), apart(fake)).mean() + sum(terms)
    assert passes == expected_passes
    for one, other in zip(gradients, torch.autograd.grad(total, list(apart.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_in_lower_precision_too_penalties_share_the_passes_of_the_loss():
    gan = ready(tiny_gan(penalties=[partial(r1_r2, weight=1.0)], autocast_dtype=torch.bfloat16))
    seen: list[tuple[int, torch.dtype]] = []
    gan.discriminator.layers[1].register_forward_hook(
        lambda module, inputs, output: seen.append((len(output), output.dtype))
    )
    update_discriminator(gan, cycle_of(gan)[:BATCH_SIZE])
    assert seen == [(16, torch.bfloat16)]


# ---------------------------------------------------------------------- precision


def test_bfloat16_is_for_the_networks_only():
    low = ready(tiny_gan(**METHODS["wgan_gp"], autocast_dtype=torch.bfloat16))
    full = ready(tiny_gan(**METHODS["wgan_gp"]))
    real, latents = points(8), low.draw_latents("noise/generator", 0)
    inner: list[torch.dtype] = []
    low.discriminator.layers[1].register_forward_hook(lambda module, inputs, output: inner.append(output.dtype))

    fake, fake_full = low.generate(latents), full.generate(latents)
    assert fake.dtype == torch.float32
    torch.testing.assert_close(fake, fake_full, rtol=0.02, atol=0.02)
    assert not torch.equal(fake, fake_full)
    fake_full = fake_full.detach()
    low_passes, full_passes = low.passes(), full.passes()
    logits_of = [passes.logits(real, fake_full) for passes in (low_passes, full_passes)]
    for logits, logits_full in zip(*logits_of, strict=True):
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, logits_full, rtol=0.02, atol=0.02)
        assert not torch.equal(logits, logits_full)
    assert inner == [torch.bfloat16]

    every = slice(0, BATCH_SIZE)
    penalty, penalty_full = (
        gan.penalty(passes, real, fake_full, every) for gan, passes in ((low, low_passes), (full, full_passes))
    )
    assert inner == [torch.bfloat16, torch.bfloat16]
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(penalty, penalty_full, rtol=0.02, atol=0.02)
    assert not torch.equal(penalty, penalty_full)


class Conversions(TorchDispatchMode):
    """How often each of a network's weights is converted to bfloat16."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.counts = {parameter.data_ptr(): 0 for parameter in network.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        converted = func is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16
        if converted and args[0].data_ptr() in self.counts:
            self.counts[args[0].data_ptr()] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "updates", "passes"),
    [("vanilla", 1 + 1, 1 + 1), ("wgan_gp", 5 + 1, 2 * 5 + 1)],
    ids=["vanilla", "wgan_gp"],
)
def test_weights_are_converted_once_between_updates_and_anew_after_each(name, updates, passes):
    def trained(kept: bool) -> tuple[GAN, list[int]]:
        gan = ready(tiny_gan(**METHODS[name], autocast_dtype=torch.bfloat16, optimizer=sgd(0.1)))
        if not kept:
            gan.conversions.in_use = lambda *_: nullcontext()
        with Conversions(gan.discriminator.layers[:-1]) as conversions:  # the last layer's stay in float32
            for _ in range(3):
                gan.training_step(cycle_of(gan), 0)
        return gan, list(conversions.counts.values())

    begun, (kept, counts), (anew, more) = tiny_gan(**METHODS[name]), trained(True), trained(False)
    assert set(counts) == {3 * updates}
    assert set(more) == {3 * passes}
    start, end, other_end = (torch.cat([p.detach().flatten() for p in gan.parameters()]) for gan in (begun, kept, anew))
    assert (end - other_end).norm() < 0.03 * (end - start).norm()


def test_a_cycle_in_bfloat16_keeps_weights_averages_and_records_in_float32_near_the_full_ones():
    runs = []
    for dtype in (torch.bfloat16, None):
        gan = ready(tiny_gan(**METHODS["wgan_gp"], autocast_dtype=dtype, optimizer=sgd(0.01)))
        gan.training_step(cycle_of(gan), 0)
        assert {value.dtype for value in gan.state_dict().values()} == {torch.float32}
        assert {value.dtype for value in gan.state()["recorded"].values()} == {torch.float32}
        runs.append(gan.take_metrics())
    assert runs[0].pop("discriminator/accuracy") == pytest.approx(runs[1].pop("discriminator/accuracy"), abs=0.1)
    assert runs[0] == pytest.approx(runs[1], rel=0.03, abs=0.03)
    assert runs[0] != runs[1]


# ---------------------------------------------------------------------- the averaged generator


def test_the_average_after_each_cycle_is_the_formula():
    gan = ready(tiny_gan(num_discriminator_steps=2, ema_half_life_images=100, ema_rampup=0.5, generator_norm="batch"))
    average = copy_of(gan.generator)
    for cycle in range(1, 6):
        gan.training_step(cycle_of(gan, seed=cycle), 0)
        decay = 0.5 ** (16 / min(100, 0.5 * 16 * cycle))
        for name, value in gan.generator.state_dict().items():
            buffer = "running" in name or "num_batches" in name
            average[name] = value.clone() if buffer else decay * average[name] + (1 - decay) * value

    for name, value in gan.generator_ema.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)
    assert not same_weights(gan.generator, copy_of(gan.generator_ema))


@pytest.mark.parametrize(("half_life", "cycles"), [(159.0, 1), (161.0, 2), (479.0, 3), (900.0, 6)])
def test_the_average_takes_weights_in_twenty_times_within_its_half_life(half_life, cycles):
    gan = ready(tiny_gan(ema_half_life_images=half_life, ema_rampup=None, generator_norm="batch"))
    average = copy_of(gan.generator)
    for cycle in range(1, 14):
        gan.training_step(cycle_of(gan, seed=cycle), 0)
        if cycle % cycles == 0:
            decay = 0.5 ** (8 * cycles / half_life)
            for name, value in gan.generator.state_dict().items():
                buffer = "running" in name or "num_batches" in name
                average[name] = value.clone() if buffer else decay * average[name] + (1 - decay) * value
        for name, value in gan.generator_ema.state_dict().items():
            torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)


def test_a_half_life_that_rises_forgets_as_much_as_after_each_cycle():
    """What remains of the average is the product of the cycles' own decays."""
    gan = ready(tiny_gan(ema_half_life_images=450, ema_rampup=9.0))
    average, pending, updates = copy_of(gan.generator), 1.0, 0
    for cycle in range(1, 14):
        gan.training_step(cycle_of(gan, seed=cycle), 0)
        pending *= 0.5 ** (8 / min(450, 9 * 8 * cycle))
        if pending < 0.5**0.05:
            for name, value in gan.generator.state_dict().items():
                average[name] = pending * average[name] + (1 - pending) * value
            pending, updates = 1.0, updates + 1
        for name, value in gan.generator_ema.state_dict().items():
            torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)

    assert 2 < updates < 10


def test_the_average_changes_nothing_in_training_and_has_no_gradients():
    runs = []
    for half_life in (0.0, 1e6):
        gan = ready(tiny_gan(ema_half_life_images=half_life, ema_rampup=None))
        gan.training_step(cycle_of(gan), 0)
        runs.append(gan)

    assert same_weights(runs[0].generator, copy_of(runs[1].generator))
    assert same_weights(runs[0].generator_ema, copy_of(runs[0].generator))
    assert not any(parameter.requires_grad for parameter in runs[0].generator_ema.parameters())
    optimized = {id(p) for group in runs[0].generator_player.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(parameter) for parameter in runs[0].generator.parameters()}


# ---------------------------------------------------------------------- records and events


def test_metrics_are_means_since_the_last_call():
    gan = ready(tiny_gan())
    first = torch.tensor(1.0)
    for value in (first, torch.tensor(2.0), torch.tensor(6.0)):
        gan.record("a", value)
    gan.record("b", torch.tensor(5.0, requires_grad=True) * 2)

    assert first.item() == 1.0
    assert gan.take_metrics() == {"a": 3.0, "b": 10.0}
    gan.record("a", torch.tensor(4.0))
    assert gan.take_metrics() == {"a": 4.0}


@pytest.mark.parametrize(
    ("before", "after", "every", "due"),
    [
        (0, 64, 64, True),
        (0, 63, 64, False),
        (64, 127, 64, False),
        (63, 64, 64, True),
        (120, 130, 64, True),
        (0, 640, 64, True),
        (0, 320, 1000.0, False),
        (960, 1024, 1000.0, True),
        (1000, 1064, 1000.0, False),
        (0, 64, 0.5, True),
        (0, 64, None, False),
        (9_984, 10_000, 1e9, True),  # the last cycle
        (9_984, 10_000, None, True),
    ],
)
def test_something_is_due_when_a_cycle_crosses_a_multiple_and_at_the_end(before, after, every, due):
    gan = tiny_gan(budget_images=10_000)
    gan.images_before, gan.images_seen = before, after

    assert gan.due(every) is due


def test_finished():
    gan = tiny_gan(budget_images=100)
    assert not gan.finished
    gan.images_seen = 99
    assert not gan.finished
    gan.images_seen = 100
    assert gan.finished
    gan.images_seen, gan.out_of_time = 0, True
    assert gan.finished


def test_cycles_know_where_they_began():
    gan = tiny_gan(num_discriminator_steps=3)
    begun: list[int] = []
    fit(gan, 3, points(50), after_cycle=lambda gan: begun.append(gan.images_before))

    assert begun == [0, 24, 48]


# ---------------------------------------------------------------------- state

EVERYTHING = {
    "generator_norm": "batch",
    "discriminator": {"dropout": 0.3, "norm": "layer"},
    "latent_distribution": "uniform",
    "optimizer": partial(adam, lr=0.01),
    "optimization": {"schedule": "cosine", "accumulate": 2, "discriminator_clip_norm": 0.5},
    "adversarial_loss": hinge(),
    "penalties": [partial(r1, weight=0.1), partial(wgan_gp, weight=1.0)],
    "num_discriminator_steps": 2,
    "budget_images": 200,
    "ema_half_life_images": 50.0,
}


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "settings",
    [
        EVERYTHING,
        {**EVERYTHING, "optimizer": partial(rmsprop, lr=0.01)},
        {**EVERYTHING, "ema_half_life_images": 1000.0, "ema_rampup": None},  # the average moves at the fourth cycle
        {"weight_clip": 0.05, "adversarial_loss": wasserstein(), "discriminator": {"norm": "batch"}},
    ],
    ids=["everything", "rmsprop", "long average", "clipped"],
)
@pytest.mark.parametrize("cycles_before", [1, 3])
def test_a_run_put_back_from_its_state_goes_on_as_if_it_had_never_stopped(settings, cycles_before):
    whole = fit(tiny_gan(**settings), 6, points(50))
    first = fit(tiny_gan(**settings), cycles_before, points(50))
    second = tiny_gan(**settings, initialisation=1)
    second.load_state(through_a_file(first.state()))
    assert second.images_seen == first.images_seen > 0
    fit(second, 6 - cycles_before, points(50))

    assert_same(second.state(), whole.state())
    for network in ("generator", "discriminator", "generator_ema"):
        assert same_weights(getattr(second, network), copy_of(getattr(whole, network))), network
    assert not same_weights(whole.generator, copy_of(whole.generator_ema))
    assert second.take_metrics() == whole.take_metrics()


def test_a_state_is_put_back_whole():
    gan = fit(tiny_gan(**EVERYTHING), 2, points(50))
    gan.wall_seconds = 12.5
    state = through_a_file(gan.state())
    other = tiny_gan(**EVERYTHING, initialisation=1)
    other.load_state(state)
    ready(other)

    again = through_a_file(other.state())
    for optimizer in (*state["optimizers"].values(), *again["optimizers"].values()):
        del optimizer["param_groups"][0]["lr"]  # set before each step
    assert_same(again, state)
    assert (other.images_seen, other.images_before, other.d_steps, other.g_steps) == (32, 32, 4, 2)
    assert other.wall_seconds == 12.5


def test_a_resumed_run_takes_its_options_from_the_new_configuration_and_its_moments_from_the_state():
    first = fit(tiny_gan(optimizer=partial(adam, lr=0.01)), 2, points(50))
    second = tiny_gan(optimizer=partial(adam, lr=0.5, betas=(0.1, 0.2)), optimization={"schedule": "linear"})
    second.load_state(through_a_file(first.state()))
    ready(second)
    optimizer = second.generator_player.optimizer

    assert optimizer.param_groups[0]["lr"] == 0.5
    assert tuple(optimizer.param_groups[0]["betas"]) == (0.1, 0.2)
    assert second.generator_player.base_lrs == [0.5]
    for one, other in zip(first.generator.parameters(), second.generator.parameters(), strict=True):
        assert_same(optimizer.state[other], first.generator_player.optimizer.state[one])
    second.training_step(cycle_of(second), 0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * (1 - 24 / 1000))


def test_the_state_of_another_network_is_refused():
    state = ready(tiny_gan()).state()
    with pytest.raises(RuntimeError, match="size mismatch"):
        tiny_gan(sample_shape=(3,)).load_state(state)


# ---------------------------------------------------------------------- what a run of today should still be tomorrow


def golden_gan(name: str) -> tuple[GAN, Tensor]:
    if name == "points, vanilla":
        return tiny_gan(optimizer=partial(adam, lr=0.01)), points(50)
    images = (points(50, (1, 4, 4)) * 50).clamp(0, 255).to(torch.uint8)
    return tiny_gan(**{**EVERYTHING, "sample_shape": (1, 4, 4)}), images


@pytest.mark.parametrize("name", ["points, vanilla", "images, everything"])
def test_ten_cycles_give_the_stored_losses(name):
    """GAN_LAB_REGENERATE_GOLDEN=1 stores the losses of now: only after a change that is meant to change training."""
    gan, samples = golden_gan(name)
    history: list[dict[str, float]] = []
    fit(gan, 10, samples, after_cycle=lambda gan: history.append(gan.take_metrics()))
    if os.environ.get("GAN_LAB_REGENERATE_GOLDEN") == "1":
        stored = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps({**stored, name: history}, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())[name]

    assert len(history) == len(expected) == 10
    for cycle, (metrics, stored) in enumerate(zip(history, expected, strict=True)):
        assert all(math.isfinite(value) for value in metrics.values())
        assert metrics == pytest.approx(stored, rel=1e-4, abs=1e-5), f"cycle {cycle}"  # other CPUs round otherwise
