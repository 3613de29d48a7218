import copy
import random
from collections.abc import Callable

import esm
import numpy as np
import pytest
import torch
from models import packed
from sequences import MEAN, WINDOWED, embed_residues, random_sequence
from spotesm.model.encoder import Batch, Encoder
from spotesm.model.packed import Activations, PackedModel
from spotesm.request.outputs import Outputs
from spotesm.sequences.long_sequences import LongSequences

Reference = Callable[[str], np.ndarray]
CPU = torch.device("cpu")


def load(model: esm.model.esm2.ESM2) -> Callable[[torch.dtype], PackedModel]:
    return lambda dtype: packed(model, dtype)


def embed(
    model: esm.model.esm2.ESM2,
    sequences: list[str],
    dtype: torch.dtype = torch.float32,
    long_sequences: LongSequences = WINDOWED,
    token_budget: int = 4096,
) -> tuple[np.ndarray, list[str]]:
    """Embed one batch."""
    encoder = Encoder(load(model), dtype, MEAN, long_sequences)
    (results,) = encoder.embed_each([Batch.of([s.encode() for s in sequences])], token_budget)
    return results.rows["mean/6"], results.reasons


def test_means_are_over_residues_only(
    fair_esm: esm.model.esm2.ESM2, reference_residues: Reference
) -> None:
    rng = random.Random(5)
    sequences = [random_sequence(rng, n) for n in (300, 120, 120, 7, 1)]
    means, reasons = embed(fair_esm, sequences)
    assert means.dtype == np.float32
    assert reasons == [None] * 5
    for sequence, mean in zip(sequences, means, strict=True):
        np.testing.assert_allclose(mean, reference_residues(sequence).mean(0), rtol=0, atol=1e-5)


def test_passes_that_others_follow_are_told(fair_esm: esm.model.esm2.ESM2) -> None:
    told: list[int] = []
    windows = LongSequences("window", 50, 0, "reject")
    encoder = Encoder(load(fair_esm), torch.float32, MEAN, windows, on_pass=told.append)
    batches = [Batch.of([b"M" * 240]), Batch.of([b"MKV"])]  # 52 tokens four times, and 42
    list(encoder.embed_each(batches, token_budget=110))
    assert told == [104, 104]


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

    long_sequences = LongSequences("window", window, overlap, "reject")
    sequences = ["ACDEF", sequence, "MK"]
    means, _ = embed(fair_esm, sequences, long_sequences=long_sequences, token_budget=token_budget)
    np.testing.assert_allclose(means[1], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(means[2], reference_residues("MK").mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("residue", [0, 2, -1])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_what_is_not_finite_is_rejected(
    fair_esm: esm.model.esm2.ESM2, place: int, residue: int
) -> None:
    model = copy.deepcopy(fair_esm)
    with torch.no_grad():
        model.embed_tokens.weight[model.alphabet.get_idx("W")] = torch.nan
    sequences = ["ACDEF", "MK", "ACEEF", "MKV", "ADEFG"]
    expected, _ = embed(fair_esm, sequences)
    wrong = bytearray(sequences[place].encode())
    wrong[min(residue, len(wrong) - 1)] = ord("W")
    sequences[place] = wrong.decode()
    means, reasons = embed(model, sequences)
    assert reasons.pop(place).keyword == "not_finite"
    assert reasons == [None] * 4
    assert np.isfinite(means).all()
    others = np.arange(5) != place
    np.testing.assert_allclose(means[others], expected[others], rtol=0, atol=1e-5)


def test_what_overflows_in_half_precision_is_computed_in_float32(
    fair_esm: esm.model.esm2.ESM2,
) -> None:
    model = copy.deepcopy(fair_esm)
    with torch.no_grad():  # products reach 1e5 and more; float16 ends at 65,504
        model.layers[2].fc1.weight *= 1e3
        model.layers[2].fc2.weight *= 1e3
    sequences = ["ACDEF", "ACWEF", "MK"]
    means, reasons = embed(model, sequences, torch.float16)
    assert reasons == [None] * 3
    expected = np.stack([embed_residues(model, sequence).mean(0) for sequence in sequences])
    np.testing.assert_allclose(means, expected, rtol=0, atol=1e-5)


def test_what_does_not_fit_in_float32_does_not_shrink_other_batches(
    fair_esm: esm.model.esm2.ESM2,
) -> None:
    """Two sequences are computed in float32, where only one of them fits at a time."""
    overflowing = copy.deepcopy(fair_esm)
    with torch.no_grad():
        overflowing.layers[2].fc1.weight *= 1e3
        overflowing.layers[2].fc2.weight *= 1e3
    sequences = ["ACDEF", "ACWEF", "ACYEF"]
    remembered: list[int] = []

    def load_crowded(dtype: torch.dtype) -> Crowded:
        return Crowded(load(overflowing)(dtype), room=8 if dtype == torch.float32 else 400)

    encoder = Encoder(
        load_crowded, torch.float16, MEAN, WINDOWED, on_smaller_budget=remembered.append
    )
    batches = [Batch.of([s.encode() for s in sequences])] * 2
    for results in encoder.embed_each(batches, 21):
        assert results.reasons == [None] * 3
        expected = np.stack([embed_residues(overflowing, s).mean(0) for s in sequences])
        np.testing.assert_allclose(results.rows["mean/6"], expected, rtol=0, atol=1e-5)
    assert remembered == []
    assert encoder.model.tried == [21, 21]


@pytest.mark.processor
@pytest.mark.parametrize(("dtype", "cosine"), [(torch.float16, 0.9999), (torch.bfloat16, 0.999)])
def test_half_precision_is_close(
    fair_esm: esm.model.esm2.ESM2,
    reference_residues: Reference,
    dtype: torch.dtype,
    cosine: float,
) -> None:
    rng = random.Random(9)
    sequences = [random_sequence(rng, n) for n in (400, 90, 33, 2)]
    means, _ = embed(fair_esm, sequences, dtype)
    assert means.dtype == np.float32
    for sequence, mean in zip(sequences, means, strict=True):
        expected = reference_residues(sequence).mean(0)
        assert mean @ expected / np.linalg.norm(mean) / np.linalg.norm(expected) >= cosine


class Crowded:
    """A model on a device that has room for so many tokens only."""

    def __init__(self, model: PackedModel, room: int) -> None:
        self.model, self.room, self.tried = model, room, []

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def __call__(
        self, tokens: torch.Tensor, lengths: list[int], outputs: Outputs, _: object
    ) -> Activations:
        self.tried.append(len(tokens))
        if len(tokens) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.model(tokens, lengths, outputs)


@pytest.mark.parametrize("place", range(5))
def test_what_does_not_fit_alone_is_rejected_wherever_it_is(
    fair_esm: esm.model.esm2.ESM2, place: int
) -> None:
    sequences = [random_sequence(random.Random(i), 20 + i) for i in range(5)]
    expected, _ = embed(fair_esm, sequences)
    sequences[place] = "M" * 70
    model = Crowded(load(fair_esm)(torch.float32), room=60)
    encoder = Encoder(lambda _: model, torch.float32, MEAN, WINDOWED)
    (results,) = encoder.embed_each([Batch.of([s.encode() for s in sequences])], 400)
    reasons = list(results.reasons)
    assert reasons.pop(place).keyword == "out_of_memory"
    assert reasons == [None] * 4
    others = np.arange(5) != place
    means = results.rows["mean/6"]
    np.testing.assert_allclose(means[others], expected[others], rtol=0, atol=1e-5)


def test_running_out_of_memory_halves_the_batch(fair_esm: esm.model.esm2.ESM2) -> None:
    rng = random.Random(10)
    sequences = [random_sequence(rng, n) for n in (98, 58, 48, 48, 38, 28, 8)]
    model = Crowded(load(fair_esm)(torch.float32), room=60)
    remembered = []
    encoder = Encoder(
        lambda _: model, torch.float32, MEAN, WINDOWED, on_smaller_budget=remembered.append
    )
    (results,) = encoder.embed_each([Batch.of([s.encode() for s in sequences])], 400)
    means, reasons = results.rows["mean/6"], results.reasons
    assert model.tried == [340, 160, 100, 60, 50, 50, 80, 40, 40]
    assert remembered == [170, 80, 40]
    assert reasons[0].keyword == "out_of_memory"
    assert reasons[1:] == [None] * 6
    expected, _ = embed(fair_esm, sequences)
    np.testing.assert_allclose(means[1:], expected[1:], rtol=0, atol=1e-5)


def test_a_stop_ends_a_batch_between_two_layers(fair_esm: esm.model.esm2.ESM2) -> None:
    class Asked(Exception):
        pass

    checks = iter([None] * 9 + [Asked])  # six layers of the first batch, three of the second

    def check() -> None:
        if (error := next(checks)) is not None:
            raise error

    encoder = Encoder(load(fair_esm), torch.float32, MEAN, WINDOWED, check_stop=check)
    results = encoder.embed_each([Batch.of([b"MKV"]), Batch.of([b"ACDEF"])], 400)
    assert next(results).reasons == [None]
    with pytest.raises(Asked):
        next(results)


def test_what_does_not_fit_is_cut_into_smaller_windows_if_asked(
    fair_esm: esm.model.esm2.ESM2,
) -> None:
    sequence = random_sequence(random.Random(11), 98)
    model = Crowded(load(fair_esm)(torch.float32), room=60)
    long_sequences = LongSequences("window", 1022, 20, "smaller_windows")
    encoder = Encoder(lambda _: model, torch.float32, MEAN, long_sequences)
    (results,) = encoder.embed_each([Batch.of([b"MKV", sequence.encode()])], 400)
    assert results.reasons == [None, None]
    assert results.windows.tolist() == [1, 3]
    halved = LongSequences("window", 49, 10, "reject")
    expected, _ = embed(fair_esm, [sequence], long_sequences=halved)
    np.testing.assert_allclose(results.rows["mean/6"][1], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_has_the_same_bits_whatever_ran_before(
    fair_esm: esm.model.esm2.ESM2, dtype: torch.dtype
) -> None:
    """What a resumed run relies on: it begins in the middle of the plan."""
    rng = random.Random(12)
    lengths = ((700, 300), (250, 249, 101), (97, 60, 33, 33, 20), (9, 2, 1))
    batches = [
        Batch.of([random_sequence(rng, n).encode() for n in of_batch]) for of_batch in lengths
    ]
    unbroken = list(Encoder(load(fair_esm), dtype, MEAN, WINDOWED).embed_each(batches, 1024))
    for first in range(1, len(batches)):
        resumed = Encoder(load(fair_esm), dtype, MEAN, WINDOWED).embed_each(batches[first:], 1024)
        for before, after in zip(unbroken[first:], resumed, strict=True):
            assert after.rows["mean/6"].tobytes() == before.rows["mean/6"].tobytes()
