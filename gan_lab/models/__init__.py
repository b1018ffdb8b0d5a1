"""Generators and discriminators as plain modules: generators map latents (N, latent_dim) to samples, discriminators
samples to logits (N,). Images are (N, C, H, W) in [-1, 1]; points are (N, D).

`num_outputs`, given by the program: a discriminator returns outputs (N, num_outputs) where more than a logit is asked
for: class logits, codes. They are the rows of its last dense layer, so all of them are linear in the same features."""
