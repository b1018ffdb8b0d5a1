import pytest
import torch
from torch import nn

from gan_lab.models.layers import (
    FourierFeatures,
    halved_sizes,
    has_batch_norm,
    image_norm,
    initialise_normal,
    vector_norm,
)


@pytest.mark.parametrize(
    ("size", "depth", "sizes"),
    [
        (8, None, [8, 4]),
        (9, None, [9, 5]),
        (16, None, [16, 8, 4]),
        (28, None, [28, 14, 7]),
        (30, None, [30, 15, 8, 4]),
        (32, None, [32, 16, 8, 4]),
        (37, None, [37, 19, 10, 5]),
        (64, None, [64, 32, 16, 8, 4]),
        (100, None, [100, 50, 25, 13, 7]),
        (128, None, [128, 64, 32, 16, 8, 4]),
        (64, 2, [64, 32, 16]),
        (32, 4, [32, 16, 8, 4, 2]),
    ],
)
def test_halved_sizes(size, depth, sizes):
    assert halved_sizes(size, depth) == sizes


@pytest.mark.parametrize(("size", "depth"), [(8, 3), (32, 5), (28, 5), (128, 8)])
def test_halving_below_two_pixels_is_refused(size, depth):
    with pytest.raises(ValueError, match=f"depth={depth} halves {size} pixels"):
        halved_sizes(size, depth)


def standardised(inputs: torch.Tensor, dimensions: list[int]) -> torch.Tensor:
    mean = inputs.mean(dim=dimensions, keepdim=True)
    return (inputs - mean) / (inputs.var(dim=dimensions, unbiased=False, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize(("name", "dimensions"), [("batch", [0, 2, 3]), ("layer", [1, 2, 3]), ("instance", [2, 3])])
def test_image_norms_standardise_over_their_dimensions_and_scale_per_channel(name, dimensions):
    norm = image_norm(name, 6)
    images = torch.randn(4, 6, 5, 5) * torch.rand(4, 6, 1, 1) + torch.randn(4, 6, 1, 1)

    torch.testing.assert_close(norm(images), standardised(images, dimensions), rtol=1e-4, atol=1e-4)
    assert norm.weight.shape == norm.bias.shape == (6,)


@pytest.mark.parametrize(("name", "dimensions"), [("batch", [0]), ("layer", [1])])
def test_vector_norms_standardise_over_their_dimension(name, dimensions):
    norm = vector_norm(name, 6)
    vectors = torch.randn(16, 6) * torch.rand(6) + torch.randn(6)

    torch.testing.assert_close(norm(vectors), standardised(vectors, dimensions), rtol=1e-4, atol=1e-4)
    assert norm.weight.shape == norm.bias.shape == (6,)


def test_no_norm_changes_nothing():
    images = torch.randn(2, 3, 4, 4)

    assert torch.equal(image_norm("none", 3)(images), images)
    assert torch.equal(vector_norm("none", 4)(images[0, 0]), images[0, 0])


def test_only_batch_norm_counts_as_mixing_samples():
    for name in ("none", "layer", "instance"):
        assert not has_batch_norm(nn.Sequential(image_norm(name, 4)))
    assert not has_batch_norm(vector_norm("layer", 4))
    assert has_batch_norm(nn.Sequential(nn.Sequential(image_norm("batch", 4))))
    assert has_batch_norm(vector_norm("batch", 4))


def test_initialisation_of_every_kind_of_layer():
    torch.manual_seed(0)
    kinds = [
        nn.Linear(300, 100),
        nn.Conv2d(50, 60, 4),
        nn.ConvTranspose2d(50, 60, 4, bias=False),
        nn.BatchNorm2d(20_000),
        nn.GroupNorm(1, 20_000),
        nn.LayerNorm(20_000),
        nn.InstanceNorm2d(20_000, affine=True),
    ]
    module = nn.Sequential(*kinds)
    initialise_normal(module, 0.05)

    for layer in kinds:
        centre = 0.0 if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) else 1.0
        num = layer.weight.numel()
        assert abs(layer.weight.mean() - centre) < 5 * 0.05 / num**0.5, layer
        assert abs(layer.weight.std() / 0.05 - 1) < 5 / (2 * num) ** 0.5, layer
        if layer.bias is not None:
            assert (layer.bias == 0).all(), layer


def test_fourier_features_are_the_points_and_waves_of_them():
    torch.manual_seed(0)
    layer = FourierFeatures(2, 3, std=1.5)
    points = torch.randn(5, 2)
    result = layer(points)
    angles = [[sum(p[i] * layer.frequencies[i, k] for i in range(2)) for k in range(3)] for p in points]

    assert result.shape == (5, 8)
    assert torch.equal(result[:, :2], points)
    torch.testing.assert_close(result[:, 2:5], torch.tensor(angles).sin())
    torch.testing.assert_close(result[:, 5:], torch.tensor(angles).cos())
    assert list(layer.parameters()) == []  # not trained ...
    assert list(layer.state_dict()) == ["frequencies"]  # ... but kept


def test_fourier_frequencies_have_the_asked_spread():
    torch.manual_seed(0)

    assert FourierFeatures(2, 20_000, std=3.0).frequencies.std().item() == pytest.approx(3.0, rel=0.02)  # 5.7 sigma
