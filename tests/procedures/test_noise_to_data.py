"""The alternating procedure against a loop written from the papers, and who may move when."""

import copy
from functools import partial

import pytest
import torch
from conftest import assert_same
from tiny import BATCH_SIZE, LATENT_DIM, METHODS, assert_close, copy_of, cycle_of, fit, points, ready, same_weights, sgd
from tiny import tiny_gan as tiny
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from gan_lab.losses import lsgan, relativistic
from gan_lab.optimizers import adam
from gan_lab.penalties import r1, r2, wgan_gp
from gan_lab.procedures.noise_to_data import alternating, update_discriminator, update_generator
from gan_lab.streams import Streams, stream_seed

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)


def plain_loop(
    method: str, generator: nn.Module, discriminator: nn.Module, samples: Tensor, cycles: int, seed: int, make_optimizer
) -> dict[str, list[float]]:
    """GAN and WGAN-GP as their papers' algorithms say, without anything of gan_lab but the numbers it draws."""
    optimizer_g = make_optimizer(generator.parameters())
    optimizer_d = make_optimizer(discriminator.parameters())
    streams = Streams(seed)
    order: list[int] = []
    history: dict[str, list[float]] = {"discriminator": [], "generator": []}
    d_step = 0
    for cycle in range(cycles):
        for _ in range(METHODS[method].get("num_discriminator_steps", 1)):
            while len(order) < BATCH_SIZE * (d_step + 1):
                epoch = torch.Generator().manual_seed(stream_seed(seed, "data", len(order) // len(samples)))
                order += torch.randperm(len(samples), generator=epoch).tolist()
            real = samples[order[BATCH_SIZE * d_step : BATCH_SIZE * (d_step + 1)]]
            fake = generator(streams.normal((BATCH_SIZE, LATENT_DIM), "noise/discriminator", d_step)).detach()
            on_real, on_fake = discriminator(real), discriminator(fake)
            if method == "vanilla":
                loss = binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))
                loss = loss + binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
                whole = loss
            else:
                loss = on_fake.mean() - on_real.mean()
                epsilon = streams.uniform((BATCH_SIZE, 1), "penalty", d_step)
                between = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
                on_between = discriminator(between)
                (gradient,) = torch.autograd.grad(on_between, between, torch.ones_like(on_between), create_graph=True)
                whole = loss + 1.0 * ((gradient.pow(2).sum(1).sqrt() - 1) ** 2).mean()
            optimizer_d.zero_grad()
            whole.backward()
            optimizer_d.step()
            history["discriminator"].append(loss.item())
            d_step += 1
        logits = discriminator(generator(streams.normal((BATCH_SIZE, LATENT_DIM), "noise/generator", cycle)))
        if method == "vanilla":
            loss = binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        else:
            loss = -logits.mean()
        optimizer_g.zero_grad()
        loss.backward()
        optimizer_g.step()
        history["generator"].append(loss.item())
    return history


@EVERY_METHOD
@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_five_cycles_under_lightning_are_a_plain_loop(method, seed, name):
    ours = sgd(0.02) if name == "sgd" else partial(adam, lr=0.01, betas=(0.5, 0.9))
    plain = sgd(0.02) if name == "sgd" else partial(torch.optim.Adam, lr=0.01, betas=(0.5, 0.9), foreach=False)
    gan = tiny(**METHODS[method], optimizer=ours, seed=seed)
    generator, discriminator = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    start = copy.deepcopy(gan.generator)
    samples = points(50)  # not a whole number of batches: epochs change within one
    metrics: list[dict[str, float]] = []
    fit(gan, 5, samples, after_cycle=lambda gan: metrics.append(gan.take_metrics()))
    history = plain_loop(method, generator, discriminator, samples, 5, seed, plain)

    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    assert_close(gan.generator, generator, **tolerance)
    assert_close(gan.discriminator, discriminator, **tolerance)
    assert (gan.generator.layers[0].weight - start.layers[0].weight).abs().max() > 3e-3
    assert [cycle["loss/generator"] for cycle in metrics] == pytest.approx(history["generator"], rel=1e-4, abs=1e-5)
    steps = gan.num_discriminator_steps
    means = [sum(history["discriminator"][i * steps : (i + 1) * steps]) / steps for i in range(5)]
    assert [cycle["loss/discriminator"] for cycle in metrics] == pytest.approx(means, rel=1e-4, abs=1e-5)


@EVERY_METHOD
@pytest.mark.parametrize("discriminator_norm", ["none", "layer"])
def test_the_discriminators_step_moves_the_discriminator_alone(method, discriminator_norm):
    gan = ready(tiny(**METHODS[method], generator_norm="layer", discriminator={"norm": discriminator_norm}))
    generator, discriminator = copy_of(gan.generator), copy_of(gan.discriminator)
    seen: list[Tensor] = []
    gan.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    gradients: list[bool] = []
    gan.discriminator_player.optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(parameter.grad is None for parameter in gan.generator.parameters())
    )
    update_discriminator(gan, cycle_of(gan)[:BATCH_SIZE])

    assert same_weights(gan.generator, generator)
    assert not same_weights(gan.discriminator, discriminator)
    assert gradients == [True] * len(list(gan.generator.parameters()))
    assert seen[-1].shape == (2 * BATCH_SIZE, 2)
    leaves = [tensor for tensor in seen if tensor.grad_fn is None]
    joined = [edge for tensor in seen if tensor.grad_fn is not None for edge in tensor.grad_fn.next_functions]
    assert len(leaves) + len(joined) // 2 == len(seen)  # batches, and pairs of batches
    assert all(type(node).__name__ == "AccumulateGrad" for node, _ in joined)  # no graph leads back into G


@EVERY_METHOD
def test_the_generators_step_moves_the_generator_alone(method):
    gan = ready(tiny(**METHODS[method]))
    generator, discriminator = copy_of(gan.generator), copy_of(gan.discriminator)
    gradients: list[bool] = []
    gan.generator_player.optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(parameter.grad is None for parameter in gan.discriminator.parameters())
    )
    update_generator(gan, cycle_of(gan)[:BATCH_SIZE])

    assert not same_weights(gan.generator, generator)
    assert same_weights(gan.discriminator, discriminator)
    assert gradients == [True] * len(list(gan.discriminator.parameters()))
    assert all(parameter.requires_grad for parameter in gan.discriminator.parameters())


def test_each_step_begins_without_gradients():
    gan = ready(tiny())
    alternating(gan, cycle_of(gan))

    for parameter in gan.parameters():
        assert parameter.grad is None


@pytest.mark.parametrize("num_discriminator_steps", [1, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_counters(num_discriminator_steps, accumulate):
    gan = tiny(num_discriminator_steps=num_discriminator_steps, optimization={"accumulate": accumulate})
    counters: list[tuple[int, int, int]] = []
    fit(gan, 3, points(50), after_cycle=lambda gan: counters.append((gan.images_seen, gan.d_steps, gan.g_steps)))

    steps = num_discriminator_steps
    assert counters == [(8 * steps * cycle, steps * cycle, cycle) for cycle in (1, 2, 3)]


def test_each_batch_of_a_cycle_is_used_once_in_order():
    gan = ready(tiny(num_discriminator_steps=3))
    seen: list[Tensor] = []
    gan.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    real = cycle_of(gan)
    alternating(gan, real)

    assert len(seen) == 4
    assert torch.equal(torch.cat([inputs[:BATCH_SIZE] for inputs in seen[:3]]), real)
    assert seen[3].shape == (BATCH_SIZE, 2)


def test_every_step_has_latents_of_its_own():
    gan = ready(tiny(num_discriminator_steps=2))
    seen: list[Tensor] = []
    gan.generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for seed in (0, 1):
        alternating(gan, cycle_of(gan, seed=seed))

    assert len(seen) == 6
    for index, one in enumerate(seen):
        for other in seen[:index]:
            assert (one != other).all()


@EVERY_METHOD
@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_micro_batches_together_are_one_batch(method, accumulate):
    settings = {**METHODS[method], "num_discriminator_steps": 2}
    whole, parts = tiny(**settings), tiny(**settings, optimization={"accumulate": accumulate})
    start = copy_of(whole.generator)
    sizes: list[int] = []
    ready(parts).generator.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    for cycle in range(3):
        real = cycle_of(ready(whole) if cycle == 0 else whole, seed=cycle)
        alternating(whole, real)
        alternating(parts, real)

    assert_close(parts.generator, whole.generator, rtol=1e-5, atol=1e-6)
    assert_close(parts.discriminator, whole.discriminator, rtol=1e-5, atol=1e-6)
    assert not same_weights(whole.generator, start)
    assert sizes == [BATCH_SIZE // accumulate] * (3 * 3 * accumulate)
    assert (parts.images_seen, parts.d_steps, parts.g_steps) == (48, 6, 3)
    assert parts.take_metrics() == pytest.approx(whole.take_metrics(), rel=1e-4, abs=1e-6)


def test_what_is_recorded():
    gan = ready(tiny(**METHODS["wgan_gp"] | {"num_discriminator_steps": 1}))
    real = cycle_of(gan)
    latents = gan.draw_latents("noise/discriminator", 0)
    with torch.no_grad():
        real_logits, fake_logits = gan.discriminator(real), gan.discriminator(gan.generator(latents))
    epsilon = gan.streams.uniform((BATCH_SIZE, 1), "penalty", 0)
    with torch.no_grad():
        fake = gan.generator(latents)
    penalty = wgan_gp(gan.discriminator, real, fake, lambda shape: epsilon, weight=1.0).mean()
    update_discriminator(gan, real)

    assert gan.take_metrics() == pytest.approx(
        {
            "loss/discriminator": (fake_logits - real_logits).mean().item(),
            "logits/real": real_logits.mean().item(),
            "logits/fake": fake_logits.mean().item(),
            "discriminator/accuracy": (real_logits > fake_logits).double().mean().item(),
            "loss/penalty": penalty.item(),
        },
        rel=1e-5,
    )


def test_several_penalties_add_up():
    """r1 + r2 of different weights on top of least squares, as one plain gradient step."""
    gan = ready(tiny(adversarial_loss=lsgan(), penalties=[partial(r1, weight=3.0), partial(r2, weight=0.5)]))
    real = cycle_of(gan)
    plain = copy.deepcopy(gan.discriminator)
    with torch.no_grad():
        fake = gan.generator(gan.draw_latents("noise/discriminator", 0))

    def squared_slopes(samples: Tensor) -> Tensor:
        samples = samples.clone().requires_grad_()
        return torch.autograd.grad(plain(samples).sum(), samples, create_graph=True)[0].pow(2).sum(1)

    loss = 0.5 * ((plain(real) - 1) ** 2 + plain(fake) ** 2)
    loss = loss + 1.5 * squared_slopes(real) + 0.25 * squared_slopes(fake)
    loss.mean().backward()
    torch.optim.SGD(plain.parameters(), lr=0.02).step()
    update_discriminator(gan, real)

    assert_close(gan.discriminator, plain, rtol=1e-5, atol=1e-6)


@EVERY_METHOD
def test_a_seed_repeats_a_run_and_another_seed_is_another_run(method):
    settings = {**METHODS[method], "discriminator": {"dropout": 0.5}}
    one, same, other = (fit(tiny(**settings, seed=seed), 3, points(50)) for seed in (0, 0, 1))

    assert_same(one.state(), same.state())
    assert not same_weights(one.generator, copy_of(other.generator))


def test_looking_at_the_run_does_not_change_it():
    """Neither draws from torch's own generator nor from other streams matter."""

    def disturb(gan) -> None:
        torch.rand(7)
        gan.streams.normal((3,), "noise/evaluation", 0)

    settings = {**METHODS["wgan_gp"], "discriminator": {"dropout": 0.5}}
    calm = fit(tiny(**settings), 3, points(50))
    disturbed = fit(tiny(**settings), 3, points(50), after_cycle=disturb)

    assert_same(disturbed.state(), calm.state())


def test_a_relativistic_generator_is_compared_with_the_last_real_batch_and_d_is_left_alone():
    gan = ready(tiny(adversarial_loss=relativistic(), optimizer=sgd(1.0)))
    real = cycle_of(gan)[:BATCH_SIZE]
    before, discriminator = copy.deepcopy(gan.generator), copy_of(gan.discriminator)
    latents = gan.draw_latents("noise/generator", 0)
    differences = gan.discriminator(before(latents)) - gan.discriminator(real)
    expected = torch.autograd.grad(softplus(-differences).mean(), list(before.parameters()))
    update_generator(gan, real)

    for old, new, gradient in zip(before.parameters(), gan.generator.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new, gradient, rtol=1e-5, atol=1e-7)
    assert same_weights(gan.discriminator, discriminator)
    assert all(parameter.grad is None for parameter in gan.discriminator.parameters())


def test_a_cycle_gives_the_relativistic_generator_the_batch_of_the_last_discriminator_step(monkeypatch):
    gan = ready(tiny(adversarial_loss=relativistic(), num_discriminator_steps=3))
    real, seen = cycle_of(gan), []
    monkeypatch.setattr("gan_lab.procedures.noise_to_data.update_generator", lambda gan, batch, *_: seen.append(batch))
    alternating(gan, real)

    assert torch.equal(seen[0], real[2 * BATCH_SIZE :])
