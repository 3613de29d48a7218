"""Memory that a process frees and takes again: on a CPU each layer does, for all that it makes."""

import ctypes

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER, NONE = -1, 0


def keep_freed_memory() -> None:
    """Let the process keep what it frees, instead of getting it anew from the system, page by page.

    For the rest of its life. Its peak may grow by some of its largest blocks, until what was freed
    fits what is taken. Without glibc nothing changes.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_MAX, NONE)
        mallopt(M_TRIM_THRESHOLD, NEVER)
