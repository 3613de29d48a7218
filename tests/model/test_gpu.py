"""The engine on a real GPU; skipped where there is none."""

import random
from collections.abc import Callable, Iterator

import esm
import numpy as np
import pytest
import torch
from family_contract import random_tensors
from models import packed
from sequences import MEAN, WINDOWED, random_sequence
from spotesm.model.attention import PaddedAttention, VarlenAttention
from spotesm.model.budget import choose_token_budget
from spotesm.model.encoder import Batch, Encoder
from spotesm.model.packed import PackedModel
from spotesm.weights.architectures import Architecture
from spotesm.weights.tensors import Source

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

Reference = Callable[[str], np.ndarray]
CUDA = torch.device("cuda", 0)
LENGTHS = (1022, 640, 300, 300, 120, 33, 33, 2, 1)


@pytest.fixture
def load(fair_esm: esm.model.esm2.ESM2) -> Callable[[torch.dtype], PackedModel]:
    return lambda dtype: packed(fair_esm, dtype, CUDA)


@pytest.fixture
def sequences() -> list[str]:
    rng = random.Random(13)
    return [random_sequence(rng, length) for length in LENGTHS]


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A GPU of which this process may use 200 MiB."""
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(200 * 2**20 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def embed(encoder: Encoder, batches: list[list[str]], token_budget: int) -> np.ndarray:
    encoded = [[sequence.encode() for sequence in batch] for batch in batches]
    results = list(encoder.embed_each(map(Batch.of, encoded), token_budget))
    assert all(reason is None for batch in results for reason in batch.reasons)
    return np.concatenate([batch.rows["mean/6"] for batch in results])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_equals_fair_esm(
    load: Callable[[torch.dtype], PackedModel],
    sequences: list[str],
    reference_residues: Reference,
    dtype: torch.dtype,
) -> None:
    encoder = Encoder(load, dtype, MEAN, WINDOWED)
    flash = dtype != torch.float32 and torch.cuda.get_device_capability(CUDA) >= (8, 0)
    assert encoder.model.attention is (VarlenAttention if flash else PaddedAttention)
    # Several batches, so that one is in flight while another is collected.
    means = embed(encoder, [sequences[:2], sequences[2:5], sequences[5:]], 4096)
    for sequence, mean in zip(sequences, means, strict=True):
        expected = reference_residues(sequence).mean(0)
        if dtype == torch.float32:
            np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-4)
        cosine = mean @ expected / np.linalg.norm(mean) / np.linalg.norm(expected)
        assert cosine >= (0.999 if dtype == torch.bfloat16 else 0.9999)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_esmc_equals_itself_on_the_cpu(sequences: list[str], dtype: torch.dtype) -> None:
    shape = Architecture(6, 128, 2, "esmc", has_regression=False)
    tensors = {name: lambda x=x: x for name, x in random_tensors(shape).items()}
    source = Source("random numbers", shape, tensors)
    means = []
    for device, precision in ((CUDA, dtype), (torch.device("cpu"), torch.float32)):
        model = PackedModel.of_source(source, device, precision)
        encoder = Encoder(lambda _, model=model: model, precision, MEAN, WINDOWED)
        means.append(embed(encoder, [sequences[:2], sequences[2:5], sequences[5:]], 4096))
    off = np.linalg.norm(means[0] - means[1]) / np.linalg.norm(means[1])
    assert off < {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]


def test_the_same_batch_gives_the_same_bits(
    load: Callable[[torch.dtype], PackedModel], sequences: list[str]
) -> None:
    first = embed(Encoder(load, torch.float16, MEAN, WINDOWED), [sequences], 4096)
    second = embed(Encoder(load, torch.float16, MEAN, WINDOWED), [sequences], 4096)
    assert first.tobytes() == second.tobytes()


@pytest.mark.usefixtures("little_memory")
def test_real_memory_runs_out_and_the_batch_is_halved(
    load: Callable[[torch.dtype], PackedModel], reference_residues: Reference
) -> None:
    rng = random.Random(14)
    sequences = [random_sequence(rng, 500) for _ in range(64)]
    remembered: list[int] = []
    encoder = Encoder(load, torch.float16, MEAN, WINDOWED, on_smaller_budget=remembered.append)
    means = embed(encoder, [sequences], 1 << 16)
    assert remembered
    for place in (0, 40, 63):
        expected = reference_residues(sequences[place]).mean(0)
        cosine = means[place] @ expected / np.linalg.norm(means[place]) / np.linalg.norm(expected)
        assert cosine >= 0.9999


def test_the_token_budget_is_a_power_of_two_that_fits(
    load: Callable[[torch.dtype], PackedModel],
) -> None:
    model = load(torch.float16)
    budget = choose_token_budget(model, MEAN, window=1022)
    assert budget.bit_count() == 1
    lengths = [1024] * (budget // 1024)
    with torch.inference_mode():
        activations = model(torch.full((sum(lengths),), 5, device=CUDA), lengths, MEAN)
    assert activations.hidden[6].isfinite().all()
