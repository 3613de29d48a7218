import types

import pytest
import torch
from sequences import MEAN
from spotesm.model.budget import choose_token_budget
from spotesm.weights.architectures import ARCHITECTURES


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("esm2_t6_8M_UR50D", torch.float32, 4096),
        ("esm2_t12_35M_UR50D", torch.float32, 4096),
        ("esm2_t30_150M_UR50D", torch.float32, 2048),
        ("esm2_t30_150M_UR50D", torch.bfloat16, 4096),
        ("esm2_t48_15B_UR50D", torch.float32, 1024),
    ],
)
def test_a_cpu_s_batches_depend_on_the_model_alone(
    name: str, dtype: torch.dtype, expected: int
) -> None:
    shape = ARCHITECTURES[name]
    model = types.SimpleNamespace(
        device=torch.device("cpu"),
        dtype=dtype,
        n_layers=shape.layers,
        embedding_dim=shape.embedding_dim,
    )
    assert choose_token_budget(model, MEAN, window=1022) == expected
