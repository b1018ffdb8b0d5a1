"""Generators and discriminators as plain modules: generators map latents (N, latent_dim) to samples, discriminators
samples to logits (N,). Images are (N, C, H, W) in [-1, 1]; points are (N, D)."""
