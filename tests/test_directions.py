import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan_lab.directions import closed_form_directions
from gan_lab.models import article, autoencoder, coupled, dcgan, mlp, r3gan, resnet, style, upconv

LATENT_DIM = 6


def layer_with(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight.clone()
    return layer


def known(values: list[float], num_outputs: int) -> tuple[Tensor, Tensor]:
    """A float64 weight of these singular values, which are its outputs' lengths, and its right singular vectors."""
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(num_outputs, len(values), dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64))
    return left @ torch.tensor(values, dtype=torch.float64).diag() @ right.T, right.T


def test_known_directions_come_back_by_falling_singular_value():
    weight, directions = known([0.5, 3.0, 1.0, 2.0], num_outputs=9)
    found = closed_form_directions(layer_with(weight), 4, 4)

    assert found.dtype == torch.float64
    for expected, direction in zip(directions[[1, 3, 2, 0]], found, strict=True):
        largest = expected[expected.abs().argmax()]
        torch.testing.assert_close(direction, expected * largest.sign(), rtol=1e-10, atol=1e-10)


def test_a_diagonal_weight_has_the_axes_as_directions():
    found = closed_form_directions(layer_with(torch.diag(torch.tensor([1.0, -3.0, 2.0]))), 3, 2)

    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))


def test_directions_are_eigenvectors_of_the_gram_matrix_and_orthogonal_unit_vectors():
    torch.manual_seed(0)
    weight = torch.randn(20, LATENT_DIM, dtype=torch.float64)
    found = closed_form_directions(layer_with(weight), LATENT_DIM, LATENT_DIM)
    values, vectors = torch.linalg.eigh(weight.T @ weight)  # rising

    torch.testing.assert_close(found @ found.T, torch.eye(LATENT_DIM, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((found @ weight.T).square().sum(1), values.flip(0), rtol=1e-10, atol=1e-10)
    overlaps = (found * vectors.T.flip(0)).sum(1).abs()
    torch.testing.assert_close(overlaps, torch.ones_like(overlaps), rtol=1e-10, atol=1e-10)
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_no_step_of_the_same_length_changes_the_layer_more_than_the_first_direction():
    torch.manual_seed(0)
    generator = mlp.Generator(sample_shape=(2,), latent_dim=LATENT_DIM, width=16)
    latents, layer = torch.randn(4, LATENT_DIM), generator.layers[0]
    found = closed_form_directions(generator, LATENT_DIM, LATENT_DIM)

    def change(steps: Tensor) -> Tensor:
        """How far the layer's output moves for each step, from each latent: (steps, latents)."""
        return (layer(latents + 0.7 * steps[:, None]) - layer(latents)).norm(dim=2).detach()

    by_direction = change(found)
    assert (by_direction[:-1] > by_direction[1:]).all()
    random = torch.nn.functional.normalize(torch.randn(500, LATENT_DIM), dim=1)
    assert (change(random) < by_direction[0]).all()
    assert (change(random) > by_direction[-1]).all()


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (article.ConvGenerator, "dense.0"),
        (autoencoder.Generator, "decoder.dense"),
        (coupled.Generator, "dense"),
        (dcgan.Generator, "dense"),
        (mlp.Generator, "layers.0"),
        (r3gan.Generator, "scales"),
        (resnet.Generator, "dense"),
        (style.Generator, "mapping.0"),
        (upconv.Generator, "dense"),
    ],
)
@pytest.mark.parametrize("num_codes", [0, 3])
def test_every_family_has_directions_of_its_first_layer_whose_last_inputs_are_codes(build, layer, num_codes):
    torch.manual_seed(0)
    generator = build(sample_shape=(2, 8, 8), latent_dim=LATENT_DIM + num_codes)
    weight = generator.get_submodule(layer).weight.detach()[:, :LATENT_DIM]
    found = closed_form_directions(generator, LATENT_DIM, 3)

    assert found.shape == (3, LATENT_DIM)
    assert not found.requires_grad
    lengths = torch.linalg.svdvals(weight)
    torch.testing.assert_close((found @ weight.T).norm(dim=1), lengths[:3], rtol=1e-4, atol=1e-5)


def test_spectral_norm_changes_lengths_and_no_direction():
    torch.manual_seed(0)
    layer = nn.Linear(LATENT_DIM, 8)
    plain = closed_form_directions(layer, LATENT_DIM, 3)

    torch.testing.assert_close(closed_form_directions(spectral_norm(layer).eval(), LATENT_DIM, 3), plain)


def test_the_generator_is_left_as_it_was():
    generator = mlp.Generator(sample_shape=(2,), latent_dim=LATENT_DIM, width=16)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    closed_form_directions(generator, LATENT_DIM, 2).mul_(0)

    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_what_has_no_directions_is_refused_with_a_remedy():
    generator = dcgan.Generator(sample_shape=(1, 8, 8), latent_dim=LATENT_DIM)
    with pytest.raises(ValueError, match=r"no dense layer with at least latent_dim=7 inputs .* give the latent_dim"):
        closed_form_directions(generator, 7, 1)
    with pytest.raises(ValueError, match="no dense layer"):
        closed_form_directions(nn.Conv2d(LATENT_DIM, 8, 3), LATENT_DIM, 1)
    with pytest.raises(ValueError, match=r"num=7 directions: .* maps 6 latent values to 512 outputs, use at most 6"):
        closed_form_directions(dcgan.Generator(sample_shape=(1, 8, 8), latent_dim=6), LATENT_DIM, 7)
    with pytest.raises(ValueError, match=r"num=4 directions: .* to 3 outputs, use at most 3"):
        closed_form_directions(nn.Linear(LATENT_DIM, 3), LATENT_DIM, 4)
