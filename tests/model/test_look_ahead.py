"""The order of things on a GPU, where the next batch is launched before one is collected."""

import copy
import logging
import random
import weakref
from collections.abc import Callable

import esm
import fake_gpu
import numpy as np
import pytest
import torch
from fake_gpu import FakeGPU, OnGPU
from models import packed
from sequences import MEAN, WINDOWED, random_sequence
from spotesm.base.classification import classify
from spotesm.base.failures import CUDA_RUNTIME, NOT_FINITE, OUT_OF_MEMORY
from spotesm.model.encoder import Batch, Encoder
from spotesm.model.products import sum_in_float32
from spotesm.request.results import Results

LENGTHS = ((90, 70), (60, 50), (40, 30), (20, 10))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def sequences() -> list[list[bytes]]:
    rng = random.Random(80)
    return [[random_sequence(rng, n).encode() for n in lengths] for lengths in LENGTHS]


def start(
    fair_esm: esm.model.esm2.ESM2, gpu: FakeGPU, dtype: torch.dtype = torch.float32, **more: object
) -> Encoder:
    def load(dtype: torch.dtype) -> OnGPU:
        return OnGPU(packed(fair_esm, dtype), gpu)

    return Encoder(load, dtype, MEAN, WINDOWED, **more)


def batches(sequences: list[list[bytes]]) -> list[Batch]:
    return [Batch.of(own) for own in sequences]


def assert_right(
    results: list[Results],
    sequences: list[list[bytes]],
    reference_residues: Callable[[str], np.ndarray],
) -> None:
    """Every batch has its own values, none of another's and none from before they arrived."""
    for batch, own in zip(results, sequences, strict=True):
        for row, sequence, reason in zip(batch.rows["mean/6"], own, batch.reasons, strict=True):
            expected = reference_residues(sequence.decode()).mean(0)
            assert reason is None
            np.testing.assert_allclose(row, expected, rtol=0, atol=1e-5)


def test_the_next_batch_is_launched_before_one_is_waited_for(
    fair_esm, gpu, sequences, reference_residues
) -> None:
    def reading():
        for number, batch in enumerate(batches(sequences), start=1):
            gpu.order.append(f"read {number}")
            yield batch

    results = list(start(fair_esm, gpu).embed_each(reading(), 4096))
    assert gpu.order == [
        *("read 1", "launch 1", "read 2", "launch 2", "wait 1"),
        *("read 3", "launch 3", "wait 2", "read 4", "launch 4", "wait 3", "wait 4"),
    ]
    assert_right(results, sequences, reference_residues)


def test_suspects_run_one_at_a_time(fair_esm, gpu, sequences) -> None:
    list(start(fair_esm, gpu).embed_each(batches(sequences[:2]), 4096, ahead=False))
    assert gpu.order == ["launch 1", "wait 1", "launch 2", "wait 2"]


def test_memory_runs_out_in_the_second_batch_in_flight(
    fair_esm, gpu, sequences, reference_residues
) -> None:
    gpu.room = 100
    remembered = []
    encoder = start(fair_esm, gpu, on_smaller_budget=remembered.append)
    results = list(encoder.embed_each(batches([sequences[3], *sequences[1:3]]), 4096))
    # 32 tokens fit; 114 do not, and go as 62 and 52; 74 exceed the halved budget of 57.
    assert remembered == [57]
    assert gpu.order == [
        *("launch 1", "launch 2", "empty", "launch 3", "launch 4", "wait 1"),
        *("launch 5", "launch 6", "wait 4", "wait 6"),
    ]
    assert_right(results, [sequences[3], *sequences[1:3]], reference_residues)


def test_what_a_failed_batch_held_is_free_before_the_next_try(
    fair_esm, gpu, sequences, monkeypatch, reference_residues
) -> None:
    held: list[weakref.ref] = []
    freed = []

    def fill_memory(tokens: torch.Tensor) -> None:
        activations = torch.zeros(len(tokens), 320)
        held.extend((weakref.ref(activations), weakref.ref(tokens)))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    gpu.before = {2: fill_memory, 3: fill_memory}
    monkeypatch.setattr(
        torch.cuda, "empty_cache", lambda: freed.append([one() is None for one in held])
    )
    results = list(start(fair_esm, gpu).embed_each(batches(sequences), 4096))
    # The second batch fails as a whole, and then its first sequence alone.
    assert freed == [[True, True], [True] * 4]
    assert [reason and reason.keyword for reason in results[1].reasons] == [OUT_OF_MEMORY, None]
    del results[1]
    assert_right(results, [sequences[0], *sequences[2:]], reference_residues)


def test_values_that_are_not_finite_in_a_look_ahead_batch(
    fair_esm, gpu, sequences, reference_residues
) -> None:
    model = copy.deepcopy(fair_esm)
    with torch.no_grad():  # products reach 1e5 and more; float16 ends at 65,504
        model.layers[2].fc1.weight *= 1e3
        model.layers[2].fc2.weight *= 1e3
    encoder = start(model, gpu, torch.float16)
    results = list(encoder.embed_each(batches(sequences[:3]), 4096))
    # Those of a batch go through float32 together, while the next one is in flight.
    assert gpu.order == [
        *("launch 1", "launch 2", "wait 1", "launch 3", "wait 3"),
        *("launch 4", "wait 2", "launch 5", "wait 5", "wait 4", "launch 6", "wait 6"),
    ]
    for batch, own in zip(results, sequences[:3], strict=True):
        assert batch.reasons == [None, None]
        exact = list(start(model, FakeGPU()).embed_each([Batch.of(own)], 4096, ahead=False))
        np.testing.assert_array_equal(batch.rows["mean/6"], exact[0].rows["mean/6"])


def test_no_room_for_the_model_in_float32(fair_esm, gpu, sequences, caplog) -> None:
    model = copy.deepcopy(fair_esm)
    with torch.no_grad():
        model.embed_tokens.weight[model.alphabet.get_idx("W")] = torch.inf
    encoder = start(model, gpu, torch.float16)
    loads = []

    def load(dtype: torch.dtype) -> None:
        loads.append(dtype)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    encoder.load_model = load
    own = [[b"ACD", b"AWD"], [b"MK", b"MKV"], [b"W", b"MKA"]]
    with caplog.at_level(logging.WARNING):
        results = list(encoder.embed_each(batches(own), 4096))
    keywords = [[reason and reason.keyword for reason in batch.reasons] for batch in results]
    assert keywords == [[None, NOT_FINITE], [None, None], [NOT_FINITE, None]]
    assert loads == [torch.float32]  # not tried again and again
    assert "no room for the model in float32" in caplog.text


def test_a_model_that_cannot_be_loaded_in_float32_is_a_failure(fair_esm, gpu, sequences) -> None:
    model = copy.deepcopy(fair_esm)
    with torch.no_grad():
        model.embed_tokens.weight[model.alphabet.get_idx("W")] = torch.inf
    encoder = start(model, gpu, torch.float16)

    def load(dtype: torch.dtype) -> None:
        raise RuntimeError("no such file")

    encoder.load_model = load
    with pytest.raises(RuntimeError, match="no such file"):
        list(encoder.embed_each(batches([[b"ACD", b"AWD"]]), 4096))


def test_a_stop_between_launch_and_collect_loses_nothing(
    fair_esm, gpu, sequences, reference_residues
) -> None:
    stop = []

    def until_stopped():
        for batch in batches(sequences):
            if stop:
                return
            yield batch

    gpu.before = {2: stop.append}  # the signal comes while the second batch is being launched
    results = list(start(fair_esm, gpu).embed_each(until_stopped(), 4096))
    assert gpu.order == ["launch 1", "launch 2", "wait 1", "wait 2"]
    assert_right(results, sequences[:2], reference_residues)


def test_a_device_lost_between_launch_and_collect_is_told(fair_esm, gpu, sequences) -> None:
    def lose_device(_: torch.Tensor) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    gpu.before = {3: lose_device}
    collected = []
    embedded = start(fair_esm, gpu).embed_each(batches(sequences), 4096)
    with pytest.raises(torch.AcceleratorError) as told:
        collected.extend(embedded)
    assert classify(told.value) == CUDA_RUNTIME
    # The second batch cannot be read any more: nothing is waited for, nothing tried again.
    assert gpu.order == ["launch 1", "launch 2", "wait 1", "launch 3"]


def test_half_precision_products_are_summed_in_float32() -> None:
    settings = torch.backends.cuda.matmul
    settings.allow_fp16_reduced_precision_reduction = True
    settings.allow_bf16_reduced_precision_reduction = True
    sum_in_float32()
    assert not settings.allow_fp16_reduced_precision_reduction
    assert not settings.allow_bf16_reduced_precision_reduction
