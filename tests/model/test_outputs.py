"""Every output, at every layer, against fair-esm's own and against windows cut by hand."""

import copy
import random
from collections.abc import Callable
from pathlib import Path

import esm
import numpy as np
import pytest
import torch
from models import load_model, packed, source_of, write_fair_esm
from sequences import WINDOWED, random_sequence
from shards import make_request
from spotesm.model.encoder import Batch, Encoder
from spotesm.model.packed import PackedModel
from spotesm.model.reference import ReferenceEngine
from spotesm.request.outputs import Outputs
from spotesm.request.results import Results
from spotesm.sequences.long_sequences import LongSequences
from spotesm.weights.architectures import Architecture

CPU = torch.device("cpu")
LAYERS = tuple(range(7))
ALL = Outputs(("mean", "bos", "residues", "logits", "contacts"), LAYERS)
ENGINES = (PackedModel, ReferenceEngine)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.__name__)
def load(
    request: pytest.FixtureRequest, fair_esm: esm.model.esm2.ESM2
) -> Callable[[torch.dtype], PackedModel | ReferenceEngine]:
    return lambda dtype: request.param.of_source(source_of(fair_esm), CPU, dtype)


def fair_esms(model: esm.model.esm2.ESM2, sequence: str) -> dict[str, np.ndarray]:
    """What fair-esm itself gives for one sequence, by our keys."""
    convert = model.alphabet.get_batch_converter()
    _, _, tokens = convert([("", sequence)])
    with torch.inference_mode():
        result = model(tokens, repr_layers=range(7), return_contacts=True)
    values = {
        "logits/values": result["logits"][0, 1:-1],
        "contacts/values": result["contacts"][0],
    }
    for layer, hidden in result["representations"].items():
        values[f"bos/{layer}"] = hidden[0, 0]
        values[f"residues/{layer}"] = hidden[0, 1:-1]
        values[f"mean/{layer}"] = hidden[0, 1:-1].mean(0)
    return {key: value.numpy() for key, value in values.items()}


def embed(encoder: Encoder, sequences: list[str], token_budget: int = 4096) -> Results:
    (results,) = encoder.embed_each([Batch.of([s.encode() for s in sequences])], token_budget)
    return results


def of_sequence(results: Results, index: int) -> dict[str, np.ndarray]:
    """One sequence's part of the results."""
    values = {key: rows[index] for key, rows in results.rows.items()}
    for key, ragged in results.ragged.items():
        end = ragged.sizes[: index + 1].sum()
        values[key] = ragged.values[end - ragged.sizes[index] : end]
    return values


def assert_close(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for key, values in expected.items():
        # Layers before the last are not normed: their values reach tens and hundreds.
        atol = 1e-5 * max(1, np.abs(values).max())
        got = actual[key].reshape(values.shape)
        np.testing.assert_allclose(got, values, rtol=0, atol=atol, err_msg=key)


def test_each_output_equals_fair_esms(
    load: Callable[[torch.dtype], PackedModel], fair_esm: esm.model.esm2.ESM2
) -> None:
    rng = random.Random(60)
    encoder = Encoder(load, torch.float32, ALL, WINDOWED)
    longest = 1022 if isinstance(encoder.model, PackedModel) else 200  # theirs is theirs
    sequences = [random_sequence(rng, n) for n in (longest, 57, 57, 8, 2, 1)]
    results = embed(encoder, sequences)
    assert results.reasons == [None] * len(sequences)
    assert results.windows.tolist() == [1] * len(sequences)
    for index, sequence in enumerate(sequences):
        assert_close(of_sequence(results, index), fair_esms(fair_esm, sequence))


@pytest.mark.parametrize("token_budget", [4096, 60])
def test_windows_are_stitched_residue_by_residue(
    load: Callable[[torch.dtype], PackedModel], fair_esm: esm.model.esm2.ESM2, token_budget: int
) -> None:
    sequence = random_sequence(random.Random(61), 131)
    starts, window = (0, 35, 70, 81), 50
    parts = [fair_esms(fair_esm, sequence[start : start + window]) for start in starts]
    coverage = np.zeros((len(sequence), 1))
    for start in starts:
        coverage[start : start + window] += 1
    expected = {"contacts/values": np.stack([part["contacts/values"] for part in parts])}
    for key in [f"residues/{layer}" for layer in LAYERS] + ["logits/values"]:
        total = np.zeros((len(sequence), parts[0][key].shape[1]))
        for start, part in zip(starts, parts, strict=True):
            total[start : start + window] += part[key]
        expected[key] = total / coverage
    for layer in LAYERS:
        expected[f"mean/{layer}"] = expected[f"residues/{layer}"].mean(0)
        expected[f"bos/{layer}"] = np.mean([part[f"bos/{layer}"] for part in parts], axis=0)

    long = LongSequences("window", window, 15, "reject")
    encoder = Encoder(load, torch.float32, ALL, long)
    results = embed(encoder, ["ACDEF", sequence, "MK"], token_budget)
    assert results.windows.tolist() == [1, 4, 1]
    assert_close(of_sequence(results, 1), expected)
    assert_close(of_sequence(results, 2), fair_esms(fair_esm, "MK"))


@pytest.mark.parametrize(("policy", "seen"), [("truncate", 50), ("whole", 131)])
def test_truncated_and_whole(
    load: Callable[[torch.dtype], PackedModel],
    fair_esm: esm.model.esm2.ESM2,
    policy: str,
    seen: int,
) -> None:
    sequence = random_sequence(random.Random(62), 131)
    long = LongSequences(policy, 50, 15, "reject")
    results = embed(Encoder(load, torch.float32, ALL, long), [sequence, "MK"])
    assert results.windows.tolist() == [1, 1]
    assert_close(of_sequence(results, 0), fair_esms(fair_esm, sequence[:seen]))


def test_half_precision_storage_rounds_and_nothing_else(
    fair_esm: esm.model.esm2.ESM2,
) -> None:
    sequences = [random_sequence(random.Random(63), n) for n in (90, 40)]
    single, half = (
        embed(
            Encoder(
                lambda dtype: packed(fair_esm, dtype),
                torch.float32,
                Outputs(ALL.names, LAYERS, store_dtype),
                LongSequences("window", 50, 10, "reject"),
            ),
            sequences,
        )
        for store_dtype in ("float32", "float16")
    )
    for index in range(2):
        expected = of_sequence(single, index)
        for key, values in of_sequence(half, index).items():
            assert values.dtype == np.float16
            assert values.tobytes() == expected[key].astype(np.float16).tobytes()


def test_what_float16_cannot_hold_is_rejected(fair_esm: esm.model.esm2.ESM2) -> None:
    model = copy.deepcopy(fair_esm)
    with torch.no_grad():
        model.embed_tokens.weight[model.alphabet.get_idx("W")] = 1e5
    outputs = Outputs(("residues",), (0, 6), "float16")
    encoder = Encoder(lambda dtype: packed(model, dtype), torch.float32, outputs, WINDOWED)
    results = embed(encoder, ["ACDEF", "ACWEF", "MK"])
    assert [reason and reason.keyword for reason in results.reasons] == [None, "not_finite", None]
    assert results.ragged["residues/0"].sizes.tolist() == [5, 0, 2]


def test_layers_are_counted_as_fair_esm_does() -> None:
    outputs = (
        make_request(outputs=("residues", "bos", "mean"), layers=(0, -1, 3, -4))
        .resolve("float32")
        .select()
    )
    assert outputs.layers == (0, 6, 3)
    assert outputs.row_keys == ["bos/0", "bos/6", "bos/3", "mean/0", "mean/6", "mean/3"]
    assert outputs.ragged_keys == ["residues/0", "residues/6", "residues/3"]


def test_esm1_runs_by_the_reference_engine(tmp_path: Path) -> None:
    shape = Architecture(2, 16, 2, "esm1")
    write_fair_esm(shape, tmp_path / "esm1b.pt")
    model = load_model(tmp_path / "esm1b.pt", shape)
    outputs = Outputs(("mean", "contacts"), (0, 2))
    encoder = Encoder(
        lambda dtype: ReferenceEngine(model, CPU, dtype), torch.float32, outputs, WINDOWED
    )
    rng = random.Random(64)
    sequences = [random_sequence(rng, n) for n in (40, 40, 9)]
    results = embed(encoder, sequences)
    convert = esm.Alphabet.from_architecture("ESM-1b").get_batch_converter()
    for index, sequence in enumerate(sequences):
        _, _, tokens = convert([("", sequence)])
        with torch.inference_mode():
            result = model(tokens, [0, 2], return_contacts=True)
        expected = {
            f"mean/{layer}": hidden[0, 1:-1].mean(0).numpy()
            for layer, hidden in result["representations"].items()
        }
        expected["contacts/values"] = result["contacts"][0].numpy()
        assert_close(of_sequence(results, index), expected)
