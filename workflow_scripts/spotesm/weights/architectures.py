"""The models there are, their families and shapes; tables alone, which load no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from spotesm.sequences.alphabet import VOCABULARY_SIZE

PACKED, REFERENCE = "packed", "reference"  # engines
Shapes = dict[str, tuple[int, ...]]

# -- tensors ---------------------------------------------------------------------------------------

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

ESM1_POSITIONS = 1024  # learned, BOS and EOS included
ROTARY_BASE = 10_000  # of all others, whose positions turn features


def _affine(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _lm_head(dim: int, vocabulary: int) -> Shapes:
    return {
        **_affine("lm_head", vocabulary, dim),
        **_affine("lm_head.dense", dim, dim),
        **_affine("lm_head.layer_norm", dim),
    }


def _esm2_shapes(shape: "Architecture") -> Shapes:
    dim, heads, hidden = shape.embedding_dim, shape.attention_heads, shape.feed_forward_dim
    shapes: Shapes = {"embed_tokens.weight": (shape.traits.vocabulary, dim)}
    for number in range(shape.layers):
        layer = f"layers.{number}"
        for part in ("q", "k", "v", "out"):
            shapes |= _affine(f"{layer}.self_attn.{part}_proj", dim, dim)
        shapes |= _affine(f"{layer}.self_attn_layer_norm", dim)
        shapes |= _affine(f"{layer}.fc1", hidden, dim)
        shapes |= _affine(f"{layer}.fc2", dim, hidden)
        shapes |= _affine(f"{layer}.final_layer_norm", dim)
    shapes |= _affine("emb_layer_norm_after", dim)
    shapes |= _lm_head(dim, shape.traits.vocabulary)
    shapes |= _affine("contact_head.regression", 1, shape.layers * heads)
    return shapes | {FREQUENCIES: (dim // heads // 2,)}


def _esm1_shapes(shape: "Architecture") -> Shapes:
    shapes = _esm2_shapes(shape)
    del shapes[FREQUENCIES]
    # fair-esm numbers positions from behind that of the padding.
    shapes[POSITIONS] = (ESM1_POSITIONS + 2, shape.embedding_dim)
    return shapes | _affine("emb_layer_norm_before", shape.embedding_dim)


def _esmc_shapes(shape: "Architecture") -> Shapes:
    dim, hidden = shape.embedding_dim, shape.feed_forward_dim
    shapes: Shapes = {"embed_tokens.weight": (shape.traits.vocabulary, dim)}
    for number in range(shape.layers):
        layer = f"layers.{number}"
        shapes |= _affine(f"{layer}.input_layernorm", dim)
        for part in "qkvo":
            shapes[f"{layer}.self_attn.{part}_proj.weight"] = (dim, dim)
        for part in "qk":
            shapes[f"{layer}.self_attn.{part}_norm.weight"] = (dim,)
        shapes |= _affine(f"{layer}.post_attention_layernorm", dim)
        for part in ("gate", "up"):
            shapes[f"{layer}.mlp.{part}_proj.weight"] = (hidden, dim)
        shapes[f"{layer}.mlp.down_proj.weight"] = (dim, hidden)
    shapes["norm.weight"] = (dim,)
    return shapes | _lm_head(dim, shape.traits.vocabulary)


def _four_times(dim: int) -> int:
    return 4 * dim


def _swiglu_width(dim: int) -> int:
    """Return 8/3 of a width, rounded up to a multiple of 256, as the first release does."""
    return int((8 / 3 * dim + 255) // 256 * 256)


# -- families --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """What models of one arithmetic share.

    Attributes:
        title: what messages call one of its models.
        shapes: the shape of every tensor that a model may have, by its names.
        feed_forward_dim: how wide the feed-forward network is, by the width of the model.
        vocabulary: rows of the token embedding, columns of the logits.
        window: most residues that its models saw in training.
        learned_positions: whether more residues than that cannot go through at all.
        tied: whether the decoder of the logits is the token embedding.
        engines: which compute it, the usual one first.
        half_precision: what `precision: auto` is on GPUs that have it.
    """

    title: str
    shapes: Callable[["Architecture"], Shapes]
    feed_forward_dim: Callable[[int], int] = _four_times
    vocabulary: int = VOCABULARY_SIZE
    window: int = 1022
    learned_positions: bool = False
    tied: bool = True
    engines: tuple[str, ...] = (PACKED, REFERENCE)
    half_precision: str = "float16"


FAMILIES = {
    "esm2": Family("an ESM-2", _esm2_shapes),
    "esm1": Family(
        "an ESM-1b or ESM-1v (its positions are learned)",
        _esm1_shapes,
        learned_positions=True,
        engines=(REFERENCE,),
    ),
    # Its embedding and decoder have rows without a token, so that there are 64.
    "esmc": Family(
        "an ESM C",
        _esmc_shapes,
        _swiglu_width,
        vocabulary=64,
        window=2046,
        tied=False,
        engines=(PACKED,),
        half_precision="bfloat16",
    ),
}

# -- models ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Architecture:
    """The shape of a model, and which family's arithmetic it has.

    Attributes:
        family: a key of `FAMILIES`.
        has_regression: whether somebody trained a contact regression for it.
        hub: OWNER/NAME of the published weights on the hub of Hugging Face; empty if they are at
            fair-esm's address.
    """

    layers: int
    embedding_dim: int
    attention_heads: int
    family: str = "esm2"
    has_regression: bool = True
    hub: str = ""

    @property
    def traits(self) -> Family:
        """What it shares with its family."""
        return FAMILIES[self.family]

    @property
    def feed_forward_dim(self) -> int:
        """How wide its feed-forward network is."""
        return self.traits.feed_forward_dim(self.embedding_dim)

    @property
    def parameters(self) -> int:
        """The numbers in all tensors that such a model may have."""
        return sum(map(math.prod, tensor_shapes(self).values()))


def _esmc(layers: int, dim: int, heads: int, size: str) -> Architecture:
    return Architecture(layers, dim, heads, "esmc", has_regression=False, hub=f"biohub/ESMC-{size}")


# Lin et al. 2023, Science 379:1123; Rives et al. 2021, PNAS 118:e2016239118 (ESM-1b); Meier et al.
# 2021, NeurIPS (ESM-1v): the names are fair-esm's. ESM Team 2024, ESM Cambrian: those of its own.
ARCHITECTURES = {
    "esm2_t6_8M_UR50D": Architecture(6, 320, 20),
    "esm2_t12_35M_UR50D": Architecture(12, 480, 20),
    "esm2_t30_150M_UR50D": Architecture(30, 640, 20),
    "esm2_t33_650M_UR50D": Architecture(33, 1280, 20),
    "esm2_t36_3B_UR50D": Architecture(36, 2560, 40),
    "esm2_t48_15B_UR50D": Architecture(48, 5120, 40),
    "esmc_300m": _esmc(30, 960, 15, "300M"),
    "esmc_600m": _esmc(36, 1152, 18, "600M"),
    "esmc_6b": _esmc(80, 2560, 40, "6B"),
    "esm1b_t33_650M_UR50S": Architecture(33, 1280, 20, "esm1"),
    **{
        f"esm1v_t33_650M_UR90S_{i}": Architecture(33, 1280, 20, "esm1", has_regression=False)
        for i in range(1, 6)
    },
}
# What repositories of the hub call them.
_ALSO_CALLED = {
    "ESMC-300M": "esmc_300m",
    "ESMC-600M": "esmc_600m",
    "ESMC-6B": "esmc_6b",
    "esmc-300m-2024-12": "esmc_300m",
    "esmc-600m-2024-12": "esmc_600m",
    "esmc-6b-2024-12": "esmc_6b",
    "ESMplusplus_small": "esmc_300m",
    "ESMplusplus_large": "esmc_600m",
    "ESMplusplus_6B": "esmc_6b",
}


def model_called(origin: str) -> str | None:
    """Return which model a path or a name of the hub is known as; None if its name tells none."""
    name = PurePosixPath(origin).name
    name = _ALSO_CALLED.get(name, name)
    return name if name in ARCHITECTURES else None


def tensor_shapes(architecture: Architecture) -> Shapes:
    """Return the shape of every tensor that such a model may have.

    Names are fair-esm's; those of ESM C are transformers', but for the decoder, which is called as
    fair-esm does.
    """
    return architecture.traits.shapes(architecture)
