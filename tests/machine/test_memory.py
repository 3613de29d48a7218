"""What a job asks of its host goes by the model."""

import resource
from pathlib import Path

import esm
import psutil
import pytest
from spotesm.machine import memory
from spotesm.machine.memory import BESIDE_WEIGHTS_MB, memory_of_host, memory_of_job
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
        ("esmc_300m", "float32", 1_332),
        ("esmc_6b", "auto", 12_704),
    ],
)
def test_memory_is_that_of_the_weights_and_some(model: str, precision: str, weights: int) -> None:
    asked = memory_of_job(ARCHITECTURES[model], precision)
    assert asked - BESIDE_WEIGHTS_MB == pytest.approx(weights, rel=0.02)


@pytest.mark.parametrize("kind", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_a_limit_of_the_process_is_its_memory(kind: int) -> None:
    before = resource.getrlimit(kind)
    limit = psutil.virtual_memory().total // 2
    had = memory_of_host()
    resource.setrlimit(kind, (limit, before[1]))
    try:
        assert memory_of_host() == min(limit, had)
    finally:
        resource.setrlimit(kind, before)


@pytest.mark.parametrize(
    ("groups", "file", "limit"),
    [
        ("0::/slurm/job_7/step_0\n", "slurm/job_7/step_0/memory.max", 5000),
        ("0::/slurm/job_7/step_0\n", "slurm/memory.max", 5000),
        ("0::/slurm/job_7/step_0\n", "memory.max", 5000),
        ("0::/slurm/job_7/step_0\n", "slurm/job_8/memory.max", None),
        ("0::/\n", "memory.max", 5000),
        ("3:cpu,memory:/x\n0::/\n", "memory/x/memory.limit_in_bytes", 5000),
        ("3:cpu:/x\n0::/\n", "memory/x/memory.limit_in_bytes", None),
    ],
)
def test_so_is_that_of_its_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, file: str, limit: int | None
) -> None:
    (tmp_path / "own").write_text(groups)
    monkeypatch.setattr(memory, "GROUPS", (tmp_path / "own", tmp_path / "fs"))
    had = memory_of_host()
    (tmp_path / "fs" / file).parent.mkdir(parents=True)
    (tmp_path / "fs" / file).write_text("max\n")
    assert memory_of_host() == had
    (tmp_path / "fs" / file).write_text("5000\n")
    assert memory_of_host() == (limit or had)
