"""One side of the game: clipping, learning rates, the finite-loss guard."""

from functools import partial

import pytest
import torch
from conftest import assert_same
from tiny import BATCH_SIZE, METHODS, copy_of, cycle_of, points, ready, same_weights, sgd, tiny_gan
from torch import Tensor, nn

from gan_lab.errors import RunError
from gan_lab.losses import AdversarialLoss, vanilla
from gan_lab.optimizers import adam, rmsprop
from gan_lab.player import Player
from gan_lab.procedures.noise_to_data import alternating, update_discriminator, update_generator

UPDATES = {
    "discriminator": lambda gan: update_discriminator(gan, cycle_of(gan)[:BATCH_SIZE]),
    "generator": lambda gan: update_generator(gan, cycle_of(gan)[:BATCH_SIZE]),
}
EVERY_PLAYER = pytest.mark.parametrize("player", UPDATES)


def gradient_of(player: str, **settings) -> dict[str, Tensor]:
    """The step of size 1 down the gradient, taken by a GAN without clipping."""
    gan = ready(tiny_gan(optimizer=sgd(1.0), **settings))
    before = copy_of(getattr(gan, player))
    UPDATES[player](gan)
    return {name: before[name] - value for name, value in copy_of(getattr(gan, player)).items()}


@EVERY_PLAYER
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.5])
def test_clipping_scales_the_whole_gradient_to_the_limit(player, accumulate, share):
    gradient = gradient_of(player)
    norm = torch.cat([value.flatten() for value in gradient.values()]).double().norm().item()
    limit = share * norm
    gan = tiny_gan(optimizer=sgd(1.0), optimization={f"{player}_clip_norm": limit, "accumulate": accumulate})
    ready(gan).measure_gradients = True
    before = copy_of(getattr(gan, player))
    UPDATES[player](gan)

    factor = min(1.0, limit / (norm + 1e-6))  # torch.nn.utils.clip_grad_norm_'s formula
    for name, value in copy_of(getattr(gan, player)).items():
        torch.testing.assert_close(before[name] - value, factor * gradient[name], rtol=1e-4, atol=1e-6)
    norms = {name: value.item() for name, value in gan.gradient_norms.items()}
    assert norms == {f"gradient_norm/{player}": pytest.approx(norm, rel=1e-5)}  # as it was before clipping


def test_each_player_has_its_own_limit():
    step = gradient_of("generator")
    gan = ready(tiny_gan(optimizer=sgd(1.0), optimization={"discriminator_clip_norm": 1e-9}))
    before = copy_of(gan.generator)
    UPDATES["generator"](gan)

    for name, value in copy_of(gan.generator).items():
        assert torch.equal(before[name] - value, step[name])


def test_gradient_norms_are_measured_only_when_asked():
    gan = ready(tiny_gan())
    alternating(gan, cycle_of(gan))

    assert gan.gradient_norms == {}
    assert not any("gradient_norm" in name for name in gan.take_metrics())


@pytest.mark.parametrize("limit", [0.01, 0.1])
def test_weight_clipping_bounds_every_parameter_of_the_discriminator_and_none_of_the_generator(limit):
    gan = ready(tiny_gan(weight_clip=limit, num_discriminator_steps=2, discriminator={"norm": "layer"}))
    generator = copy_of(gan.generator)
    largest: list[float] = []

    def look(optimizer, *_) -> None:
        largest.append(max(parameter.abs().max().item() for parameter in gan.discriminator.parameters()))

    gan.discriminator_player.optimizer.register_step_pre_hook(look)
    for _ in range(2):
        update_discriminator(gan, cycle_of(gan)[:BATCH_SIZE])

    assert largest[0] > limit == pytest.approx(largest[1])  # clipped after the first step, not only after the cycle
    parameters = list(gan.discriminator.parameters())
    assert max(parameter.abs().max().item() for parameter in parameters) == pytest.approx(limit, rel=1e-6)
    assert min(parameter.min().item() for parameter in parameters) == pytest.approx(-limit, rel=1e-6)
    assert same_weights(gan.generator, generator)


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", lambda share: 1.0),
        ("linear", lambda share: max(0.0, 1 - share)),
        ("cosine", lambda share: (1 + torch.cos(torch.tensor(torch.pi * min(share, 1.0), dtype=torch.float64))) / 2),
    ],
)
def test_learning_rates_follow_the_images_seen_not_the_steps(schedule, factor):
    gan = tiny_gan(optimizer=sgd(0.4), optimization={"schedule": schedule}, num_discriminator_steps=2, budget_images=48)
    ready(gan)
    rates: dict[str, list[float]] = {"discriminator": [], "generator": []}
    for name, player in (("discriminator", gan.discriminator_player), ("generator", gan.generator_player)):
        player.optimizer.register_step_pre_hook(
            lambda optimizer, *_, name=name: rates[name].append(optimizer.param_groups[0]["lr"])
        )
    for cycle in range(4):  # one more than the budget
        alternating(gan, cycle_of(gan, seed=cycle))

    # D's step k has seen 8k images, G's step has seen its whole cycle's 16
    assert rates["discriminator"] == pytest.approx([0.4 * float(factor(8 * k / 48)) for k in range(8)])
    assert rates["generator"] == pytest.approx([0.4 * float(factor(16 * (k + 1) / 48)) for k in range(4)])


def test_every_group_of_an_optimizer_follows_the_schedule_from_its_own_rate():
    def two_groups(parameters):
        parameters = list(parameters)
        return torch.optim.SGD([{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "lr": 0.02}])

    gan = ready(tiny_gan(optimizer=two_groups, optimization={"schedule": "linear"}, budget_images=32))
    alternating(gan, cycle_of(gan))

    groups = gan.generator_player.optimizer.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.075, 0.015])


def test_a_shared_parameter_takes_one_step():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    start = network[0].weight.detach().clone()
    gan = ready(tiny_gan())
    player = Player("generator", [network], torch.optim.SGD(network.parameters(), lr=0.1), None)
    player.backward(network[0].weight.sum() + network[1].weight.sum(), gan)
    player.step(gan)

    assert len(player.parameters) == 1
    torch.testing.assert_close(network[0].weight.detach(), start - 0.2)


# ---------------------------------------------------------------------- losses that are not finite


def loss_that_turns(bad: float, player: str, good_calls: int = 0) -> AdversarialLoss:
    """The vanilla loss until one player's half has been called so often, then `bad`."""
    calls = {"discriminator": 0, "generator": 0}

    def turned(name: str, values: Tensor) -> Tensor:
        calls[name] += 1
        return values + bad if name == player and calls[name] > good_calls else values

    return AdversarialLoss(
        lambda real, fake: turned("discriminator", vanilla().discriminator(real, fake)),
        lambda fake: turned("generator", vanilla().generator(fake)),
    )


@EVERY_PLAYER
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("optimizer", [sgd(0.1), partial(adam, lr=0.1), partial(rmsprop, lr=0.1)])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_update(player, bad, optimizer):
    gan = ready(tiny_gan(adversarial_loss=loss_that_turns(bad, player, good_calls=2), optimizer=optimizer))
    for seed in (0, 1):
        alternating(gan, cycle_of(gan, seed=seed))
    if player == "generator":
        update_discriminator(gan, cycle_of(gan))
    weights = copy_of(gan)
    with pytest.raises(RunError) as caught:
        UPDATES[player](gan)

    assert same_weights(gan, weights)
    text = str(caught.value)
    assert f"the {player}'s loss became {bad}" in text
    if player == "discriminator":
        assert "at 16 images (D step 2, G step 2)" in text
    else:
        assert "at 24 images (D step 3, G step 2)" in text
    assert f"optimizer.{player}.lr" in text
    assert f"optimizer.clip_norm.{player}" in text


@EVERY_PLAYER
def test_a_bad_micro_batch_keeps_the_whole_batch_from_the_weights(player):
    gan = ready(
        tiny_gan(adversarial_loss=loss_that_turns(float("nan"), player, good_calls=1), optimization={"accumulate": 2})
    )
    weights = copy_of(gan)
    with pytest.raises(RunError, match=f"the {player}'s loss became nan at 0 images"):
        UPDATES[player](gan)

    assert same_weights(gan, weights)


def test_a_penalty_that_is_not_finite_ends_the_run_too():
    def bad(discriminator, real, fake, uniform):
        return discriminator(real) * float("inf")

    gan = ready(tiny_gan(penalties=[bad]))
    weights = copy_of(gan)
    with pytest.raises(RunError, match="the discriminator's loss became"):
        update_discriminator(gan, cycle_of(gan))

    assert same_weights(gan, weights)


def test_large_images_seen_are_written_with_commas():
    gan = ready(tiny_gan(adversarial_loss=loss_that_turns(float("nan"), "generator")))
    gan.images_seen, gan.d_steps, gan.g_steps = 1_234_567, 2_345, 1_000
    with pytest.raises(RunError, match=r"at 1,234,567 images \(D step 2,345, G step 1,000\)"):
        UPDATES["generator"](gan)


class OnGPU(Tensor):
    """A CPU tensor that says it lies on a GPU: to take the guard's path without a host sync."""

    @property
    def device(self):
        return torch.device("cuda")


def gpu_value(value: float) -> Tensor:
    return torch.tensor(value).as_subclass(OnGPU)


@EVERY_PLAYER
def test_where_the_guard_does_not_sync_the_fused_step_is_skipped_and_the_next_check_raises(player):
    gan = ready(tiny_gan(optimizer=partial(adam, lr=0.1)))
    one = getattr(gan, f"{player}_player")
    one._guard(gpu_value(1.0), gan)
    assert float(one.optimizer.found_inf) == 0
    one.check_finite(gan)
    one._guard(gpu_value(float("nan")), gan)
    assert float(one.optimizer.found_inf) == 1
    one._guard(gpu_value(2.0), gan)  # a good micro-batch after the bad one makes nothing good
    assert float(one.optimizer.found_inf) == 1
    assert one.optimizer.found_inf.dtype == torch.float32

    one.optimizer.found_inf = one.optimizer.found_inf.as_subclass(Tensor)
    weights = copy_of(gan)
    optimizer_state = {key: value.clone() for state in one.optimizer.state.values() for key, value in state.items()}
    UPDATES[player](gan)
    assert same_weights(gan, weights)
    assert optimizer_state == {}
    for name, parameter in getattr(gan, player).named_parameters():
        assert one.optimizer.state[parameter]["step"] == 0, name
        assert (one.optimizer.state[parameter]["exp_avg"] == 0).all(), name

    with pytest.raises(RunError, match=f"the {player}'s loss became nan"):
        one.check_finite(gan)
    with pytest.raises(RunError, match=f"the {player}'s loss became nan"):
        gan.take_metrics()


@pytest.mark.parametrize("bad", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_bad_loss_of_one_process_keeps_all_from_the_step(bad, monkeypatch):
    gan = ready(tiny_gan(optimizer=partial(adam, lr=0.1)))
    gan.world_size = 2
    one = gan.discriminator_player
    one._found_inf = one.optimizer.found_inf = torch.tensor(float(bad[0]))

    def add_the_other_process(flat: Tensor) -> None:
        other = flat.clone()
        other[-1] = bad[1]
        flat += other

    monkeypatch.setattr(torch.distributed, "all_reduce", add_the_other_process)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    weights = copy_of(gan)
    one.backward(one.parameters[0].sum(), gan)
    one.step(gan)

    assert float(one.optimizer.found_inf) == max(bad)  # the kernel compares with 1
    assert same_weights(gan, weights) == any(bad)
    if any(bad):
        with pytest.raises(RunError, match="the discriminator's loss became nan"):
            one.check_finite(gan)


@EVERY_PLAYER
def test_weights_that_are_not_finite_are_never_saved(player):
    gan = ready(tiny_gan())
    one = getattr(gan, f"{player}_player")
    one.check_finite(gan)
    one.parameters[-1].data.view(-1)[-1] = float("nan")
    with pytest.raises(
        RunError, match=f"the norm of the {player}'s weights became nan at 0 images .* optimizer.{player}.lr"
    ):
        one.check_finite(gan)


def test_a_fused_step_is_taken_when_nothing_was_bad():
    gan = ready(tiny_gan(optimizer=partial(adam, lr=0.1)))
    plain = ready(tiny_gan(optimizer=partial(adam, lr=0.1)))
    gan.discriminator_player.optimizer.found_inf = torch.zeros(())
    for one in (gan, plain):
        update_discriminator(one, cycle_of(one))

    assert_same(copy_of(gan), copy_of(plain))


def test_an_optimizer_that_cannot_skip_a_step_is_guarded_at_once():
    gan = ready(tiny_gan(optimizer=sgd(0.1)))
    with pytest.raises(RunError):
        gan.generator_player._guard(gpu_value(float("nan")), gan)


def test_gradients_add_up_until_the_step_and_are_forgotten_after_it():
    gan = ready(tiny_gan(**METHODS["vanilla"], optimization={"accumulate": 2}))
    real = points(4)
    for _ in range(2):
        gan.discriminator_player.backward(gan.discriminator(real).mean(), gan)
    (expected,) = torch.autograd.grad(gan.discriminator(real).mean(), [gan.discriminator_player.parameters[0]])

    torch.testing.assert_close(gan.discriminator_player.parameters[0].grad, expected)
    gan.discriminator_player.step(gan)
    assert all(parameter.grad is None for parameter in gan.discriminator_player.parameters)
