import types

import esm
import fake_gpu
import pytest
import torch
from models import packed
from sequences import MEAN
from spotesm.model import budget
from spotesm.model.budget import choose_token_budget
from spotesm.request.outputs import Outputs
from spotesm.weights.architectures import ARCHITECTURES

CPU = torch.device("cpu")


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


GB = 10**9


class Memory:
    """What a GPU and its host have, and what a token takes of the GPU's."""

    def __init__(self, free: float, of_a_token: float, on_host: float) -> None:
        self.free, self.of_a_token, self.on_host = free, of_a_token, on_host

    def install(self, monkeypatch: pytest.MonkeyPatch, gpu: fake_gpu.FakeGPU) -> None:
        held = 7 * GB  # by the model
        launched: list[int] = []
        gpu.before = {1: lambda x: launched.append(len(x)), 2: lambda x: launched.append(len(x))}
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "memory_allocated", lambda _: held)
        monkeypatch.setattr(cuda, "reset_peak_memory_stats", lambda _: launched.clear())
        monkeypatch.setattr(
            cuda, "max_memory_allocated", lambda _: held + self.of_a_token * sum(launched)
        )
        monkeypatch.setattr(cuda, "mem_get_info", lambda _: (self.free, 2 * self.free))
        host = types.SimpleNamespace(available=self.on_host)
        monkeypatch.setattr(budget.psutil, "virtual_memory", lambda: host)


RESIDUES = Outputs(("residues",), tuple(range(7)), "float16")  # 8,960 bytes a residue in float32


@pytest.mark.parametrize(
    ("shape", "outputs", "memory", "expected"),
    [
        ("esm2_t6_8M_UR50D", MEAN, Memory(80 * GB, 1e4, 100 * GB), 1 << 16),
        ("esm2_t33_650M_UR50D", MEAN, Memory(80 * GB, 1e5, 100 * GB), 32768),
        ("esm2_t33_650M_UR50D", MEAN, Memory(20 * GB, 1e6, 100 * GB), 8192),
        # A second's work of these is 1,655 tokens, too few for the matrix units.
        ("esm2_t48_15B_UR50D", MEAN, Memory(40 * GB, 1e6, 100 * GB), 8192),
        ("esm2_t48_15B_UR50D", MEAN, Memory(4 * GB, 1e6, 100 * GB), 2048),
        ("esm2_t48_15B_UR50D", MEAN, Memory(1 * GB, 1e6, 100 * GB), 1024),
        # Outputs fit the GPU, but three copies of them hardly fit the host.
        ("esm2_t6_8M_UR50D", RESIDUES, Memory(80 * GB, 1e4, 0.1 * GB), 2048),
    ],
)
def test_a_gpu_s_batches_fit_both_memories_and_keep_it_busy(
    fair_esm: esm.model.esm2.ESM2,
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    outputs: Outputs,
    memory: Memory,
    expected: int,
) -> None:
    gpu = fake_gpu.install(monkeypatch)
    memory.install(monkeypatch, gpu)
    model = fake_gpu.OnGPU(packed(fair_esm, torch.float32), gpu)
    model.n_layers = ARCHITECTURES[shape].layers  # as it says; what runs has six layers
    model.embedding_dim = ARCHITECTURES[shape].embedding_dim
    assert choose_token_budget(model, outputs, window=100) == expected
    assert gpu.order.count("empty") == 1


def test_flash_attention_takes_the_heads_of_all_models() -> None:
    for shape in ARCHITECTURES.values():
        assert shape.embedding_dim // shape.attention_heads % 8 == 0
