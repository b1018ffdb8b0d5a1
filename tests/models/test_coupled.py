import copy

import pytest
import torch
from torch import Tensor, nn

from gan_lab.models import upconv
from gan_lab.models.coupled import Discriminator, Generator
from gan_lab.models.layers import mixes_samples
from gan_lab.penalties import Passes

SIZES = (8, 9, 28, 30, 32, 37, 64)
NORMS = ("none", "batch", "layer", "instance")


def generator_of(**settings) -> Generator:
    torch.manual_seed(0)
    return Generator(**{"sample_shape": (2, 8, 8), "latent_dim": 5, "width": 8, "init_std": 0.2} | settings)


def discriminator_of(**settings) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(**{"sample_shape": (2, 8, 8), "width": 8, "init_std": 0.2, "dropout": 0.0} | settings)


def size_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def with_values(network: nn.Module, *parts: nn.Module) -> nn.Module:
    """The network with the state of these parts, in order."""
    values = [value for part in parts for value in part.state_dict().values()]
    network.double().load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    return network


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [2, 6])
def test_shapes_and_range(size, channels):
    shape = (channels, size, size)
    generator = generator_of(sample_shape=shape)
    latents = torch.randn(3, 5)
    images = generator(latents).detach()
    for domain in generator.domains:
        domain[-2].weight.data *= 1000

    assert images.shape == (3, *shape)
    assert (images.std(dim=0) > 0).all()
    assert 0.99 < generator(latents).abs().max() <= 1
    assert discriminator_of(sample_shape=shape)(images).shape == (6,)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_own", [1, 2])
@pytest.mark.parametrize("channels", [2, 4])
def test_each_domain_is_drawn_by_upconvs_generator(channels, num_own, norm):
    generator = generator_of(sample_shape=(channels, 9, 9), num_own=num_own, norm=norm).double()
    latents = torch.randn(4, 5, dtype=torch.float64)
    alone = []
    for domain in generator.domains:
        plain = upconv.Generator(sample_shape=(channels // 2, 9, 9), latent_dim=5, width=8, norm=norm)
        alone.append(with_values(plain, generator.dense, generator.shared, domain)(latents))

    torch.testing.assert_close(generator(latents), torch.cat(alone, dim=1), rtol=1e-12, atol=1e-12)
    assert (alone[0] - alone[1]).abs().max() > 0.1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_own", [1, 2])
@pytest.mark.parametrize("channels", [2, 4])
def test_each_domain_is_judged_by_upconvs_discriminator_the_first_ones_logits_first(channels, num_own, norm):
    shape = (channels, 9, 9)
    discriminator = discriminator_of(sample_shape=shape, num_own=num_own, norm=norm).double()
    images = torch.randn(4, *shape, dtype=torch.float64)
    alone = []
    for domain, part in zip(discriminator.domains, images.chunk(2, dim=1), strict=True):
        plain = upconv.Discriminator(sample_shape=(channels // 2, 9, 9), width=8, norm=norm, dropout=0.0)
        alone.append(with_values(plain, domain, discriminator.shared, discriminator.logit)(part))

    torch.testing.assert_close(discriminator(images), torch.stack(alone, dim=1).flatten(), rtol=1e-12, atol=1e-12)
    assert (alone[0] - alone[1]).abs().max() > 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_no_layer_mixes_the_two_domains_of_a_sample(norm):
    discriminator = discriminator_of(norm=norm)
    images = torch.randn(4, 2, 8, 8)
    logits = discriminator(images)
    for domain, other in ((0, 1), (1, 0)):
        changed = images.clone()
        changed[:, other] = torch.randn(4, 8, 8)
        after = discriminator(changed).unflatten(0, (4, 2)).T

        assert torch.equal(after[domain], logits.unflatten(0, (4, 2)).T[domain])
        assert (after[other] - logits.unflatten(0, (4, 2)).T[other]).abs().min() > 1e-5
    assert mixes_samples(discriminator) == (norm == "batch")


def test_two_batches_in_one_pass_have_their_logits_one_after_the_other():
    discriminator = discriminator_of()
    real, fake = torch.randn(3, 2, 8, 8), torch.randn(2, 2, 8, 8)
    passes = Passes(discriminator)

    for batch, logits in zip((real, fake), passes.logits(real, fake), strict=True):
        torch.testing.assert_close(logits, discriminator(batch))


def test_a_domain_teaches_the_shared_layers_and_its_own():
    def taught(network: nn.Module, result: Tensor) -> list[bool]:
        """Of the domains and of all else: whether every one of their parameters has a gradient."""
        network.zero_grad()
        result.square().sum().backward(retain_graph=True)
        own = {id(p) for domain in network.domains for p in domain.parameters()}
        groups = [*(list(domain.parameters()) for domain in network.domains)]
        groups.append([p for p in network.parameters() if id(p) not in own])
        assert all(len({p.grad is not None and bool(p.grad.any()) for p in group}) == 1 for group in groups)
        return [bool(group[0].grad is not None and group[0].grad.any()) for group in groups]

    generator, discriminator = generator_of().eval(), discriminator_of().eval()
    images = generator(torch.randn(4, 5))
    logits = discriminator(torch.randn(4, 2, 8, 8))

    assert taught(generator, images[:, :1]) == taught(discriminator, logits[::2]) == [True, False, True]
    assert taught(generator, images[:, 1:]) == taught(discriminator, logits[1::2]) == [False, True, True]


def test_pytorch_gans_generator_at_32_pixels():
    """CoupledGenerators of eriklindernoren/PyTorch-GAN, implementations/cogan; its discriminator is another."""
    generator = Generator(sample_shape=(6, 32, 32))
    discriminator = Discriminator(sample_shape=(6, 32, 32), norm="batch")

    shared = (100 * 8192 + 8192) + 2 * 128 + (128 * 128 * 9 + 128 + 2 * 128)
    own = (128 * 64 * 9 + 64 + 2 * 64) + (64 * 3 * 9 + 3)
    assert size_of(generator) == shared + 2 * own
    own = 3 * 16 * 9 + 16
    shared = sum(num * 2 * num * 9 + 2 * num + 2 * 2 * num for num in (16, 32, 64)) + (128 * 2 * 2 + 1)
    assert size_of(discriminator) == 2 * own + shared


def test_the_number_of_own_levels():
    for num_own in (1, 2, 3):
        generator = generator_of(sample_shape=(2, 32, 32), depth=3, num_own=num_own)
        discriminator = discriminator_of(sample_shape=(2, 32, 32), depth=3, num_own=num_own)

        assert [len(domain) for domain in generator.domains] == [num_own + 2] * 2
        assert len(generator.shared) == 1 + 3 - num_own
        assert [len(domain) for domain in discriminator.domains] == [num_own] * 2
        assert len(discriminator.shared) == 3 - num_own


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_what_cannot_be_drawn_is_refused_with_a_remedy(network):
    assert network.images_only is True
    for shape in [(2,), (2, 28, 32)]:
        with pytest.raises(ValueError, match="model=coupled draws square images"):
            network(sample_shape=shape)
    for channels in (1, 3):
        with pytest.raises(ValueError, match=rf"of 2 domains.* \({channels}, 8, 8\): use dataset=coupled_digits"):
            network(sample_shape=(channels, 8, 8))
    network(sample_shape=(2, 8, 8), width=4, depth=2, num_own=2)
    with pytest.raises(ValueError, match="num_own=3 of 2 levels: use at most 2, or a larger depth"):
        network(sample_shape=(2, 8, 8), width=4, depth=2, num_own=3)
    with pytest.raises(ValueError, match="depth=3 halves 8 pixels to less than 2"):
        network(sample_shape=(2, 8, 8), width=4, depth=3)


def test_bfloat16_and_channels_last_change_little():
    generator, discriminator = generator_of().eval(), discriminator_of().eval()
    latents = torch.randn(4, 5)
    images = generator(latents).detach()
    logits = discriminator(images).detach()
    for network in (generator, discriminator):
        network.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        low_images = generator(latents)
        low_logits = discriminator(images.to(memory_format=torch.channels_last))

    torch.testing.assert_close(low_images.float(), images, rtol=0.05, atol=0.05)
    torch.testing.assert_close(low_logits.float(), logits, rtol=0.1, atol=0.1 * logits.abs().max().item())


def test_a_copy_has_the_same_state_and_draws_the_same():
    generator = generator_of().eval()
    copied = copy.deepcopy(generator)
    latents = torch.randn(3, 5)
    for parameter in generator.parameters():
        parameter.data += 1

    assert not torch.equal(copied(latents), generator(latents))
    copied.load_state_dict(generator.state_dict())
    assert torch.equal(copied(latents), generator(latents))
