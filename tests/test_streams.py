"""Randomness as a function of (seed, stream, counter)."""

import math

import pytest
import torch

from gan_lab.streams import Streams, stream_seed

DRAWS = {
    "normal": lambda streams, stream, counter: streams.normal((5, 3), stream, counter),
    "uniform": lambda streams, stream, counter: streams.uniform((5, 3), stream, counter),
    "normal latents": lambda streams, stream, counter: streams.latents("normal", (5, 3), stream, counter),
    "uniform latents": lambda streams, stream, counter: streams.latents("uniform", (5, 3), stream, counter),
}
EVERY_DRAW = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@EVERY_DRAW
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_a_draw_is_repeated_by_its_seed_stream_and_counter(draw, seed):
    assert torch.equal(draw(Streams(seed), "noise", 7), draw(Streams(seed), "noise", 7))


@EVERY_DRAW
def test_another_seed_stream_or_counter_gives_another_draw(draw):
    draws = [
        draw(Streams(seed), stream, counter)
        for seed in (0, 1, 10)
        for stream in ("noise", "noise/generator", "noise/discriminator", "data")
        for counter in (0, 1, 10**9)
    ]
    for index, one in enumerate(draws):
        for other in draws[:index]:
            assert (one != other).all()


@EVERY_DRAW
def test_neither_earlier_draws_nor_torchs_own_generator_matter(draw):
    streams = Streams(0)
    torch.manual_seed(1)
    first = draw(streams, "noise", 3)
    state = torch.get_rng_state()
    for counter in range(5):
        draw(streams, "other", counter)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)

    assert torch.equal(draw(streams, "noise", 3), first)


def test_seeds_differ_in_the_bits_that_torch_uses():
    """torch's CPU generator keeps 32 bits of a seed."""
    seeds = {
        stream_seed(seed, stream, counter) % 2**32
        for seed in range(4)
        for stream in ("a", "b", "a/b")
        for counter in range(250)
    }
    assert len(seeds) == 3000
    assert len({stream_seed(1, "1", 11), stream_seed(11, "1", 1), stream_seed(1, "11", 1)}) == 3
    assert all(0 <= stream_seed(seed, "noise") < 2**63 for seed in range(100))


def test_normal_latents_are_normal():
    draw = Streams(0).latents("normal", (100_000, 2), "noise", 0).double()
    error = 5 / math.sqrt(len(draw))

    assert draw.dtype == torch.float64
    assert draw.mean(dim=0).abs().max() < error
    assert (draw.square().mean(dim=0) - 1).abs().max() < math.sqrt(2) * error
    assert (draw.pow(4).mean(dim=0) - 3).abs().max() < math.sqrt(96) * error
    assert abs((draw[:, 0] * draw[:, 1]).mean()) < error


def test_uniform_latents_fill_the_square_from_minus_one_to_one():
    draw = Streams(0).latents("uniform", (100_000, 2), "noise", 0).double()
    error = 5 / math.sqrt(len(draw))

    assert draw.min() >= -1
    assert draw.max() < 1
    assert draw.min() < -0.999
    assert draw.max() > 0.999
    assert draw.mean(dim=0).abs().max() < error * math.sqrt(1 / 3)
    assert (draw.square().mean(dim=0) - 1 / 3).abs().max() < error * math.sqrt(4 / 45)
    assert abs((draw[:, 0] * draw[:, 1]).mean()) < error / 3


def test_uniform_draws_lie_between_zero_and_one():
    draw = Streams(0).uniform((100_000,), "penalty", 0)

    assert draw.min() >= 0
    assert draw.max() < 1
    assert abs(draw.double().mean() - 0.5) < 5 / math.sqrt(12 * len(draw))


def test_layers_are_seeded_through_torchs_own_generator():
    streams = Streams(3)
    streams.seed_layers(64)
    first = torch.rand(4)
    streams.seed_layers(128)
    assert not torch.equal(torch.rand(4), first)
    torch.rand(9)
    streams.seed_layers(64)

    assert torch.equal(torch.rand(4), first)
