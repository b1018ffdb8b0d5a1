"""Directions in the latent space along which a generator's images change most, read from its weights alone."""

import torch
from torch import Tensor, nn

from gan_lab.models.style import Dense


def closed_form_directions(generator: nn.Module, latent_dim: int, num: int) -> Tensor:
    """(num, latent_dim): orthogonal unit vectors to add to latents, strongest first (SeFa, Shen & Zhou 2021).

    The first dense layer maps the latent z to A z + b, so a step a n changes its output by a A n, whatever z is. The
    unit vectors n of the largest |A n| are the right singular vectors of A, the eigenvectors of A^T A, in the order of
    their singular values. Their signs are free: here, the component of the largest absolute value is positive.

    Of a layer with more than `latent_dim` inputs, the first `latent_dim` are the latent and the others codes. The
    authors' code first scales the rows of A to length 1; here, as in the paper, they weigh as they are. For
    model=style, the paper takes the layers that make the scales of the convolutions' channels of the style; here it is
    the first layer of the mapping network, as in all other families, so that the directions are of the latent itself
    (which that family scales to mean square 1 before the layer).

    Raises ValueError where no dense layer can take the latent, or where it has fewer than `num` directions.
    """
    weight = _first_weight(generator, latent_dim)[:, :latent_dim]
    most = min(weight.shape)
    if num > most:
        raise ValueError(
            f"num={num} directions: the first layer maps {latent_dim} latent values to {len(weight)} outputs, "
            f"use at most {most}"
        )
    directions = torch.linalg.svd(weight.cpu().double(), full_matrices=False).Vh[:num]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return (directions * largest.sign()).to(weight)


def _first_weight(generator: nn.Module, latent_dim: int) -> Tensor:
    """The weight (outputs, inputs) of the first dense layer, which sees the latent and nothing before it."""
    for layer in generator.modules():
        if isinstance(layer, nn.Linear | Dense) and layer.weight.shape[1] >= latent_dim:
            return layer.weight.detach()
    raise ValueError(
        f"the generator has no dense layer with at least latent_dim={latent_dim} inputs to read directions from: give "
        "the latent_dim that it was made with, or use one whose first layer is torch.nn.Linear"
    )
