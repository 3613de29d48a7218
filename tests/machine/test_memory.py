"""What a job asks of its host goes by the model."""

import esm
import pytest
from spotesm.machine.memory import BESIDE_WEIGHTS_MB, memory_of_job
from spotesm.weights.architectures import ARCHITECTURES


def test_parameters_are_those_of_fair_esm() -> None:
    shape = ARCHITECTURES["esm2_t6_8M_UR50D"]
    model = esm.model.esm2.ESM2(shape.layers, shape.embedding_dim, shape.attention_heads)
    own = {x.data_ptr(): x.numel() for x in model.parameters()}  # the decoder is the embedding
    decoder = model.lm_head.weight.numel()
    frequencies = shape.embedding_dim // shape.attention_heads // 2
    assert shape.parameters == sum(own.values()) + decoder + frequencies


@pytest.mark.parametrize(
    ("model", "precision", "weights"),
    [
        ("esm2_t6_8M_UR50D", "auto", 15),
        ("esm2_t33_650M_UR50D", "bfloat16", 1_302),
        ("esm2_t33_650M_UR50D", "float32", 2_604),
        ("esm2_t36_3B_UR50D", "auto", 5_678),
        ("esm2_t48_15B_UR50D", "float16", 30_217),
    ],
)
def test_memory_is_that_of_the_weights_and_some(model: str, precision: str, weights: int) -> None:
    asked = memory_of_job(ARCHITECTURES[model], precision)
    assert asked - BESIDE_WEIGHTS_MB == pytest.approx(weights, rel=0.02)
