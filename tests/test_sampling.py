"""Drawing: the same sample whatever the batch, and nothing changed by looking."""

import math

import pytest
import torch
from torch import nn

from gan_lab.conditioning import Conditioning
from gan_lab.models.mlp import Generator
from gan_lab.sampling import LATENT_BLOCK, LatentSpace, generate, interpolate, latents_of
from gan_lab.streams import Streams


def latents(num: int, distribution: str = "normal", seed: int = 0) -> torch.Tensor:
    return torch.cat(list(latents_of(Streams(seed), "noise/sample", num, LatentSpace(4, distribution, Conditioning()))))


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("num", [1, 5, LATENT_BLOCK - 1, LATENT_BLOCK, LATENT_BLOCK + 1, 3 * LATENT_BLOCK])
def test_more_samples_begin_with_the_same_ones(num, distribution):
    drawn = latents(num, distribution)

    assert drawn.shape == (num, 4)
    assert torch.equal(drawn, latents(4 * LATENT_BLOCK, distribution)[:num])
    assert len(drawn.unique(dim=0)) == num


def test_the_distribution_is_the_one_asked_for():
    assert latents(1000, "uniform").abs().max() <= 1
    assert latents(1000, "normal").abs().max() > 2


def test_blocks_come_from_counters_of_their_own():
    drawn = latents(2 * LATENT_BLOCK)
    second = Streams(0).normal((LATENT_BLOCK, 4), "noise/sample", 1)

    assert torch.equal(drawn[LATENT_BLOCK:], second)
    assert not torch.equal(drawn, latents(2 * LATENT_BLOCK, seed=1))


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(sample_shape=(1, 4, 4), latent_dim=4, width=8, depth=2, norm="batch")


@pytest.mark.parametrize("batch_size", [1, 7, 64, 300])
def test_sample_i_is_the_same_for_any_batch_size(batch_size):
    network = generator()
    whole = torch.cat(list(generate(network, iter([latents(300)]))))
    parts = torch.cat(list(generate(network, iter(latents(300).split(batch_size)))))

    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(parts, network.eval()(latents(300)).detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_drawing_leaves_mode_weights_statistics_and_gradients_alone(training):
    network = generator().train(training)
    network.layers[0].weight.grad = torch.ones_like(network.layers[0].weight)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    samples = list(generate(network, iter([latents(10)])))

    assert network.training is training
    assert all(module.training is training for module in network.modules())
    assert not samples[0].requires_grad
    assert samples[0].dtype == torch.float32
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert (network.layers[0].weight.grad == 1).all()


def test_between_two_blocks_the_caller_may_take_gradients():
    weight = torch.ones(2, requires_grad=True)
    for _ in generate(generator(), iter(latents(4).split(2))):
        assert torch.is_grad_enabled()
        weight.sum().backward()


def test_training_mode_comes_back_after_an_error_and_after_stopping_early():
    class Broken(nn.Module):
        def forward(self, latent):
            raise ArithmeticError

    broken = Broken()
    with pytest.raises(ArithmeticError):
        list(generate(broken, iter([latents(2)])))
    assert broken.training

    network = generator()
    samples = generate(network, iter(latents(4).split(2)))
    next(samples)
    assert not network.training
    samples.close()
    assert network.training


def test_slerp_of_perpendicular_latents_walks_the_circle_at_even_speed():
    ends = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    points = interpolate(ends, 7, "normal")
    angles = [k * math.pi / 12 for k in range(7)]

    expected = torch.tensor([[2 * math.cos(angle), 2 * math.sin(angle), 0.0] for angle in angles])
    torch.testing.assert_close(points, expected, rtol=0, atol=1e-6)


def test_slerp_keeps_ends_norms_and_angles():
    ends = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    ends = ends / ends.norm(dim=1, keepdim=True) * 7
    points = interpolate(ends, 9, "normal")

    assert points.shape == (18, 50)
    for index, end in ((0, 0), (8, 1), (9, 1), (17, 2)):
        torch.testing.assert_close(points[index], ends[end], rtol=1e-6, atol=1e-6)
    assert points.norm(dim=1).tolist() == pytest.approx([7.0] * 18, rel=1e-6)
    for leg in points.split(9):
        angles = torch.nn.functional.cosine_similarity(leg[:-1].double(), leg[1:].double()).arccos()
        assert angles.tolist() == pytest.approx([angles.mean().item()] * 8, rel=1e-4)


def test_uniform_latents_go_straight():
    ends = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, -1.0]])

    expected = [[1, 0], [0.5, 0.25], [0, 0.5], [0, 0.5], [0, -0.25], [0, -1]]
    assert interpolate(ends, 3, "uniform").tolist() == expected


def test_equal_ends_stay_where_they_are():
    for end in ([1.0, 2.0], [1.0, 0.0], [0.0, 0.0]):
        ends = torch.tensor([end, end])
        torch.testing.assert_close(interpolate(ends, 4, "normal"), ends[:1].repeat(4, 1))


def test_parallel_ends_of_different_length_and_opposite_ends_have_finite_ways():
    for factor in (3.0, -1.0):
        points = interpolate(torch.tensor([[1.0, 2.0], [factor, 2 * factor]]), 5, "normal")
        assert points.norm(dim=1).max() <= max(1, factor) * 5**0.5 + 1e-6
        torch.testing.assert_close(points[0], torch.tensor([1.0, 2.0]))
        torch.testing.assert_close(points[-1], torch.tensor([factor, 2 * factor]))
