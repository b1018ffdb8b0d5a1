import pytest
import torch

from gan_lab.metrics import distances
from gan_lab.metrics.distances import nearest, squared_distances


def integers(*shape: int, low: int = -9, high: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def whole(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """All blocks under each other; a block is overwritten by the next, hence the copies."""
    blocks = [(start, block.clone()) for start, block in squared_distances(rows, columns)]
    assert [start for start, _ in blocks] == [sum(len(b) for _, b in blocks[:i]) for i in range(len(blocks))]
    return torch.cat([block for _, block in blocks])


@pytest.mark.parametrize("offset", [0, 1_000, 1_000_000])
@pytest.mark.parametrize(("block_rows", "block_elements"), [(1024, 2**23), (7, 2**23), (1024, 40), (1024, 1)])
def test_against_whole_numbers(monkeypatch, offset, block_rows, block_elements):
    """Integers have exact squared distances; what is taken off is at most twice the stated bound, rounding included."""
    monkeypatch.setattr(distances, "BLOCK_ROWS", block_rows)
    monkeypatch.setattr(distances, "BLOCK_ELEMENTS", block_elements)
    rows, columns = integers(23, 5), integers(19, 5, seed=1)
    exact = (rows.unsqueeze(1) - columns).square().sum(dim=2)
    centre = columns.double().mean(dim=0)
    norms = (rows - centre).square().sum(dim=1, keepdim=True) + (columns - centre).square().sum(dim=1)
    got = whole(rows + offset, columns + offset)

    assert got.dtype == torch.float64
    # the mean of columns at 1e6 is rounded to 1e-10: the distances do not depend on the centre, only their bound does
    assert (got <= exact).all()
    assert (exact - got <= 2 * 4 * (5 + 2) * 2.3e-16 * norms).all()


def test_equal_samples_in_many_dimensions_are_not_above_zero():
    rows = torch.randn(50, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    assert (whole(rows + 100, rows + 100).diagonal() <= 0).all()


def test_a_sample_that_is_not_finite_spoils_only_its_own_distances():
    rows, columns = integers(4, 3).double(), integers(6, 3, seed=1).double()
    clean = whole(rows, columns[:5])
    rows[0, 0], columns[5, 1] = float("inf"), float("nan")
    got = whole(rows, columns)

    assert torch.equal(got[1:, :5], clean[1:])
    assert not got[0].isfinite().any()
    assert got[:, 5].isnan().all()


@pytest.mark.parametrize("k", [1, 3, 11])
@pytest.mark.parametrize("block_rows", [1024, 5])
def test_nearest_against_a_sorted_row(monkeypatch, k, block_rows):
    monkeypatch.setattr(distances, "BLOCK_ROWS", block_rows)
    points = integers(12, 2, low=0, high=3)  # few places: many duplicates and ties
    own = torch.arange(12)
    found, indices = nearest(points, points, k, skip=own)

    for i in range(12):
        row = [((points[i] - points[j]).double().norm().item(), j) for j in range(12) if j != i]
        assert found[i].tolist() == sorted(distance for distance, _ in row)[:k]
        assert i not in indices[i]
        assert len(set(indices[i].tolist())) == k
        assert [(points[i] - points[j]).double().norm().item() for j in indices[i]] == found[i].tolist()


def test_nearest_without_skip_finds_the_sample_itself():
    points = torch.randn(9, 40, generator=torch.Generator().manual_seed(0)) + 1000
    found, indices = nearest(points, points, 1)

    assert found.tolist() == [[0.0]] * 9
    assert indices[:, 0].tolist() == list(range(9))
