"""Freed memory stays with the process: counted by page faults, in a process without torch."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource, sys
from gan_lab.heap import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
size, num = int(sys.argv[1]), int(sys.argv[2])
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(size) for _ in range(num)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
@pytest.mark.parametrize(("size", "num"), [(100_000, 200), (8_000_000, 4)], ids=["many small blocks", "few large ones"])
def test_memory_that_is_used_again_is_not_fetched_again(size, num):
    """The page faults of the tenth time that the same 20 or 32 MB are taken, written to and freed."""
    command = [sys.executable, "-c", COUNT, str(size), str(num)]
    faults = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults < 0.05 * size * num / 4096
