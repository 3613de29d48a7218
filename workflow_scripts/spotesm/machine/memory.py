"""How much memory of its host a job needs."""

from spotesm.weights.architectures import Architecture

# Python and CUDA, outputs of the batches in flight, a layer of float32, and room to spare.
BESIDE_WEIGHTS_MB = 8_000


def memory_of_job(architecture: Architecture, precision: str) -> int:
    """Return MB: of the mapped weights, which should stay in the system's cache, and all else.

    Args:
        precision: of the config; `auto` counts as 16 bits, as on GPUs.
    """
    width = 4 if precision == "float32" else 2
    return BESIDE_WEIGHTS_MB + architecture.parameters * width // 1_000_000
