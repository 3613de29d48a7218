"""The models there are, and their shapes; the table alone, so that whoever asks loads no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """The shape of a model, and which family's arithmetic it has."""

    layers: int
    embedding_dim: int
    attention_heads: int
    family: str = "esm2"
    has_regression: bool = True


# Lin et al. 2023, Science 379:1123; Rives et al. 2021, PNAS 118:e2016239118 (ESM-1b); Meier et al.
# 2021, NeurIPS (ESM-1v). The names are fair-esm's.
ARCHITECTURES = {
    "esm2_t6_8M_UR50D": Architecture(6, 320, 20),
    "esm2_t12_35M_UR50D": Architecture(12, 480, 20),
    "esm2_t30_150M_UR50D": Architecture(30, 640, 20),
    "esm2_t33_650M_UR50D": Architecture(33, 1280, 20),
    "esm2_t36_3B_UR50D": Architecture(36, 2560, 40),
    "esm2_t48_15B_UR50D": Architecture(48, 5120, 40),
    "esm1b_t33_650M_UR50S": Architecture(33, 1280, 20, "esm1"),
    **{
        f"esm1v_t33_650M_UR90S_{i}": Architecture(33, 1280, 20, "esm1", has_regression=False)
        for i in range(1, 6)
    },
}
