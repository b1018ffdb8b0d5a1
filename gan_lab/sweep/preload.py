"""Imported once by the server that trials are forked from: what every run needs, and nothing that starts threads."""

import gc
import importlib
import pkgutil

import hydra.utils  # noqa: F401
import PIL.Image
import sklearn.datasets  # noqa: F401
import tensorboard.plugins.hparams.plugin_data_pb2  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import torchvision  # noqa: F401

import gan_lab.loggers
import gan_lab.run  # noqa: F401
from gan_lab import callbacks, data, features, metrics, models, procedures

PIL.Image.preinit()  # its formats
for package in (callbacks, data, features, metrics, models, procedures):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)

gc.collect()
gc.freeze()  # a trial's garbage collector need not look through all this, nor copy its pages by doing so
