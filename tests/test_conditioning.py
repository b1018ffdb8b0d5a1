"""Labels and codes: the terms against plain formulas, and what reaches which network in a training step."""

import copy
import math

import pytest
import torch
from tiny import BATCH_SIZE, LATENT_DIM, copy_of, cycle_of, ready, same_weights, sgd, tiny_gan
from torch import Tensor, nn

from gan_lab.conditioning import (
    AuxiliaryClassifier,
    Cluster,
    Codes,
    Concat,
    Conditioning,
    Projection,
    SemiSupervised,
)
from gan_lab.data import Data
from gan_lab.data.batches import Told, told_samples
from gan_lab.losses import vanilla
from gan_lab.models.mlp import Discriminator, Generator
from gan_lab.module import GAN, Optimization
from gan_lab.procedures.noise_to_data import update_discriminator, update_generator
from gan_lab.sampling import LatentSpace, latents_of
from gan_lab.streams import Streams

K = 3
LABELS = torch.tensor([0, 1, 2, 2, 1, 0, 2, 1])
KINDS = {
    "none": lambda: Conditioning(),
    "concat": lambda: Concat(num_classes=K, as_channels=False),
    "projection": lambda: Projection(num_classes=K),
    "acgan": lambda: AuxiliaryClassifier(num_classes=K, weight=0.7),
    "semi_supervised": lambda: SemiSupervised(num_classes=K, weight=0.7),
    "infogan": lambda: Codes(num_categories=K, num_continuous=2, weight=0.7, continuous_weight=0.3),
    "cluster_gan": lambda: Cluster(num_categories=K),
}
DATA = Data(torch.randn(40, 2, generator=torch.Generator().manual_seed(5)), torch.arange(40) % K, classes=tuple("abc"))
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def draws(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def outputs(num: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, columns, dtype=torch.float64, generator=generator).requires_grad_()


def log_softmax(logits: Tensor) -> Tensor:
    return torch.log(torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True))


# ---------------------------------------------------------------------- codes


def test_a_label_is_one_of_the_codes():
    for conditioning in (KINDS["concat"](), KINDS["projection"](), KINDS["acgan"]()):
        codes = conditioning.codes(len(LABELS), LABELS, draws)
        assert codes.tolist() == [[float(label == column) for column in range(K)] for label in LABELS.tolist()]
        assert torch.equal(conditioning.labels_of(codes), LABELS)


def test_infogans_codes_are_categories_of_equal_chance_and_uniform_values():
    conditioning = Codes(num_categories=4, num_continuous=2)
    codes = conditioning.codes(20_000, None, draws)
    categories, continuous = codes[:, :4], codes[:, 4:]
    assert torch.equal(categories.sum(dim=1), torch.ones(20_000, dtype=torch.float64))
    assert ((categories == 0) | (categories == 1)).all()
    assert categories.mean(dim=0).sub(0.25).abs().max() < 0.02
    assert continuous.min() < -0.99
    assert 0.99 < continuous.max() < 1
    assert continuous.mean(dim=0).abs().max() < 0.02
    assert continuous.var(dim=0).sub(1 / 3).abs().max() < 0.02
    assert torch.corrcoef(codes.T)[:4, 4:].abs().max() < 0.03


@EVERY_KIND
def test_latents_are_noise_then_codes_and_the_noise_has_its_scale(kind):
    conditioning = KINDS[kind]()
    shares = torch.tensor([0.5, 0.25, 0.25])
    space = LatentSpace(LATENT_DIM, "normal", conditioning, shares)
    latents = torch.cat(list(latents_of(Streams(0), "noise/sample", 600, space)))
    plain = torch.cat(
        list(latents_of(Streams(0), "noise/sample", 600, LatentSpace(LATENT_DIM, "normal", Conditioning())))
    )

    assert latents.shape == (600, LATENT_DIM + conditioning.num_codes)
    scale = 0.1 if kind == "cluster_gan" else 1.0
    torch.testing.assert_close(latents[:, :LATENT_DIM], scale * plain)
    if conditioning.num_choices > 0:
        counts = latents[:, LATENT_DIM : LATENT_DIM + K].mean(dim=0)
        expected = shares if conditioning.needs_labels else torch.full((K,), 1 / K)
        assert (counts - expected).abs().max() < 0.07


# ---------------------------------------------------------------------- what D gives


def test_concat_puts_the_label_beside_the_sample():
    samples = torch.randn(8, 2, 4, 4)
    channels = Concat(num_classes=K, as_channels=True)
    codes = channels.codes(8, LABELS, draws)
    assert channels.discriminator_shape((2, 4, 4)) == (2 + K, 4, 4)
    both = channels.discriminator_input(samples, codes)
    assert torch.equal(both[:, :2], samples)
    for row, label in enumerate(LABELS.tolist()):
        assert both[row, 2:].mean(dim=(1, 2)).tolist() == [float(column == label) for column in range(K)]
        assert both[row, 2:].var(dim=(1, 2)).max() == 0

    vectors = Concat(num_classes=K, as_channels=False)
    assert vectors.discriminator_shape((2, 4, 4)) == (32 + K,)
    flat = vectors.discriminator_input(samples, codes)
    assert torch.equal(flat, torch.cat([samples.flatten(1), codes], dim=1))


def test_projection_is_an_embedding_times_the_features():
    """psi(phi(x)) + y^T V phi(x), with the paper's parts cut out of the one linear layer."""
    conditioning = Projection(num_classes=K)
    head = nn.Linear(5, conditioning.num_outputs).double()
    features = outputs(8, 5)
    embedding = nn.Embedding.from_pretrained(head.weight[1:].detach())
    expected = (
        features @ head.weight[0] + head.bias[0] + (embedding(LABELS) * features).sum(dim=1) + head.bias[1:][LABELS]
    )
    codes = conditioning.codes(8, LABELS, draws).double()
    torch.testing.assert_close(conditioning.logits(head(features), codes), expected)


def test_the_class_fake_has_the_logit_0():
    """K + 1 classes: the cross-entropies of "real" and "fake" are the vanilla loss of log sum exp."""
    conditioning = KINDS["semi_supervised"]()
    out = outputs(8, K)
    probabilities = torch.softmax(torch.cat([out, torch.zeros(8, 1, dtype=torch.float64)], dim=1), dim=1)
    logits = conditioning.logits(out, draws((8, 0)))
    torch.testing.assert_close(torch.sigmoid(logits), 1 - probabilities[:, -1])
    torch.testing.assert_close(nn.functional.softplus(logits), -torch.log(probabilities[:, -1]))


def test_without_conditioning_the_logit_is_the_only_output_or_the_first():
    out = outputs(8, 4)
    assert torch.equal(Conditioning().logits(out[:, 0], draws((8, 0))), out[:, 0])
    assert torch.equal(Conditioning().logits(out, draws((8, 0))), out[:, 0])


# ---------------------------------------------------------------------- terms


def test_acgan_asks_both_players_for_the_class():
    conditioning = KINDS["acgan"]()
    real, fake = outputs(8, 1 + K), outputs(8, 1 + K, seed=1)
    fake_labels = LABELS.flip(0)
    codes = conditioning.codes(8, fake_labels, draws)
    rows = torch.arange(8)
    real_error = -0.7 * log_softmax(real[:, 1:])[rows, LABELS]
    fake_error = -0.7 * log_softmax(fake[:, 1:])[rows, fake_labels]
    torch.testing.assert_close(conditioning.discriminator_term(real, LABELS, fake, codes), real_error + fake_error)
    torch.testing.assert_close(conditioning.generator_term(fake, codes), fake_error)
    assert torch.equal(conditioning.logits(fake, codes), fake[:, 0])
    assert torch.equal(conditioning.read(fake), fake[:, 1:].argmax(dim=1))


def test_semi_supervision_asks_d_for_the_labels_that_it_is_told():
    conditioning = KINDS["semi_supervised"]()
    told, fake = outputs(8, K), outputs(8, K, seed=1)
    expected = -0.7 * log_softmax(told)[torch.arange(8), LABELS]
    torch.testing.assert_close(conditioning.told_term(told, LABELS), expected)
    assert conditioning.discriminator_term(told, None, fake, draws((8, 0))) is None
    assert conditioning.generator_term(fake, draws((8, 0))) is None


def test_semi_supervision_tells_so_many_labels_of_each_class():
    labels = torch.randint(0, K, (500,), generator=torch.Generator().manual_seed(0))
    rows = SemiSupervised(num_classes=K, labels_per_class=7).told(labels)
    assert len(rows.unique()) == 7 * K
    assert torch.bincount(labels[rows]).tolist() == [7] * K
    assert torch.equal(rows, SemiSupervised(num_classes=K, labels_per_class=7).told(labels))


def test_each_batch_of_told_samples_has_its_labels_and_all_occur_equally_often():
    samples = torch.arange(12, dtype=torch.float32).view(6, 2)
    told = Told(samples, torch.arange(6), seed=0)
    batches = [told.batch(start, start + 4) for start in range(0, 12, 4)]
    for one, labels in batches:
        assert torch.equal(one, samples[labels])
    shown = torch.cat([labels for _, labels in batches])
    assert torch.bincount(shown).tolist() == [2] * 6
    assert not torch.equal(shown[:6], shown[6:])


def test_no_other_label_reaches_the_training():
    data = Data(torch.randn(50, 2), torch.arange(50) % K, classes=tuple("abc"))
    told = told_samples(data, SemiSupervised(num_classes=K, labels_per_class=2), seed=0)
    assert len(told.samples) == 2 * K
    for sample, label in zip(told.samples, told.labels, strict=True):
        (row,) = (data.samples == sample).all(dim=1).nonzero()
        assert data.labels[row] == label
    assert told_samples(data, KINDS["acgan"](), seed=0) is None
    assert told_samples(data, KINDS["none"](), seed=0) is None


def test_infogan_finds_category_and_continuous_codes_again():
    conditioning = KINDS["infogan"]()
    fake = outputs(8, 1 + K + 2)
    codes = conditioning.codes(8, None, draws)
    categories = codes[:, :K].argmax(dim=1)
    expected = -0.7 * log_softmax(fake[:, 1 : 1 + K])[torch.arange(8), categories]
    expected = expected + 0.15 * ((fake[:, 1 + K :] - codes[:, K:]) ** 2).sum(dim=1)
    for term in (conditioning.generator_term(fake, codes), conditioning.discriminator_term(fake, None, fake, codes)):
        torch.testing.assert_close(term, expected)
    assert torch.equal(conditioning.read(fake), fake[:, 1 : 1 + K].argmax(dim=1))


def test_cluster_gan_finds_noise_and_category_again():
    conditioning = Cluster(num_categories=K, noise_weight=2.0, category_weight=3.0)
    latents = torch.cat([0.1 * draws((8, 5)), conditioning.codes(8, None, draws)], dim=1)
    encoded = outputs(8, 5 + K)
    expected = 2 * ((encoded[:, :5] - latents[:, :5]) ** 2).sum(dim=1) / 5
    expected = expected - 3 * log_softmax(encoded[:, 5:])[torch.arange(8), latents[:, 5:].argmax(dim=1)]
    torch.testing.assert_close(conditioning.encoder_term(encoded, latents), expected)
    assert torch.equal(conditioning.read(encoded), encoded[:, 5:].argmax(dim=1))


def test_a_code_that_is_found_for_certain_costs_nothing_and_chance_costs_log_k():
    conditioning = Codes(num_categories=K, num_continuous=0, weight=1.0)
    codes = torch.eye(K, dtype=torch.float64)
    sure = torch.cat([torch.zeros(K, 1, dtype=torch.float64), 100 * codes], dim=1)
    assert conditioning.generator_term(sure, codes).abs().max() < 1e-12
    blind = torch.zeros(K, 1 + K, dtype=torch.float64)
    torch.testing.assert_close(conditioning.generator_term(blind, codes), torch.full((K,), math.log(K)).double())


# ---------------------------------------------------------------------- training steps


def conditional_gan(kind: str, **settings) -> GAN:
    conditioning = KINDS[kind]()
    torch.manual_seed(0)
    size = {"width": 8, "depth": 2}
    judged = conditioning.discriminator_shape((2,))
    encoder = None
    if conditioning.has_encoder:
        encoder = Discriminator(sample_shape=(2,), num_outputs=LATENT_DIM + conditioning.num_codes, **size)
    gan = GAN(
        generator=Generator(sample_shape=(2,), latent_dim=LATENT_DIM + conditioning.num_codes, **size),
        discriminator=Discriminator(sample_shape=judged, num_outputs=conditioning.num_outputs, **size),
        encoder=encoder,
        latent_dim=LATENT_DIM,
        conditioning=conditioning,
        label_shares=torch.full((K,), 1 / K),
        adversarial_loss=vanilla(),
        optimization=Optimization(sgd(0.05), sgd(0.05)),
        batch_size=BATCH_SIZE,
        budget_images=1000,
        **settings,
    )
    gan.told = told_samples(DATA, conditioning, seed=0)
    return gan


def labels_of(kind: str) -> Tensor | None:
    return LABELS if KINDS[kind]().gives_labels else None


@EVERY_KIND
def test_each_player_steps_down_the_sum_of_its_loss_and_its_term(kind):
    gan = ready(conditional_gan(kind))
    conditioning, real, labels = gan.conditioning, cycle_of(gan), labels_of(kind)
    discriminator, generator, encoder = (copy.deepcopy(one) for one in (gan.discriminator, gan.generator, gan.encoder))
    latents = gan.draw_latents("noise/discriminator", 0, labels)
    codes = latents[:, LATENT_DIM:]
    if labels is not None and conditioning.num_codes:
        assert torch.equal(codes.argmax(dim=1), labels)

    def judged(samples: Tensor) -> Tensor:
        return discriminator(conditioning.discriminator_input(samples, codes))

    real_outputs, fake_outputs = judged(real), judged(generator(latents).detach())
    r, f = conditioning.logits(real_outputs, codes), conditioning.logits(fake_outputs, codes)
    loss = (nn.functional.softplus(-r) + nn.functional.softplus(f)).mean()
    term = conditioning.discriminator_term(real_outputs, labels, fake_outputs, codes)
    loss = loss if term is None else loss + term.mean()
    if gan.told is not None:
        told, told_labels = gan.told.batch(0, BATCH_SIZE)
        errors = -0.7 * log_softmax(discriminator(told))[torch.arange(BATCH_SIZE), told_labels]
        loss = loss + errors.mean()
    expected = torch.autograd.grad(loss, list(discriminator.parameters()), allow_unused=True)
    update_discriminator(gan, real, labels)
    for old, new, gradient in zip(discriminator.parameters(), gan.discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new, 0.05 * gradient, rtol=1e-4, atol=1e-6)

    discriminator.load_state_dict(gan.discriminator.state_dict())
    latents = gan.draw_latents("noise/generator", 0, labels)
    codes = latents[:, LATENT_DIM:]
    fake = generator(latents)
    fake_outputs = judged(fake)
    loss = nn.functional.softplus(-conditioning.logits(fake_outputs, codes)).mean()
    term = conditioning.generator_term(fake_outputs, codes)
    loss = loss if term is None else loss + term.mean()
    learning = [*generator.parameters()]
    if encoder is not None:
        loss = loss + conditioning.encoder_term(encoder(fake), latents).mean()
        learning += [*encoder.parameters()]
    expected = torch.autograd.grad(loss, learning)
    before = copy_of(gan.discriminator)
    update_generator(gan, real, labels)
    moved = [*gan.generator.parameters(), *([] if gan.encoder is None else gan.encoder.parameters())]
    for old, new, gradient in zip(learning, moved, expected, strict=True):
        torch.testing.assert_close(old - new, 0.05 * gradient, rtol=1e-4, atol=1e-6)
    assert same_weights(gan.discriminator, before)


@pytest.mark.parametrize(
    ("kind", "columns"), [("acgan", slice(1, 4)), ("semi_supervised", slice(3)), ("infogan", slice(1, 4))]
)
def test_penalties_are_given_what_the_discriminator_reads(kind, columns):
    found: list[Tensor] = []

    def penalty(passes, real, fake, uniform):
        found.append(passes.read_classes(passes.outputs(real)[0]))
        return found[0].sum(dim=1)

    gan = ready(conditional_gan(kind, penalties={"probe": penalty}))
    discriminator, real = copy.deepcopy(gan.discriminator), cycle_of(gan)
    update_discriminator(gan, real, labels_of(kind))
    torch.testing.assert_close(found[0], discriminator(real)[:, columns])


@EVERY_KIND
def test_micro_batches_are_the_whole_batch(kind):
    runs = []
    for accumulate in (1, 2):
        gan = ready(conditional_gan(kind))
        gan.accumulate = accumulate
        for number in range(2):
            batch = cycle_of(gan, seed=number)
            labels = labels_of(kind)
            gan.training_step(batch if labels is None else (batch, labels), number)
        runs.append(gan)
    whole, parts = runs
    for one, other in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@EVERY_KIND
def test_a_checkpoint_holds_the_encoder_and_gives_the_same_run(kind):
    first = ready(conditional_gan(kind))
    labels = labels_of(kind)

    def step(gan: GAN, number: int) -> None:
        batch = cycle_of(gan, seed=number)
        gan.training_step(batch if labels is None else (batch, labels), number)

    step(first, 0)
    state = copy.deepcopy(first.state())
    step(first, 1)
    second = conditional_gan(kind)
    second.load_state(state)
    ready(second)
    step(second, 1)
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_plain_gan_is_what_it_was():
    with_conditioning, without = ready(conditional_gan("none")), ready(tiny_gan())
    assert with_conditioning.draw_latents("noise/generator", 0).equal(without.draw_latents("noise/generator", 0))
