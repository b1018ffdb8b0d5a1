"""How the C library deals with memory that is freed: it goes on belonging to the process."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc's own limit


def keep_freed_memory() -> None:
    """Memory that is freed is used again, not given back to the system; without effect where glibc is not in use.

    Each cycle frees what it needed, and needs as much in the next one. glibc gives the end of its heap back whenever
    enough of it is free, and the system hands it out anew page by page, filled with zeros: hundreds of page faults a
    cycle, 3 to 8 % of the quickstart's time. Blocks above 32 MiB are the system's as before.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # Either of them also ends glibc's own tuning of both.
        mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
