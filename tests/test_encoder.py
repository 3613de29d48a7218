import random
from collections.abc import Callable

import esm
import numpy as np
import pytest
import torch
from conftest import random_sequence
from spotesm.encoder import Encoder
from spotesm.esm2 import PackedESM2

Reference = Callable[[str], np.ndarray]
CPU = torch.device("cpu")


def encoder(model: esm.model.esm2.ESM2, **changes: int) -> Encoder:
    sizes = {"window": 1022, "overlap": 256, "token_budget": 4096, **changes}
    return Encoder(PackedESM2(model), CPU, **sizes)


def test_means_are_over_residues_only(
    fair_esm: esm.model.esm2.ESM2, reference_residues: Reference
) -> None:
    rng = random.Random(5)
    sequences = [random_sequence(rng, n) for n in (300, 120, 120, 7, 1)]
    means, reasons = encoder(fair_esm).embed([s.encode() for s in sequences])
    assert means.dtype == np.float32
    assert reasons == [""] * 5
    for sequence, mean in zip(sequences, means, strict=True):
        np.testing.assert_allclose(mean, reference_residues(sequence).mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("token_budget", [4096, 60])
def test_windows_are_averaged_residue_by_residue(
    fair_esm: esm.model.esm2.ESM2, reference_residues: Reference, token_budget: int
) -> None:
    sequence = random_sequence(random.Random(6), 171)
    window, overlap = 50, 15
    total = np.zeros((len(sequence), fair_esm.embed_dim))
    count = np.zeros(len(sequence))
    for start in (0, 35, 70, 105, 121):
        total[start : start + window] += reference_residues(sequence[start : start + window])
        count[start : start + window] += 1
    expected = (total / count[:, None]).mean(0)

    sizes = {"window": window, "overlap": overlap, "token_budget": token_budget}
    means, _ = encoder(fair_esm, **sizes).embed([b"ACDEF", sequence.encode(), b"MK"])
    np.testing.assert_allclose(means[1], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(means[2], reference_residues("MK").mean(0), rtol=0, atol=1e-5)


def test_what_is_not_finite_is_rejected(fair_esm: esm.model.esm2.ESM2) -> None:
    model = PackedESM2(fair_esm)
    model.embedding = torch.nn.Parameter(model.embedding.detach().clone())
    with torch.no_grad():
        model.embedding[fair_esm.alphabet.get_idx("W")] = torch.nan
    healthy = Encoder(model, CPU, 1022, 256, 4096)
    means, reasons = healthy.embed([b"ACDEF", b"ACWEF", b"MK"])
    assert [bool(reason) for reason in reasons] == [False, True, False]
    assert reasons[1].startswith("not_finite: ")
    assert np.isfinite(means[[0, 2]]).all()
