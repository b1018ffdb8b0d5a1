import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from gan_lab.data import decode
from gan_lab.data.decode import chunks_of, decode_files, decode_images, is_gray
from gan_lab.errors import RunError


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def colour_of(path: Path, channels: int) -> list[int]:
    """The one colour of a decoded image."""
    decoded = decode_images([path], image_size=8, channels=channels)
    assert decoded.shape == (1, channels, 8, 8)
    assert decoded.dtype == torch.uint8
    assert torch.equal(decoded, decoded[:, :, :1, :1].expand_as(decoded))
    return decoded[0, :, 0, 0].tolist()


# Gray by ITU-R 601: 0.299 R + 0.587 G + 0.114 B, so (200, 100, 0) is 118.5 and pure red 76.2.
@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "gray", "rgb"),
    [
        ("1", 1, ".png", 255, [255, 255, 255]),
        ("L", 130, ".png", 130, [130, 130, 130]),
        ("LA", (0, 102), ".png", 153, [153, 153, 153]),  # black of opacity 0.4 on white
        ("RGB", (200, 100, 0), ".png", 118, [200, 100, 0]),
        ("RGBA", (255, 0, 0, 0), ".png", 255, [255, 255, 255]),
        ("RGBA", (255, 0, 0, 51), ".png", 219, [255, 204, 204]),  # 255 - 0.2 * 255 = 204
        ("CMYK", (0, 255, 255, 0), ".tif", 76, [255, 0, 0]),
        ("I;16", 257 * 90, ".png", 90, [90, 90, 90]),
        ("I;16", 65535, ".tif", 255, [255, 255, 255]),
        ("I", 257 * 90, ".tif", 90, [90, 90, 90]),
    ],
)
def test_every_mode_becomes_gray_or_rgb(tmp_path, mode, colour, suffix, gray, rgb):
    path = save(tmp_path / f"image{suffix}", Image.new(mode, (13, 11), colour))

    assert colour_of(path, 1) == [pytest.approx(gray, abs=1)]
    assert colour_of(path, 3) == pytest.approx(rgb, abs=1)


def test_sixteen_bits_map_linearly_and_not_by_their_own_range(tmp_path):
    values = np.linspace(0, 20_000, 64).astype(np.uint16).reshape(8, 8)
    path = save(tmp_path / "dark.png", Image.fromarray(values))

    decoded = decode_images([path], image_size=8, channels=1)

    assert np.array_equal(decoded[0, 0].numpy(), np.round(values / 257))


def test_gray_values_are_exact_in_one_channel(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    opaque = Image.merge("LA", [Image.fromarray(values), Image.new("L", (16, 16), 255)])
    paths = [save(tmp_path / "l.png", Image.fromarray(values)), save(tmp_path / "la.png", opaque)]

    decoded = decode_images(paths, image_size=16, channels=1)

    assert np.array_equal(decoded[0, 0].numpy(), values)
    assert np.array_equal(decoded[1, 0].numpy(), values)


def test_a_palette_becomes_its_colours_and_its_transparent_entry_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    opaque = save(tmp_path / "opaque.png", image)
    clear = save(tmp_path / "clear.png", image, transparency=1)
    clear_by_bytes = save(tmp_path / "bytes.png", image, transparency=bytes([255, 0]))

    assert colour_of(opaque, 3) == [10, 20, 30]
    assert colour_of(clear, 3) == [255, 255, 255]
    assert colour_of(clear_by_bytes, 3) == [255, 255, 255]


def test_four_channels_keep_the_opacity(tmp_path):
    assert colour_of(save(tmp_path / "rgba.png", Image.new("RGBA", (8, 8), (1, 2, 3, 51))), 4) == [1, 2, 3, 51]
    assert colour_of(save(tmp_path / "la.png", Image.new("LA", (8, 8), (7, 51))), 4) == [7, 7, 7, 51]
    assert colour_of(save(tmp_path / "rgb.png", Image.new("RGB", (8, 8), (1, 2, 3))), 4) == [1, 2, 3, 255]


def test_the_colour_of_transparent_pixels_does_not_bleed(tmp_path):
    image = Image.new("RGBA", (64, 64), (0, 0, 255, 0))
    image.paste((200, 0, 0, 255), (0, 0, 30, 64))

    decoded = decode_images([save(tmp_path / "half.png", image)], image_size=8, channels=4)[0]

    visible = decoded[3] > 20
    assert decoded[3].unique().tolist() != [0, 255]  # the edge is half transparent
    assert (decoded[0][visible].int() - 200).abs().max() <= 8
    assert decoded[2][visible].max() <= 5


def test_the_centre_is_kept(tmp_path):
    pixels = np.zeros((20, 10, 3), dtype=np.uint8)
    pixels[5:15] = [10, 20, 30]

    assert colour_of(save(tmp_path / "tall.png", Image.fromarray(pixels)), 3) == [10, 20, 30]
    wide = Image.fromarray(pixels.transpose(1, 0, 2))
    assert colour_of(save(tmp_path / "wide.png", wide), 3) == [10, 20, 30]


def test_resizing_down_is_antialiased(tmp_path):
    lines = np.zeros((64, 64), dtype=np.uint8)
    lines[:, ::8] = 255  # every eighth column: 8 samples without a filter would see all or nothing

    decoded = decode_images([save(tmp_path / "lines.png", Image.fromarray(lines))], image_size=8, channels=1)

    assert (decoded[..., 1:-1].float() - 255 / 8).abs().max() < 2  # without the first and last, where the filter is cut


def test_the_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[:8] = 200  # bright above, as stored
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees: to be seen bright below

    decoded = decode_images(
        [save(tmp_path / "turned.png", Image.fromarray(pixels), exif=exif)], image_size=16, channels=1
    )

    assert decoded[0, 0, 0, 0] == 0
    assert decoded[0, 0, 15, 0] == 200


def test_the_order_is_that_of_the_paths_over_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "CHUNK_FILES", 3)
    paths = [save(tmp_path / f"{value}.png", Image.new("L", (8, 8), value)) for value in range(20)]

    decoded = decode_images(paths, image_size=8, channels=1)

    assert decoded[:, 0, 0, 0].tolist() == list(range(20))
    assert decode_images(paths[::-1], image_size=8, channels=1)[:, 0, 0, 0].tolist() == list(range(20))[::-1]


def test_progress_is_shown_in_images(tmp_path, monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            bars.append(self)

    monkeypatch.setattr(decode, "tqdm", Bar)
    monkeypatch.setattr(decode, "CHUNK_FILES", 3)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    paths = [save(tmp_path / f"{value}.png", Image.new("L", (8, 8), value)) for value in range(10)]

    decode_images(paths, image_size=8, channels=1)
    stored, finished = [], []
    decode_files(
        paths,
        chunks_of(10)[2:],  # the first six are there
        image_size=8,
        channels=1,
        store=lambda index, picture: stored.append((index, int(picture[0, 0, 0]))),
        finished=finished.append,
    )

    assert [(bar.initial, bar.n, bar.total, bar.unit) for bar in bars] == [
        (0, 10, 10, " images"),
        (6, 10, 10, " images"),
    ]
    assert sorted(stored) == [(value, value) for value in range(6, 10)]
    assert finished == [range(6, 9), range(9, 10)]


def test_all_broken_files_are_named_together(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    good = save(tmp_path / "good.png", Image.fromarray(noise))
    empty, text, gone, floating = (tmp_path / name for name in ("empty.png", "text.jpg", "gone.png", "floating.tif"))
    empty.touch()
    text.write_text("not an image")
    save(floating, Image.new("F", (8, 8), 0.5))
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(good.read_bytes()[:5000])
    large = save(tmp_path / "large.tif", Image.new("I", (8, 8), 70_000))

    with pytest.raises(RunError) as caught:
        decode_images([good, empty, text, gone, floating, truncated, large], image_size=8, channels=3)

    message = str(caught.value)
    assert message.startswith("6 of 7 image files cannot be read")
    assert f"{empty}: the file is empty" in message
    assert f"{text}: not an image" in message
    assert f"{gone}: no such file" in message
    assert f"{floating}: ValueError: floating-point pixels" in message
    assert f"{truncated}: OSError" in message
    assert f"{large}: ValueError: integer pixels outside of 0..65535" in message
    assert str(good) not in message


def test_ten_broken_files_are_listed_and_the_rest_counted(tmp_path):
    paths = [tmp_path / f"{index:02}.png" for index in range(13)]

    with pytest.raises(RunError) as caught:
        decode_images(paths, image_size=8, channels=1)

    message = str(caught.value)
    assert message.startswith("13 of 13 image files")
    assert [str(path) in message for path in paths] == [True] * 10 + [False] * 3
    assert message.endswith("and 3 more")


@pytest.mark.parametrize(
    ("mode", "gray"),
    [("1", True), ("L", True), ("LA", True), ("I;16", True), ("P", False), ("RGB", False), ("RGBA", False)],
)
def test_gray_is_decided_by_the_mode(tmp_path, mode, gray):
    assert is_gray(save(tmp_path / "image.png", Image.new(mode, (8, 8)))) is gray


def test_a_broken_file_does_not_decide_about_gray(tmp_path):
    (tmp_path / "broken.png").write_text("not an image")

    assert is_gray(tmp_path / "broken.png")
    assert is_gray(tmp_path / "gone.png")
