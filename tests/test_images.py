"""Pictures: every pixel where and what it should be."""

import math

import pytest
import torch
from PIL import Image

from gan_lab.data import as_training_input
from gan_lab.images import image_grid, save_png, scatter_plot, to_uint8

LINE = 40


def test_rounding_and_clamping():
    values = torch.tensor([-1.0, 1.0, 0.0, -2.0, 3.0, math.inf, -math.inf, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1])

    assert to_uint8(values.view(-1, 1, 1, 1)).flatten().tolist() == [0, 255, 128, 0, 255, 255, 0, 0, 1]


def test_every_byte_survives_the_way_to_floats_and_back():
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)

    assert torch.equal(to_uint8(as_training_input(bytes_)), bytes_)


def test_to_uint8_leaves_its_argument_alone():
    images = torch.full((1, 1, 2, 2), 0.5)
    to_uint8(images)

    assert (images == 0.5).all()


SIDES = [(8, 7), (9, 7), (14, 4), (16, 4), (28, 2), (32, 2), (55, 2), (56, 1), (64, 1), (128, 1)]


@pytest.mark.parametrize(("side", "factor"), SIDES)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_has_its_place_in_the_grid(side, factor, channels):
    values = torch.randperm(256)[: 5 * channels].to(torch.uint8).view(5, channels, 1, 1)
    grid = image_grid(values.expand(5, channels, side, side), columns=3)
    tile = side * factor

    assert grid.dtype == torch.uint8
    assert grid.shape == (channels, 2 * (tile + 2) + 2, 3 * (tile + 2) + 2)
    covered = torch.zeros(grid.shape[1:], dtype=torch.bool)
    for index, value in enumerate(values):
        top, left = 2 + index // 3 * (tile + 2), 2 + index % 3 * (tile + 2)
        assert (grid[:, top : top + tile, left : left + tile] == value).all()
        covered[top : top + tile, left : left + tile] = True
    assert (grid[:, ~covered] == LINE).all()


@pytest.mark.parametrize(("side", "factor"), [pair for pair in SIDES if pair[1] % 2 == 1])
def test_a_pixel_keeps_its_value_in_the_middle_of_where_it_is_enlarged(side, factor):
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    grid = image_grid(images, columns=2)

    middle = factor // 2
    for index, image in enumerate(images):
        left = 2 + index * (side * factor + 2)
        tile = grid[:, 2 : 2 + side * factor, left : left + side * factor]
        assert torch.equal(tile[:, middle::factor, middle::factor], image)


@pytest.mark.parametrize(("side", "factor"), [pair for pair in SIDES if pair[1] > 1])
def test_between_two_pixels_the_enlarged_picture_goes_smoothly(side, factor):
    slope = 256 // side
    ramp = (torch.arange(side) * slope).to(torch.uint8).expand(1, 1, side, side)
    tile = image_grid(ramp, columns=1)[0, 2:-2, 2:-2].double()
    expected = ((torch.arange(side * factor) + 0.5) / factor - 0.5) * slope
    inside = slice(2 * factor, -2 * factor)  # away from the edges, which repeat the last pixel

    assert ((tile - expected)[:, inside]).abs().max() <= 0.5 + slope * 0.1
    assert (tile[:, 1:] >= tile[:, :-1])[:, inside].all()


def test_images_need_not_be_square():
    grid = image_grid(torch.zeros(2, 1, 8, 28, dtype=torch.uint8), columns=2)

    assert grid.shape == (1, 8 * 2 + 4, 2 * (28 * 2 + 2) + 2)


@pytest.mark.parametrize(("channels", "kept"), [(1, 1), (2, 1), (3, 3), (4, 3), (7, 3)])
def test_a_picture_has_one_or_three_channels(channels, kept):
    images = torch.randint(0, 256, (1, channels, 64, 64), dtype=torch.uint8)
    grid = image_grid(images, columns=1)

    assert torch.equal(grid[:, 2:66, 2:66], images[0, :kept])


def test_points_lie_where_they_are_with_the_first_axis_to_the_right_and_the_second_up():
    modes = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    points = torch.tensor([[1.0, -1.0], [0.0, 0.5]])
    picture = scatter_plot(points, modes, std=0.01, side=270)

    assert picture.shape == (3, 270, 270)
    assert picture.dtype == torch.uint8
    blue = (picture == torch.tensor([30, 90, 180], dtype=torch.uint8)[:, None, None]).all(dim=0)
    # 100 pixels a unit around (135, 135): the reach is 1.35
    for x, y in ((235, 235), (135, 85)):
        assert blue[y, x]
        blue[y - 3 : y + 4, x - 3 : x + 4] = False
    assert not blue.any()
    red = (picture == torch.tensor([220, 60, 30], dtype=torch.uint8)[:, None, None]).all(dim=0)
    for x, y in ((35, 235), (235, 35)):
        assert red[y - 6 : y + 7, x - 6 : x + 7].any()
        red[y - 6 : y + 7, x - 6 : x + 7] = False
    assert not red.any()


def test_a_true_centre_is_a_circle_of_three_standard_deviations():
    modes = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    picture = scatter_plot(torch.empty(0, 2), modes, std=0.1, side=270)
    red = (picture == torch.tensor([220, 60, 30], dtype=torch.uint8)[:, None, None]).all(dim=0)
    rows, columns = torch.where(red[:135])

    assert abs(int(columns.min()) - 205) <= 1
    assert abs(int(columns.max()) - 265) <= 1
    assert abs(int(rows.min()) - 5) <= 1
    assert abs(int(rows.max()) - 65) <= 1


def test_points_without_modes_fit_into_the_picture():
    picture = scatter_plot(torch.tensor([[100.0, 7.0], [300.0, 9.0]]), None, None, side=270)

    assert (picture[0] == 30).sum() > 10


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_png_holds_the_picture(tmp_path, channels, mode):
    picture = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    save_png(picture, tmp_path / "new" / "picture.png")

    with Image.open(tmp_path / "new" / "picture.png") as image:
        assert image.mode == mode
        assert image.size == (7, 5)
        stored = torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(5, 7, channels)
    assert torch.equal(stored.permute(2, 0, 1), picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]
