import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, elu

from gan_lab.models import dcgan, mlp, r3gan, resnet, style, upconv
from gan_lab.models.autoencoder import Decoder, Discriminator, Encoder, Generator


def size_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolution(num_inputs: int, num_outputs: int) -> int:
    return num_inputs * num_outputs * 9 + num_outputs


def test_the_interface():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(3, 16, 16), width=4, embedding_dim=6)
    images = torch.rand(5, 3, 16, 16) * 2 - 1
    outputs, reconstruction = discriminator(images), discriminator.reconstruct(images)

    assert discriminator.gives_energy is True
    assert outputs.shape == (5, 1 + 6)
    assert torch.equal(outputs[:, 1:], discriminator.encode(images))
    assert reconstruction.shape == images.shape
    assert torch.equal(discriminator.decode(outputs[:, 1:]), reconstruction)
    for family in (dcgan, mlp, r3gan, resnet, style, upconv):
        assert not hasattr(family.Discriminator, "gives_energy")


@pytest.mark.parametrize(("error", "power"), [("absolute", 1), ("squared", 2)])
def test_the_logit_is_minus_the_mean_error_of_a_sample(error, power):
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(3, 8, 8), width=4, error=error).double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    logits = discriminator(images)[:, 0]

    for image, reconstruction, logit in zip(images, discriminator.reconstruct(images), logits, strict=True):
        pairs = zip(image.flatten().tolist(), reconstruction.flatten().tolist(), strict=True)
        errors = [abs(a - b) ** power for a, b in pairs]
        assert logit.item() == pytest.approx(-sum(errors) / (3 * 8 * 8), rel=1e-12)


def test_a_sample_that_is_reconstructed_better_has_the_higher_logit():
    discriminator = Discriminator(sample_shape=(1, 8, 8), width=4)
    for parameter in discriminator.decode.image.parameters():
        nn.init.zeros_(parameter)  # whatever it sees, it draws 0
    images = torch.tensor([0.0, 0.5, -1.0]).view(3, 1, 1, 1).expand(3, 1, 8, 8)

    assert discriminator(images)[:, 0].tolist() == [0.0, -0.5, -1.0]


def test_the_gradient_reaches_an_image_as_input_and_as_target():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 8, 8), width=4, error="squared").double()
    for parameter in discriminator.parameters():
        parameter.data *= 2  # at the start, the reconstruction hardly depends on the image
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(images)[:, 0].sum(), images)
    reconstruction = discriminator.reconstruct(images)
    error = (reconstruction - images).detach()
    (as_input,) = torch.autograd.grad(reconstruction, images, -2 * error / 64)

    torch.testing.assert_close(gradient, as_input + 2 * error / 64, rtol=1e-10, atol=1e-12)
    assert as_input.abs().max() > 1e-4


def test_an_energy_under_autocast_is_not_rounded_to_the_precision_of_the_layers():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 8, 8), width=4)
    images = torch.randn(4, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        embedding = discriminator.encode(images)
        reconstruction = discriminator.decode(embedding)
        for given in (images, images.bfloat16()):
            outputs = discriminator(given)
            errors = (reconstruction.double() - given.double()).abs().flatten(1).mean(1)

            assert outputs.dtype == torch.float32
            torch.testing.assert_close(outputs[:, 0].double(), -errors, rtol=1e-6, atol=0)
    assert embedding.dtype == torch.bfloat16
    assert torch.equal(outputs[:, 1:], embedding.float())


def test_began_at_64_pixels():
    """Berthelot et al. 2017, figure 1: two convolutions a side, n to 4n channels in the encoder, n in the decoder."""
    n, dim = 16, 10
    discriminator = Discriminator(sample_shape=(3, 64, 64), width=n, embedding_dim=dim, depth=3)
    generator = Generator(sample_shape=(3, 64, 64), width=n, latent_dim=dim, depth=3)

    strides = [layer.stride[0] for layer in discriminator.encode.modules() if isinstance(layer, nn.Conv2d)]
    assert strides == [1, *[1, 1, 2] * 3, 1, 1]
    encoder = convolution(3, n) + (4 * n * 64 + 1) * dim
    for level in (1, 2, 3, 4):
        encoder += 2 * convolution(level * n, level * n)
        if level < 4:
            encoder += convolution(level * n, (level + 1) * n)
    decoder = (dim + 1) * n * 64 + 4 * 2 * convolution(n, n) + convolution(n, 3)
    assert size_of(discriminator.encode) == encoder
    assert size_of(discriminator.decode) == decoder
    assert size_of(generator) == decoder


def test_the_autoencoder_is_the_plain_formula():
    torch.manual_seed(0)
    discriminator = Discriminator(
        sample_shape=(1, 6, 6), width=2, embedding_dim=3, depth=1, num_convolutions=1
    ).double()
    images = torch.randn(4, 1, 6, 6, dtype=torch.float64)
    w, b = [p for p in discriminator.parameters() if p.ndim > 1], [p for p in discriminator.parameters() if p.ndim == 1]
    x = elu(conv2d(images, w[0], b[0], padding=1))
    x = elu(conv2d(x, w[1], b[1], padding=1))
    x = elu(conv2d(x, w[2], b[2], padding=1, stride=2))
    x = elu(conv2d(x, w[3], b[3], padding=1))
    embedding = x.flatten(1) @ w[4].T + b[4]  # nothing nonlinear before or behind it
    x = (embedding @ w[5].T + b[5]).view(4, 2, 3, 3)
    x = elu(conv2d(x, w[6], b[6], padding=1)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = elu(conv2d(x, w[7], b[7], padding=1))
    expected = conv2d(x, w[8], b[8], padding=1)

    assert len(w) == 9
    torch.testing.assert_close(discriminator.reconstruct(images), expected, rtol=1e-12, atol=1e-12)


def test_a_reconstruction_is_not_bounded_and_an_image_is():
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, 8, 8), width=4)
    generator = Generator(sample_shape=(1, 8, 8), width=4, latent_dim=5)
    for network in (discriminator.decode, generator.decoder):
        network.image.weight.data *= 100
    latents = 10 * torch.randn(4, 5)

    assert discriminator.reconstruct(10 * torch.randn(4, 1, 8, 8)).abs().max() > 2
    torch.testing.assert_close(generator(latents), generator.decoder(latents).tanh())
    assert generator.decoder(latents).abs().max() > 2


@pytest.mark.parametrize("size", [8, 9])
def test_a_few_steps_make_energies_smaller(size):
    torch.manual_seed(0)
    discriminator = Discriminator(sample_shape=(1, size, size), width=4, embedding_dim=8)
    rows = torch.linspace(-1, 1, size)
    images = (torch.tensor([-1.0, 0.3, 1.0])[:, None, None] * rows).unsqueeze(2).expand(3, 1, size, size)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.01)
    energies = []
    for _ in range(60):
        energy = -discriminator(images)[:, 0].mean()
        energy.backward()
        optimizer.step()
        optimizer.zero_grad()
        energies.append(energy.item())

    assert energies[-1] < 0.4 * energies[0]


def test_the_parts_are_encoder_and_decoder_of_one_plan():
    discriminator = Discriminator(sample_shape=(2, 16, 16), width=4, num_convolutions=3)

    assert isinstance(discriminator.encode, Encoder)
    assert isinstance(discriminator.decode, Decoder)
    assert [len(level) for level in discriminator.decode.levels] == [6, 6, 6]
    assert sum(isinstance(layer, nn.Conv2d) for layer in discriminator.encode.modules()) == 1 + 3 * 3 + 2
