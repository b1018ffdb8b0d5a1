"""Packing, augmentation, warm-up, schedules, lazy penalties and parts with a state, in the training step."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny import BATCH_SIZE, LATENT_DIM, copy_of, cycle_of, ready, same_weights, sgd, tiny_gan
from torch import Tensor
from torch.nn.functional import softplus

from gan_lab.augment import Adaptive, InstanceNoise
from gan_lab.losses import began, vanilla
from gan_lab.models.autoencoder import Discriminator as Autoencoder
from gan_lab.models.mlp import Discriminator, Generator
from gan_lab.module import GAN, Optimization, every_steps
from gan_lab.optimizers import adam
from gan_lab.penalties import LeCam, r1, wgan_gp
from gan_lab.procedures.noise_to_data import update_discriminator, update_generator
from gan_lab.schedules import Schedules


def packed_gan(packing: int, **settings) -> GAN:
    torch.manual_seed(0)
    return GAN(
        generator=Generator(sample_shape=(2,), latent_dim=LATENT_DIM, width=8, depth=2),
        discriminator=Discriminator(sample_shape=(2 * packing,), width=8, depth=2),
        latent_dim=LATENT_DIM,
        adversarial_loss=vanilla(),
        optimization=Optimization(sgd(0.05), sgd(0.05)),
        packing=packing,
        batch_size=BATCH_SIZE,
        budget_images=1000,
        **settings,
    )


# ---------------------------------------------------------------------- packing


@pytest.mark.parametrize("penalty", [None, partial(r1, weight=3.0), partial(wgan_gp, weight=2.0)])
def test_a_packed_step_is_one_on_pairs(penalty):
    """D's step and G's against a plain formula on samples that were put side by side by hand."""
    gan = ready(packed_gan(2, penalties={} if penalty is None else {"penalty.r1": penalty}))
    discriminator, generator, real = copy.deepcopy(gan.discriminator), copy.deepcopy(gan.generator), cycle_of(gan)

    def pairs(samples: Tensor) -> Tensor:
        return torch.stack([torch.cat([samples[i], samples[i + 1]]) for i in range(0, BATCH_SIZE, 2)])

    fake = pairs(generator(gan.draw_latents("noise/discriminator", 0)).detach())
    loss = (softplus(-discriminator(pairs(real))) + softplus(discriminator(fake))).mean()
    if penalty is not None:
        draws = gan.streams.uniform((BATCH_SIZE // 2, 1), "penalty", 0)
        loss = loss + penalty(discriminator, pairs(real), fake, lambda shape: draws).mean()
    expected = torch.autograd.grad(loss, list(discriminator.parameters()))
    update_discriminator(gan, real)
    for old, new, gradient in zip(discriminator.parameters(), gan.discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new, 0.05 * gradient, rtol=1e-4, atol=1e-6)
    assert gan.images_seen == BATCH_SIZE

    discriminator.load_state_dict(gan.discriminator.state_dict())
    loss = softplus(-discriminator(pairs(generator(gan.draw_latents("noise/generator", 0))))).mean()
    expected = torch.autograd.grad(loss, list(generator.parameters()))
    update_generator(gan, real)
    for old, new, gradient in zip(generator.parameters(), gan.generator.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new, 0.05 * gradient, rtol=1e-4, atol=1e-6)


def test_packed_images_lie_on_channels():
    gan = packed_gan(2)
    images = torch.arange(4 * 3 * 2 * 2.0).view(4, 3, 2, 2)
    packs = gan.pack(images)
    assert packs.shape == (2, 6, 2, 2)
    assert torch.equal(packs[0], torch.cat([images[0], images[1]]))
    assert torch.equal(packs[1], torch.cat([images[2], images[3]]))
    assert gan.plain_logits(cycle_of(gan)[:7], None).shape == (3,)  # the odd one out is not judged


# ---------------------------------------------------------------------- augmentation


class Shift:
    """Adds the next numbers of its generator: what is augmented, and with what, can be recomputed."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def __call__(self, samples: Tensor, generator: torch.Generator, images_seen: int) -> Tensor:
        return samples + torch.randn(samples.shape, generator=generator)

    def observe(self, real_sign: Tensor, num_images: int) -> None:
        pass


@pytest.mark.parametrize("packing", [1, 2])
def test_real_and_fake_are_augmented_in_both_players_steps_each_sample_by_itself(packing):
    gan = ready(packed_gan(packing, augment=Shift()))
    discriminator, generator, real = copy.deepcopy(gan.discriminator), copy.deepcopy(gan.generator), cycle_of(gan)

    def judged(samples: Tensor, noise: Tensor) -> Tensor:
        return discriminator((samples + noise).reshape(-1, 2 * packing))

    noise = torch.randn((2 * BATCH_SIZE, 2), generator=gan.streams.fresh_generator("augment/discriminator", 0))
    fake = generator(gan.draw_latents("noise/discriminator", 0)).detach()
    loss = softplus(-judged(real, noise[:BATCH_SIZE])).mean() + softplus(judged(fake, noise[BATCH_SIZE:])).mean()
    expected = torch.autograd.grad(loss, list(discriminator.parameters()))
    update_discriminator(gan, real)
    for old, new, gradient in zip(discriminator.parameters(), gan.discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new, 0.05 * gradient, rtol=1e-4, atol=1e-6)

    discriminator.load_state_dict(gan.discriminator.state_dict())
    noise = torch.randn((BATCH_SIZE, 2), generator=gan.streams.fresh_generator("augment/generator", 0))
    loss = softplus(-judged(generator(gan.draw_latents("noise/generator", 0)), noise)).mean()
    expected = torch.autograd.grad(loss, list(generator.parameters()))
    update_generator(gan, real)
    for old, new, gradient in zip(generator.parameters(), gan.generator.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new, 0.05 * gradient, rtol=1e-4, atol=1e-6)


def test_a_penalty_is_taken_through_the_augmentation():
    """R1 of D(T(x)) with respect to x, as in StyleGAN2-ADA: T scales by 3, so the squared slope is 9 times D's."""

    class Scale(Shift):
        def __call__(self, samples: Tensor, generator: torch.Generator, images_seen: int) -> Tensor:
            return 3 * samples

    gan = ready(tiny_gan(augment=Scale(), penalties=[partial(r1, weight=1.0)]))
    real = cycle_of(gan)
    inputs = (3 * real).requires_grad_()
    (slope,) = torch.autograd.grad(gan.discriminator(inputs).sum(), inputs)
    update_discriminator(gan, real)
    assert gan.take_metrics()["loss/penalty"] == pytest.approx(0.5 * 9 * slope.square().sum(1).mean().item(), rel=1e-5)


# ---------------------------------------------------------------------- warm-up, schedules, lazy penalties


def test_while_d_warms_up_g_waits():
    gan = ready(tiny_gan(warmup_images=2 * BATCH_SIZE))
    before = copy_of(gan.generator)
    for number in range(3):
        assert same_weights(gan.generator, before)
        gan.training_step(cycle_of(gan, seed=number), number)
    assert not same_weights(gan.generator, before)
    assert (gan.d_steps, gan.g_steps, gan.images_seen) == (3, 1, 3 * BATCH_SIZE)


def test_schedules_reach_rates_betas_penalties_and_the_average():
    schedules = Schedules(
        over_kimg=2 * BATCH_SIZE / 1000,
        lr_factor=(1, 0),
        beta1=(0.6, 0.2),
        beta2=(0.5, 0.9),
        penalty_factor=(1, 3),
        half_life_factor=(0, 1),
    )
    gan = ready(
        tiny_gan(
            optimizer=partial(adam, lr=0.1),
            schedules=schedules,
            penalties=[partial(r1, weight=2.0)],
            ema_half_life_images=float(BATCH_SIZE),
            ema_rampup=None,
        )
    )
    seen = []
    for number in range(3):
        gan.training_step(cycle_of(gan, seed=0), number)
        group = gan.discriminator_player.optimizer.param_groups[0]
        seen.append((group["lr"], *group["betas"]))
        if number == 0:
            assert same_weights(gan.generator_ema, copy_of(gan.generator))
    assert [lr for lr, _, _ in seen] == pytest.approx([0.1, 0.05, 0.0], abs=1e-12)
    assert [beta for _, beta, _ in seen] == pytest.approx([0.6, 0.4, 0.2])
    assert [beta for _, _, beta in seen] == pytest.approx([0.5, 0.7, 0.9])

    without_betas = replace(schedules, beta1=None, beta2=None)
    one, other = (ready(tiny_gan(penalties=[partial(r1, weight=2.0)], schedules=two)) for two in (None, without_betas))
    for gan in (one, other):
        gan.images_seen = 10 * BATCH_SIZE  # long past the burn-in
        gan.scheduled = gan.schedules.at(gan.images_seen, gan.budget_images)
        update_discriminator(gan, cycle_of(gan))
    ratio = other.take_metrics()["loss/penalty"] / one.take_metrics()["loss/penalty"]
    assert ratio == pytest.approx(3, rel=1e-5)


def test_a_lazy_penalty_is_taken_at_every_kth_update_and_weighs_k_times_as_much():
    lazy, eager = partial(r1, weight=2.0, every=3), partial(r1, weight=2.0)
    assert (every_steps(lazy), every_steps(eager)) == (3, 1)
    penalised = []
    for penalty in (lazy, eager):
        gan = ready(tiny_gan(penalties=[penalty], optimizer=sgd(0.0)))
        for number in range(6):
            update_discriminator(gan, cycle_of(gan, seed=number))
            penalised.append(gan.take_metrics()["loss/penalty"])
    assert [value != 0 for value in penalised[:6]] == [True, False, False, True, False, False]
    for number in (0, 3):
        assert penalised[number] == pytest.approx(3 * penalised[6 + number], rel=1e-6)


# ---------------------------------------------------------------------- shared fakes


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("num_steps", [1, 2])
def test_shared_fakes_are_those_of_ds_last_step_and_pass_through_g_once(accumulate, num_steps):
    settings = {"num_discriminator_steps": num_steps, "optimization": {"accumulate": accumulate}}
    gan = ready(tiny_gan(share_fakes=True, penalties=[partial(r1, weight=1.0)], **settings))
    generator = copy.deepcopy(gan.generator)
    passes: list[int] = []
    gan.generator.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    latents = gan.draw_latents("noise/discriminator", num_steps - 1)
    gan.training_step(cycle_of(gan), 0)
    assert passes == [BATCH_SIZE // accumulate] * (num_steps * accumulate)
    loss = softplus(-gan.discriminator(generator(latents))).mean()
    expected = torch.autograd.grad(loss, list(generator.parameters()))
    for old, new, gradient in zip(generator.parameters(), gan.generator.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new, 0.02 * gradient, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------- parts with a state


def energy_gan(adversarial_loss) -> GAN:
    torch.manual_seed(0)
    shape = (1, 8, 8)
    return GAN(
        generator=Generator(sample_shape=shape, latent_dim=LATENT_DIM, width=8, depth=2),
        discriminator=Autoencoder(sample_shape=shape, embedding_dim=4, width=4, depth=1, num_convolutions=1),
        latent_dim=LATENT_DIM,
        adversarial_loss=adversarial_loss,
        optimization=Optimization(sgd(0.05), sgd(0.05)),
        batch_size=BATCH_SIZE,
        budget_images=1000,
    )


def test_began_moves_its_balance_by_the_energies_of_the_update():
    gan = ready(energy_gan(began(gamma=0.5, lambda_k=0.1)))
    assert gan.adversarial_loss.state is not None
    balance, real = 0.0, torch.rand(BATCH_SIZE, 1, 8, 8)
    for _ in range(3):
        fake = gan.generator(gan.draw_latents("noise/discriminator", gan.d_steps)).detach()
        e_real = (gan.discriminator.reconstruct(real) - real).abs().mean().item()
        e_fake = (gan.discriminator.reconstruct(fake) - fake).abs().mean().item()
        update_discriminator(gan, real)
        assert gan.take_metrics()["loss/discriminator"] == pytest.approx(e_real - balance * e_fake, rel=1e-4)
        balance = min(max(balance + 0.1 * (0.5 * e_real - e_fake), 0.0), 1.0)
        assert gan.adversarial_loss.state["k"].item() == pytest.approx(balance, abs=1e-6)


def stateful() -> dict[str, GAN]:
    lecam = {"penalties": [partial(r1, weight=1.0), LeCam(weight=0.3, decay=0.5, start_kimg=0.01)]}
    two = {"penalties": [LeCam(weight=0.3, decay=0.9, start_kimg=0.01), LeCam(weight=0.3, decay=0.5, start_kimg=0.01)]}
    ada = {"augment": Adaptive(target=0.1, speed_kimg=0.05, policy=("scaling", "rotation"))}
    shape = {"sample_shape": (1, 8, 8)}
    return {
        "began": energy_gan(began(gamma=0.9, lambda_k=0.5)),
        "lecam": tiny_gan(**shape, **lecam),
        "two of a class": tiny_gan(**shape, **two),
        "ada": tiny_gan(**shape, **ada),
    }


def steps(gan: GAN, start: int, stop: int) -> None:
    for number in range(start, stop):
        gan.training_step(cycle_of(gan, shape=(1, 8, 8), seed=number).clamp(-1, 1), number)


@pytest.mark.parametrize("name", ["began", "lecam", "two of a class", "ada"])
def test_a_state_is_part_of_the_checkpoint(name):
    whole = ready(stateful()[name])
    steps(whole, 0, 8)
    state = copy.deepcopy(whole.state())
    assert any(bool(value != 0) for memory in state["memories"].values() for value in memory.values())
    steps(whole, 8, 14)
    rest = stateful()[name]
    rest.load_state(state)
    ready(rest)
    steps(rest, 8, 14)
    for key, value in whole.state()["memories"].items():
        assert all(torch.equal(one, rest.state()["memories"][key][part]) for part, one in value.items())
    assert same_weights(rest.discriminator, copy_of(whole.discriminator))
    assert same_weights(rest.generator, copy_of(whole.generator))


def test_a_state_that_was_kept_by_its_class_is_loaded():
    gan = packed_gan(1, penalties={"penalty.lecam": LeCam()})
    state = copy.deepcopy(ready(gan).state())
    state["memories"] = {"penalty LeCam": {**state["memories"]["penalty.lecam"], "real": torch.tensor(3.0)}}
    gan.load_state(state)
    assert ready(gan).memories["penalty.lecam"]["real"] == 3


def test_what_a_state_shows_is_logged():
    """BEGAN's k and convergence measure, ADA's probability: the means over the updates of a log point."""
    gan = ready(stateful()["began"])
    seen = []
    for number in range(3):
        steps(gan, number, number + 1)
        seen.append({name: value.item() for name, value in gan.memories["loss"].items()})
    metrics = gan.take_metrics()
    for name in ("k", "convergence"):
        assert metrics[f"loss/{name}"] == pytest.approx(sum(one[name] for one in seen) / 3, rel=1e-5)
    assert seen[2]["k"] > 0
    assert seen[2]["convergence"] > 0

    gan = ready(stateful()["ada"])
    steps(gan, 0, 5)
    last = gan.memories["augment"]["probability"].item()
    metrics = gan.take_metrics()
    assert metrics["augment/probability"] == pytest.approx(2 * last / 5, rel=1e-5)  # it moves at the fourth update
    assert not any(name.startswith(("loss/k", "augment/sign")) for name in metrics)


def test_a_state_sees_the_whole_batch_of_micro_batches():
    means = []
    for accumulate in (1, 4):
        lecam = LeCam(weight=0.0, decay=0.0, start_kimg=0.0)
        gan = ready(tiny_gan(penalties=[lecam], optimization={"accumulate": accumulate}))
        update_discriminator(gan, cycle_of(gan))
        means.append((lecam.state["real"].item(), lecam.state["fake"].item()))
    assert means[0] == pytest.approx(means[1], rel=1e-5)
    assert means[0][0] != means[0][1]


def test_noise_fades_with_the_images_seen():
    augment = InstanceNoise(std=1.0, until_kimg=4 * BATCH_SIZE / 1000)
    gan = ready(tiny_gan(augment=augment))
    moved = []
    for step in (0, 2, 4):
        gan.images_seen = step * BATCH_SIZE
        real = torch.zeros(4000, 2)
        moved.append(gan.augmentation("discriminator", step)(real).std().item())
    assert moved == pytest.approx([1.0, 0.5, 0.0], abs=0.03)


@pytest.mark.parametrize(("saved", "wanted"), [("lecam", "ada"), ("began", "lecam"), ("plain", "ada")])
def test_a_checkpoint_without_the_states_that_are_needed_is_refused_before_training(saved, wanted):
    plain = {"plain": tiny_gan(sample_shape=(1, 8, 8))}
    one, other = ({**stateful(), **plain}[name] for name in (saved, wanted))
    state = ready(one).state()
    for network in ("generator", "discriminator", "generator_ema"):
        state[network] = getattr(other, network).state_dict()  # as if they were alike
    with pytest.raises(RuntimeError, match="it holds the states of"):
        other.load_state(state)
