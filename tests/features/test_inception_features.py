"""The published extractor with made weights: no test here has the real ones, nor any network."""

import hashlib
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from gan_lab.errors import ConfigError, RunError
from gan_lab.features import inception as module
from gan_lab.features.inception import SHA256, URL, inception

pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed: pip install 'gan_lab[inception]'")

from torch_fidelity import FeatureExtractorInceptionV3, __version__, feature_extractor_inceptionv3

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"


class Blank(FeatureExtractorInceptionV3):
    """The network with the random weights it is built with."""

    def load_state_dict(self, *args, **kwargs):
        pass


def made_state(seed: int) -> dict[str, Tensor]:
    """Random weights in torch-fidelity's names, of a size that keeps an image's features apart from another's."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *args, **kwargs: {})
        network = Blank("blank", ["2048"])
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    return network.state_dict()


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "made.pth"
    torch.save(made_state(0), path)
    return path


@pytest.fixture(scope="session")
def direct(weights):
    """torch-fidelity's own extractor."""
    return FeatureExtractorInceptionV3("own", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights))


@pytest.fixture(scope="session")
def extractor(weights):
    return inception(weights=str(weights))


@pytest.fixture(autouse=True)
def hub_dir(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no network."""

    def refuse(*args, **kwargs):
        raise URLError("no network in this test")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def random_images(num: int, channels: int, side: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, channels, side, side), generator=generator, dtype=torch.uint8)


def test_features_and_probabilities_are_those_of_torch_fidelity(extractor, direct, weights):
    images = random_images(3, 3)
    vectors, logits = direct(images)

    features = extractor(images)

    assert features.vectors.shape == (3, 2048)
    assert features.probabilities.shape == (3, 1008)
    assert features.vectors.dtype == features.probabilities.dtype == torch.float32
    assert torch.equal(features.vectors, vectors)
    assert torch.equal(features.probabilities, logits.softmax(dim=1))
    # The Inception Score's logits have no bias, though the file has one.
    state = torch.load(weights, weights_only=True)
    assert state["fc.bias"].abs().max() > 0.01
    expected = (vectors.double() @ state["fc.weight"].double().T).softmax(dim=1)
    assert torch.allclose(features.probabilities.double(), expected, rtol=1e-4)
    # What is compared tells images apart.
    assert (vectors[0] - vectors[1]).norm() > 0.01 * vectors[0].norm() > 0


def test_gray_is_repeated_and_opacity_left_out(extractor):
    gray, four = random_images(2, 1), random_images(2, 4)

    assert torch.equal(extractor(gray).vectors, extractor(gray.repeat(1, 3, 1, 1)).vectors)
    assert torch.equal(extractor(four).vectors, extractor(four[:, :3].contiguous()).vectors)
    with pytest.raises(ValueError, match="Bx3xHxW"):
        extractor(four[:, :2])


def test_many_images_pass_in_chunks(extractor, monkeypatch):
    images = random_images(3, 3)
    whole = extractor(images)
    sizes = []
    monkeypatch.setattr(module, "CHUNK_IMAGES", 2)
    handle = extractor.network.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        features = extractor(images)
    finally:
        handle.remove()

    assert sizes == [2, 1]
    assert torch.allclose(features.vectors, whole.vectors, rtol=1e-4, atol=1e-5)
    assert torch.allclose(features.probabilities, whole.probabilities, rtol=1e-4)


def test_the_identity_names_the_protocol(extractor, weights):
    assert extractor.name == "inception-v3-compat"
    assert extractor.published
    assert extractor.facts == {
        "extractor": f"torch-fidelity {__version__} inception-v3-compat",
        "num_features": 2048,
        "layer": "2048",
        "logits": "logits_unbiased",
        "input": "uint8 RGB in 0..255; gray repeated, opacity left out",
        "resize": "bilinear to 299x299 as in TensorFlow 1 (align_corners=False, no antialiasing)",
        "weights_sha256": sha256_of(weights),
        "published_weights": False,
    }


def test_the_network_is_frozen(extractor):
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())
    extractor(random_images(1, 3))
    assert not any(layer.training for layer in extractor.network.modules())


def test_the_file_is_that_of_torch_fidelity():
    assert URL == feature_extractor_inceptionv3.URL_INCEPTION_V3
    assert URL.endswith(f"/{FILE_NAME}")
    assert FILE_NAME.endswith(f"-{SHA256[:8]}.pth")  # torch's convention: the name ends with its first digits


def test_other_weights_have_another_hash(extractor, weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    torch.save(state, tmp_path / "same.pth")
    state["fc.weight"][3, 5] += 0.001
    torch.save(state, tmp_path / "other.pth")
    same, other = (inception(weights=str(tmp_path / f"{name}.pth")) for name in ("same", "other"))

    assert same.hash == extractor.hash
    assert other.hash != extractor.hash
    assert other.facts["weights_sha256"] == sha256_of(tmp_path / "other.pth") != sha256_of(weights)


def test_weights_that_are_not_the_published_ones_are_a_warning(weights, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING):
        inception(weights=str(weights))
    assert f"{weights} is not the published file" in caplog.text

    caplog.clear()
    monkeypatch.setattr(module, "SHA256", sha256_of(weights))
    with caplog.at_level(logging.WARNING):
        assert inception(weights=str(weights)).facts["published_weights"]
    assert caplog.text == ""


def test_the_global_generator_is_untouched(weights):
    torch.manual_seed(1)
    state = torch.get_rng_state()

    inception(weights=str(weights))

    assert torch.equal(torch.get_rng_state(), state)


def test_a_path_may_start_at_home(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(weights.parent))

    assert inception(weights=f"~/{weights.name}").facts["weights_sha256"] == sha256_of(weights)


@pytest.mark.parametrize("name", ["gone.pth", ""])
def test_a_missing_file_is_refused_at_once(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # not even imported

    with pytest.raises(RunError) as caught:
        inception(weights=str(tmp_path / name))

    message = str(caught.value)
    assert message.startswith(f"evaluation.inception_weights={tmp_path / name}: there is no file")
    assert URL in message


class Code:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def other_network(weights: Path) -> object:
    return nn.Linear(2, 2).state_dict()


def without_a_layer(weights: Path) -> object:
    return {name: value for name, value in torch.load(weights, weights_only=True).items() if name != "fc.bias"}


@pytest.mark.parametrize("make", [other_network, without_a_layer, lambda weights: [1, 2], lambda weights: Code()])
def test_a_file_that_holds_something_else_is_refused(weights, tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "wrong.pth"
    torch.save(make(weights), path)

    with pytest.raises(RunError, match=r"wrong\.pth (does not hold the weights|was not loaded).*weights=PATH"):
        inception(weights=str(path))

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"<html>404</html>", None])
def test_a_damaged_file_is_refused(weights, tmp_path, content):
    path = tmp_path / "damaged.pth"
    path.write_bytes(weights.read_bytes()[:100_000] if content is None else content)

    with pytest.raises(RunError, match=r"damaged\.pth was not loaded.*weights=PATH"):
        inception(weights=str(path))


@pytest.mark.parametrize("given", [False, True])
def test_without_torch_fidelity_the_remedy_is_named(weights, hub_dir, monkeypatch, given):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)

    with pytest.raises(ConfigError, match=r"pip install 'gan_lab\[inception\]'"):
        inception(weights=str(weights) if given else None)

    assert not hub_dir.exists()


def test_importing_the_module_does_not_import_torch_fidelity():
    code = "import sys, gan_lab.features.inception; sys.exit('torch_fidelity' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_failed_download_names_the_file_and_the_key_and_leaves_nothing(hub_dir):
    with pytest.raises(RunError, match=r"getting them failed: .*no network in this test") as caught:
        inception()

    message = str(caught.value)
    assert URL in message
    assert "evaluation.inception_weights=PATH" in message
    assert str(hub_dir / FILE_NAME) in message
    assert isinstance(caught.value.__cause__, URLError)
    assert list(hub_dir.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_failed_download(hub_dir):
    hub_dir.parent.mkdir(parents=True)
    hub_dir.write_text("a file in the place of the folder")

    with pytest.raises(RunError, match="getting them failed"):
        inception()


def test_the_download_is_checked_cached_and_not_repeated(weights, hub_dir, monkeypatch, extractor):
    calls = []

    def download(url, target, hash_prefix, progress):
        calls.append((url, target, hash_prefix))
        shutil.copyfile(weights, target)

    made = sha256_of(weights)
    monkeypatch.setattr(module, "SHA256", made)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)

    for _ in range(2):
        result = inception()
        assert result.hash == extractor.hash
        assert result.facts["published_weights"]
    assert calls == [(URL, str(hub_dir / FILE_NAME), made)]


def test_a_damaged_cache_is_refused(weights, hub_dir):
    hub_dir.mkdir(parents=True)
    shutil.copyfile(weights, hub_dir / FILE_NAME)

    with pytest.raises(RunError, match=r"is damaged .*delete it") as caught:
        inception()

    assert str(hub_dir / FILE_NAME) in str(caught.value)
    assert sha256_of(weights) in str(caught.value)
