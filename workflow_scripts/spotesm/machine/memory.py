"""How much memory of its host a job needs, and has."""

import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from spotesm.weights.architectures import Architecture

# Python and CUDA, outputs of the batches in flight, a layer of float32, and room to spare.
BESIDE_WEIGHTS_MB = 8_000
# Those of this process, and where all are (cgroups(7)).
GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
LIMITS = {1: "memory.limit_in_bytes", 2: "memory.max"}


def memory_of_job(architecture: Architecture, precision: str) -> int:
    """Return MB: of the mapped weights, which should stay in the system's cache, and all else.

    Args:
        precision: of the config; `auto` counts as 16 bits, as on GPUs.
    """
    width = 4 if precision == "float32" else 2
    return BESIDE_WEIGHTS_MB + architecture.parameters * width // 1_000_000


def memory_of_host() -> int:
    """Return the bytes of memory that this process may use: the machine's, or a limit below."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    limits = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    return min([psutil.virtual_memory().total, *limits, *_limits_of_groups()])


def _limits_of_groups() -> Iterator[int]:
    """Yield the limits of the control groups that this process is in, version 1 and 2."""
    own, root = GROUPS
    with suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            tree, file = (root / "memory", LIMITS[1]) if controllers else (root, LIMITS[2])
            for folder in (Path(group), *Path(group).parents):
                with suppress(OSError, ValueError):  # the root has none; `max` is no number
                    limit = tree / str(folder).strip("/") / file
                    yield int(limit.read_text(encoding="utf-8"))
