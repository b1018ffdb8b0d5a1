"""The published Inception-v3 features, by torch-fidelity: those whose distances are called FID and KID.

torch-fidelity is an optional dependency: it is imported only when ``inception`` is called.
"""

import hashlib
import logging
import socket
import warnings
from pathlib import Path

import torch
from torch import Tensor, hub, nn

from gan_lab.errors import ConfigError, RunError
from gan_lab.features import Extractor

log = logging.getLogger(__name__)

NAME = "inception-v3-compat"
LAYERS = ("2048", "logits_unbiased")
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
DOWNLOAD_TIMEOUT_SECONDS = 30.0  # without an answer; torch sets none, and a silent firewall would hang the run
CHUNK_IMAGES = 64  # torch-fidelity's own; at 299x299 pixels the largest layer alone takes 5.5 MB for an image
SET_WEIGHTS = f"get {URL} (96 MB, SHA-256 {SHA256}) and set evaluation.inception_weights=PATH to where it lies"


def inception(*, weights: str | None = None) -> Extractor:
    """The Inception-v3 of the FID (Heusel et al. 2017), with TensorFlow's weights of 2015-12-05, by torch-fidelity.

    The network takes uint8 images (N, C, H, W) of any size: gray ones are repeated to RGB, of RGB and opacity the
    first three channels count. They are resized to 299x299 by TensorFlow 1's bilinear rule (no antialiasing, corner
    pixels not aligned) and scaled to (x - 128) / 128. It returns the pooled layer of 2048 features (N, 2048), and the
    1008 logits without bias of the Inception Score (N, 1008).
    weights: the file that torch-fidelity downloads, on this machine. None: the one in torch's hub cache (TORCH_HOME),
        downloaded once. Another file of the same network is used with a warning, for its distances are not the
        published ones: ``facts["published_weights"]`` is False.

    Raises ConfigError without torch-fidelity; RunError when the weights are not there, or cannot be got or read.
    """
    given = None if weights is None else Path(weights).expanduser().absolute()
    if given is not None and not given.is_file():
        raise RunError(f"evaluation.inception_weights={weights}: there is no file {given}; {SET_WEIGHTS}")
    try:
        from torch_fidelity import FeatureExtractorInceptionV3, __version__
    except ImportError as error:
        raise ConfigError("The Inception features need torch-fidelity: pip install 'gan_lab[inception]'") from error

    path = _downloaded() if given is None else given
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    if sha256 != SHA256:
        if given is None:
            raise RunError(f"{path} is damaged (its SHA-256 is {sha256}, not {SHA256}); delete it, or {SET_WEIGHTS}")
        log.warning(f"{path} is not the published file (SHA-256 {SHA256}): do not call its distances FID or KID")
        _check_data_only(path)

    try:
        with torch.random.fork_rng(devices=[]):  # its layers draw first values, which the file then replaces
            network = FeatureExtractorInceptionV3(NAME, list(LAYERS), feature_extractor_weights_path=str(path))
    except Exception as error:  # torch reports damage and other networks' weights through many types
        raise RunError(
            f"{path} does not hold the weights of torch-fidelity's Inception-v3 ({type(error).__name__}); {SET_WEIGHTS}"
        ) from error
    facts = {
        "extractor": f"torch-fidelity {__version__} {NAME}",
        "num_features": 2048,
        "layer": LAYERS[0],
        "logits": LAYERS[1],
        "input": "uint8 RGB in 0..255; gray repeated, opacity left out",
        "resize": "bilinear to 299x299 as in TensorFlow 1 (align_corners=False, no antialiasing)",
        "weights_sha256": sha256,
        "published_weights": sha256 == SHA256,
    }
    return Extractor(NAME, _AnyChannels(network), facts, published=True)


class _AnyChannels(nn.Module):
    """uint8 images (N, C, H, W) with C = 1, 3 or 4 -> features (N, 2048), logits (N, 1008); in chunks."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]
        chunks = [self.network(chunk) for chunk in rgb.split(CHUNK_IMAGES)]
        vectors, logits = zip(*chunks, strict=True)
        return torch.cat(vectors), torch.cat(logits)


def _downloaded() -> Path:
    """The file in torch's hub cache, where torch-fidelity too looks for it; downloaded, and then checked, if needed."""
    path = Path(hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    log.info("downloading %s to %s", URL, path)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download_url_to_file(URL, str(path), hash_prefix=SHA256, progress=False)
    except Exception as error:  # urllib, http, ssl and torch each have their own types; the cause is chained
        reason = str(error).strip() or type(error).__name__
        raise RunError(
            f"Inception's weights are not in {path}, and getting them failed: {reason}\n"
            f"On a machine with network access, {SET_WEIGHTS}; or copy it to {path.parent}."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return path


def _check_data_only(path: Path) -> None:
    """Refuse a file with code in it: torch-fidelity would run it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of some pickles before it refuses them
            torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(
            f"{path} was not loaded: it is damaged, or holds other things than tensors ({type(error).__name__}); "
            f"{SET_WEIGHTS}"
        ) from error
