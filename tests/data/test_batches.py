"""Real batches: every sample once an epoch, from any counter on, split over processes."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor

from gan_lab.data import as_training_input
from gan_lab.data.batches import EpochOrder, RealBatches, SeveralCycles, one_ahead


def batches(samples: Tensor, **settings) -> RealBatches:
    settings = {
        "batch_size": 4,
        "num_batches": 1,
        "start_images": 0,
        "seed": 0,
        "device": torch.device("cpu"),
        "device_bytes": 2**30,
        **settings,
    }
    return RealBatches(samples, **settings)


def numbered(num: int) -> Tensor:
    """Points that tell their own index."""
    return torch.arange(num, dtype=torch.float32)[:, None].repeat(1, 2)


def shown(iterable: RealBatches, cycles: int) -> list[int]:
    return [int(index) for batch in islice(iterable, cycles) for index in batch[:, 0]]


@pytest.mark.parametrize("num", [1, 2, 12, 101])
def test_each_epoch_shows_each_sample_once_in_an_order_of_its_own(num):
    order = EpochOrder(num, seed=0)
    epochs = [order(epoch * num, (epoch + 1) * num).tolist() for epoch in range(3)]

    for epoch in epochs:
        assert sorted(epoch) == list(range(num))
    if num > 2:
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
        assert epochs[0] != list(range(num))


def test_the_order_is_a_function_of_seed_and_epoch():
    first = EpochOrder(50, seed=3)(0, 500)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = EpochOrder(50, seed=3)
    again(420, 430)  # out of order

    assert torch.equal(again(0, 500), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(EpochOrder(50, seed=4)(0, 50), first[:50])


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 10), (3, 7), (9, 11), (10, 20), (15, 45), (37, 38), (5, 100)])
def test_any_stretch_is_the_slice_of_the_whole_order(start, stop):
    whole = EpochOrder(10, seed=0)(0, 100)

    assert torch.equal(EpochOrder(10, seed=0)(start, stop), whole[start:stop])


@pytest.mark.parametrize(("num", "batch_size", "num_batches"), [(100, 4, 1), (10, 4, 1), (10, 4, 5), (3, 8, 2)])
def test_batches_follow_the_order_across_epochs_even_of_sets_smaller_than_a_batch(num, batch_size, num_batches):
    iterable = batches(numbered(num), batch_size=batch_size, num_batches=num_batches, seed=5)
    cycle = batch_size * num_batches

    assert shown(iterable, 7) == EpochOrder(num, seed=5)(0, 7 * cycle).tolist()


@pytest.mark.parametrize("cycles_before", [1, 2, 5, 13])
def test_a_resumed_run_sees_what_the_whole_run_would_have(cycles_before):
    settings = {"batch_size": 4, "num_batches": 2}
    whole = shown(batches(numbered(10), **settings), 20)
    resumed = shown(batches(numbered(10), **settings, start_images=8 * cycles_before), 20 - cycles_before)

    assert resumed == whole[8 * cycles_before :]


def test_several_cycles_at_once_are_the_same_batches_one_after_the_other():
    several = iter(SeveralCycles(batches(numbered(20), batch_size=4), 3))
    one_by_one = iter(batches(numbered(20), batch_size=4))
    for _ in range(4):
        found = list(next(several))
        assert len(found) == 3
        for batch in found:
            assert torch.equal(batch, next(one_by_one))


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_processes_together_see_each_global_batch(world_size):
    settings = {"batch_size": 8, "num_batches": 3, "seed": 2}
    whole = next(iter(batches(numbered(50), **settings))).view(3, 8, 2)
    local = [
        next(iter(batches(numbered(50), **settings, rank=rank, world_size=world_size))).view(3, 8 // world_size, 2)
        for rank in range(world_size)
    ]

    assert torch.equal(torch.cat(local, dim=1), whole)


def test_images_become_floats_from_minus_one_to_one_exactly():
    samples = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    result = as_training_input(samples)

    assert result.dtype == torch.float32
    assert result.shape == (256, 1, 1, 1)
    assert result[0].item() == -1
    assert result[255].item() == 1
    expected = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    assert (result.flatten().double() - expected).abs().max() < 1e-7
    assert torch.equal(samples.flatten(), torch.arange(256, dtype=torch.uint8))


def test_points_stay_as_they_are_and_the_data_is_not_overwritten():
    samples = torch.randn(20, 2) * 100
    before = samples.clone()
    order = EpochOrder(20, seed=0)(0, 4)
    batch = next(iter(batches(samples)))

    assert torch.equal(batch, samples[order])
    batch.zero_()
    assert torch.equal(samples, before)


def test_images_arrive_as_floats_and_the_data_is_not_overwritten():
    samples = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)
    before = samples.clone()
    batch = next(iter(batches(samples, num_batches=2)))

    assert torch.equal(batch, samples[EpochOrder(20, seed=0)(0, 8)].float() / 127.5 - 1)
    assert torch.equal(samples, before)


def test_where_the_data_lives_changes_no_batch():
    samples = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8)
    resident, streamed = batches(samples, device_bytes=320), batches(samples, device_bytes=319)

    for one, other in islice(zip(resident, streamed, strict=True), 7):
        assert torch.equal(one, other)


def test_too_much_data_for_the_device_stays_in_host_memory():
    samples = torch.zeros(20, 1, 4, 4, dtype=torch.uint8)
    meta = torch.device("meta")

    assert batches(samples, device=meta, device_bytes=320).samples.device.type == "meta"
    assert batches(samples, device=meta, device_bytes=319).samples.device.type == "cpu"


def test_the_next_cycle_is_gathered_while_this_one_is_used():
    started = [threading.Event() for _ in range(3)]

    def items() -> Iterator[Tensor]:
        for number, event in enumerate(started):
            event.set()
            yield torch.tensor(number)

    ahead = one_ahead(items())
    assert int(next(ahead)) == 0
    assert started[1].wait(timeout=60)  # nobody has asked for it
    assert int(next(ahead)) == 1


def test_what_fails_in_the_thread_fails_in_the_loop():
    def items() -> Iterator[Tensor]:
        yield torch.tensor(0)
        raise OSError("the disk is gone")

    ahead = one_ahead(items())
    next(ahead)
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


LARGER_THAN_MEMORY = """
import resource, sys
from itertools import islice
import numpy, torch
from gan_lab.data.batches import RealBatches

path, way = sys.argv[1:]
stored = numpy.lib.format.open_memmap(path, mode="w+", dtype="uint8", shape=(2**19, 1, 64, 64))  # 2 GiB, of holes
stored[-1] = 255
samples = torch.from_numpy(numpy.load(path, mmap_mode="c"))  # not "r", of which torch warns
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
limit = used * 1024 + 2**29
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
if way == "copied":
    samples = samples.clone()
batches = RealBatches(
    samples, batch_size=64, num_batches=1, start_images=0, seed=0, device=torch.device("cpu"), device_bytes=2**20
)
print(sum(len(batch) for batch in islice(batches, 200)), float(batches.samples[-1].float().mean()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA and /proc are Linux's")
@pytest.mark.parametrize("way", ["mapped", "copied"])
def test_a_set_larger_than_the_memory_that_is_left_is_read(tmp_path, way):
    command = [sys.executable, "-c", LARGER_THAN_MEMORY, str(tmp_path / "images.npy"), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if way == "copied":  # the limit is real
        assert done.returncode != 0
        assert "memory" in done.stderr.lower()
    else:
        assert done.stdout.split() == ["12800", "255.0"], done.stderr
