"""The models there are, and their shapes; the table alone, so that whoever asks loads no torch."""

import math
from dataclasses import dataclass

from spotesm.sequences.alphabet import VOCABULARY_SIZE


@dataclass(frozen=True)
class Architecture:
    """The shape of a model, and which family's arithmetic it has."""

    layers: int
    embedding_dim: int
    attention_heads: int
    family: str = "esm2"
    has_regression: bool = True

    @property
    def parameters(self) -> int:
        """The numbers in all tensors that such a model may have."""
        return sum(map(math.prod, tensor_shapes(self).values()))


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

ESM1_POSITIONS = 1024  # learned, BOS and EOS included

LM_HEAD = tuple(
    f"lm_head.{name}"
    for name in (
        "weight",
        "bias",
        "dense.weight",
        "dense.bias",
        "layer_norm.weight",
        "layer_norm.bias",
    )
)
REGRESSION = ("contact_head.regression.weight", "contact_head.regression.bias")
NORM_BEFORE = ("emb_layer_norm_before.weight", "emb_layer_norm_before.bias")
POSITIONS = "embed_positions.weight"
# Of the rotary embedding: one for all layers, though fair-esm's files repeat it in each.
FREQUENCIES = "rot_emb.inv_freq"
# What a model may lack, each group as a whole.
OPTIONAL = (LM_HEAD, REGRESSION, NORM_BEFORE, (FREQUENCIES,))


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that such a model may have, by fair-esm's names."""
    dim, heads = architecture.embedding_dim, architecture.attention_heads
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (VOCABULARY_SIZE, dim)}

    def add(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    for number in range(architecture.layers):
        layer = f"layers.{number}"
        for part in ("q", "k", "v", "out"):
            add(f"{layer}.self_attn.{part}_proj", dim, dim)
        add(f"{layer}.self_attn_layer_norm", dim)
        add(f"{layer}.fc1", 4 * dim, dim)
        add(f"{layer}.fc2", dim, 4 * dim)
        add(f"{layer}.final_layer_norm", dim)
    add("emb_layer_norm_after", dim)
    add("lm_head", VOCABULARY_SIZE, dim)
    add("lm_head.dense", dim, dim)
    add("lm_head.layer_norm", dim)
    add("contact_head.regression", 1, architecture.layers * heads)
    if architecture.family == "esm1":
        # fair-esm numbers positions from behind that of the padding.
        shapes[POSITIONS] = (ESM1_POSITIONS + 2, dim)
        add("emb_layer_norm_before", dim)
    else:
        shapes[FREQUENCIES] = (dim // heads // 2,)
    return shapes
