"""Every file of conf/dataset names a source and gives exactly its arguments."""

import importlib
import inspect
from pathlib import Path

import pytest
import yaml

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "dataset").glob("*.yaml"))


def test_the_datasets_are_these():
    assert [path.stem for path in CONFIGS] == [
        "celeba",
        "cifar10",
        "coupled_digits",
        "digits",
        "fashion_mnist",
        "gaussian_grid",
        "gaussian_ring",
        "image_folder",
        "mnist",
        "stacked_digits",
        "stacked_mnist",
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_gives_every_argument_with_its_default(path):
    content = yaml.safe_load(path.read_text())
    module, name = content.pop("_target_").rsplit(".", 1)
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters

    assert name == path.stem
    assert list(content) == list(parameters)
    for key, parameter in parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if key == "cache_dir":  # for runs from the command line; whoever calls a source decides for himself
            assert content[key] == "${oc.env:GAN_LAB_CACHE,outputs/cache}"
            assert parameter.default is None
        elif parameter.default is not inspect.Parameter.empty:
            assert content[key] == parameter.default
            assert type(content[key]) is type(parameter.default)
        else:
            assert key == "root"
            assert content[key] == ("???" if name == "image_folder" else "outputs/data")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_first_line_describes_the_option(path):
    first = path.read_text().splitlines()[0]

    assert first.startswith("# ")
    assert len(first) <= 110
