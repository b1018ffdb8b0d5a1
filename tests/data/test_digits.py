import torch
from sklearn.datasets import load_digits

from gan_lab.data.digits import digits

CLASS_COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_all_digits_are_uint8_images_of_the_stored_levels():
    data = digits(split="all")

    assert data.samples.shape == (1797, 1, 8, 8)
    assert data.samples.dtype == torch.uint8
    assert data.labels is not None
    assert data.labels.dtype == torch.int64
    assert data.labels.bincount().tolist() == CLASS_COUNTS
    assert data.classes == tuple("0123456789")
    assert data.modes is None
    # The first picture starts with the levels 0 0 5 13 9 1 0 0: 5 * 255 / 16 = 79.7, 13 -> 207.2, 9 -> 143.4, 1 -> 15.9
    assert data.samples[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    stored = load_digits().images
    assert sorted(set(data.samples.flatten().tolist())) == [round(level * 255 / 16) for level in range(17)]
    assert torch.equal(data.samples[:, 0] == 255, torch.from_numpy(stored == 16))


def test_the_default_split_is_train():
    assert torch.equal(digits().samples, digits(split="train").samples)


def test_the_splits_hold_out_the_last_fifth_of_each_class():
    everything, train, test = digits(split="all"), digits(split="train"), digits(split="test")

    assert len(train.samples) == 1442
    assert len(test.samples) == 355
    assert test.labels.bincount().tolist() == [count // 5 for count in CLASS_COUNTS]
    for label in range(10):
        of_class = everything.samples[everything.labels == label]
        assert torch.equal(
            of_class, torch.cat([train.samples[train.labels == label], test.samples[test.labels == label]])
        )


def test_digits_are_resized_on_request():
    data = digits(image_size=32, split="test")

    assert data.samples.shape == (355, 1, 32, 32)
    assert data.samples.dtype == torch.uint8
    assert abs(data.samples.float().mean() - digits(split="test").samples.float().mean()) < 3
