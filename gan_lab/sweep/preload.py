"""Imported once by the server that trials are forked from: what every run needs, and nothing that starts threads."""

import sklearn.datasets  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import torchvision  # noqa: F401

import gan_lab.run  # noqa: F401
