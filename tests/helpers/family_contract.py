"""What must hold for every family of models; a new one gets its tests by one subclass."""

import math
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from models import CPU
from safetensors.torch import save_file
from sequences import random_sequence, write_fasta
from shards import journal_of, make_job
from spotesm.embed.worker import embed_shard
from spotesm.model.encoder import Batch, Encoder
from spotesm.model.engines import ENGINES, Engine, start_packed
from spotesm.model.independent import Forward, independent_forward, reference_values
from spotesm.request.outputs import CONTACTS, OUTPUTS, Outputs
from spotesm.request.results import Results
from spotesm.sequences.long_sequences import LongSequences
from spotesm.weights.architectures import (
    ARCHITECTURES,
    FREQUENCIES,
    LM_HEAD,
    PACKED,
    REGRESSION,
    Architecture,
    tensor_shapes,
)
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights
from spotesm.weights.tensors import Source
from tiny_shard import values_of

MODEL = "esm_small"
WINDOW, OVERLAP = 60, 15
LONG = LongSequences("window", WINDOW, OVERLAP, "reject")
LENGTHS = (200, 131, 61, 60, 57, 57, 33, 8, 2, 1)
# Of the largest value, in float32; as root mean square, in half precision.
NEAR = 2e-5
LOSSES = {"bfloat16": 3e-2, "float16": 4e-3}


def random_tensors(architecture: Architecture) -> dict[str, torch.Tensor]:
    """Random numbers in every tensor, of the size that training leaves; nothing is the identity."""
    shapes = tensor_shapes(architecture)
    shapes.pop(FREQUENCIES, None)
    if not architecture.has_regression:
        shapes = {name: shape for name, shape in shapes.items() if name not in REGRESSION}
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if len(shape) == 2 and not name.startswith("embed"):
            drawn *= 1.5 / math.sqrt(shape[-1])
        elif "norm" in name and name.endswith("weight"):
            drawn = 1 + 0.3 * drawn
        else:
            drawn *= 0.5
        tensors[name] = drawn
    if architecture.traits.tied:
        tensors[LM_HEAD[0]] = tensors["embed_tokens.weight"].clone()
    return tensors


def close(found: np.ndarray, expected: np.ndarray, relative: float) -> bool:
    return np.abs(found - expected).max() <= relative * np.abs(expected).max()


def of_sequence(results: Results, index: int) -> dict[str, np.ndarray]:
    """One sequence's part of the results."""
    values = {key: rows[index] for key, rows in results.rows.items()}
    for key, ragged in results.ragged.items():
        end = ragged.sizes[: index + 1].sum()
        values[key] = ragged.values[end - ragged.sizes[index] : end]
    return values


class FamilyTests:
    """A subclass says which family, and in which names its library keeps a state dict."""

    architecture: ClassVar[Architecture]
    engine: ClassVar[str] = PACKED
    theirs: ClassVar[dict[str, str]] = {}
    last_product: ClassVar[str]
    """The weight of the last product of a layer, by its name in it."""

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weights]:
        folder = tmp_path_factory.mktemp("family")
        state = random_tensors(cls.architecture)
        save_file({cls.theirs.get(n, n): x for n, x in state.items()}, folder / "mine")
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setitem(ARCHITECTURES, MODEL, cls.architecture)
            fetch_weights(MODEL, str(folder / "mine"), folder / "manifest.json")
            yield Weights.read(folder / "manifest.json")

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, weights: Weights) -> Source:
        return weights.open()

    @pytest.fixture(scope="class")
    @classmethod
    def forward(cls, source: Source) -> Forward:
        return independent_forward(source)

    @property
    def outputs(self) -> Outputs:
        """All that there is, of the embedding, the first, a middle and the last layer."""
        names = [n for n in OUTPUTS if n != CONTACTS or self.architecture.has_regression]
        last = self.architecture.layers
        return Outputs(tuple(names), (0, 1, last // 2, last))

    def load(self, source: Source) -> Callable[[torch.dtype], Engine]:
        return lambda dtype: ENGINES[self.engine].of_source(source, CPU, dtype)

    def embed(
        self, source: Source, sequences: list[str], dtype: torch.dtype = torch.float32
    ) -> Results:
        encoder = Encoder(self.load(source), dtype, self.outputs, LONG)
        batch = Batch.of([sequence.encode() for sequence in sequences])
        (results,) = encoder.embed_each([batch], 300)
        return results

    def sequences(self, seed: int = 1) -> list[str]:
        rng = random.Random(seed)
        return [random_sequence(rng, n) for n in LENGTHS] + ["XBUZO"]

    def test_every_output_is_that_of_its_own_library(
        self, source: Source, forward: Forward
    ) -> None:
        """At four layers, of mixed lengths in one batch, in windows and without."""
        sequences = self.sequences()
        results = self.embed(source, sequences)
        assert results.reasons == [None] * len(sequences)
        assert results.windows.tolist()[:4] == [5, 3, 2, 1]
        for index, sequence in enumerate(sequences):
            spans = LONG.spans(len(sequence))
            expected = reference_values(forward, sequence.encode(), spans, self.outputs.keys)
            found = of_sequence(results, index)
            assert found.keys() == expected.keys()
            for key, values in expected.items():
                assert values.std() > 1e-3 or values.size == 1  # it means something
                assert close(found[key].reshape(values.shape), values, NEAR), (key, len(sequence))

    def test_logits_have_a_column_for_each_row_of_the_vocabulary(self, source: Source) -> None:
        results = self.embed(source, ["MKV"])
        shape = OUTPUTS["logits"].shape(3, self.architecture)
        assert results.ragged["logits/values"].values.shape == shape
        assert shape == (3, self.architecture.traits.vocabulary)

    def test_the_rest_of_the_batch_does_not_matter(self, source: Source) -> None:
        sequences = self.sequences(2)
        together = self.embed(source, sequences)
        for index, sequence in enumerate(sequences):
            alone = of_sequence(self.embed(source, [sequence]), 0)
            for key, values in of_sequence(together, index).items():
                assert close(values, alone[key], 5e-6), key

    def test_no_sequence_sees_another(self, source: Source) -> None:
        rng = random.Random(3)
        sequences = [random_sequence(rng, n) for n in (40, 40, 40, 17, 5)]
        before = self.embed(source, sequences)
        for changed in range(len(sequences)):
            other = list(sequences)
            other[changed] = random_sequence(rng, len(sequences[changed]))
            after = self.embed(source, other)
            for index in range(len(sequences)):
                pairs = zip(
                    of_sequence(before, index).values(),
                    of_sequence(after, index).values(),
                    strict=True,
                )
                same = all(one.tobytes() == two.tobytes() for one, two in pairs)
                assert same == (index != changed)

    @pytest.mark.parametrize("precision", LOSSES)
    def test_half_precision_is_near(self, source: Source, precision: str) -> None:
        sequences = self.sequences(4)
        exact = self.embed(source, sequences)
        half = self.embed(source, sequences, getattr(torch, precision))
        last = self.architecture.layers
        for found, values in (
            (half.rows[f"mean/{last}"], exact.rows[f"mean/{last}"]),
            (half.ragged[f"residues/{last}"].values, exact.ragged[f"residues/{last}"].values),
            (half.ragged["logits/values"].values, exact.ragged["logits/values"].values),
        ):
            assert 0 < np.linalg.norm(found - values) / np.linalg.norm(values) < LOSSES[precision]

    def test_what_half_precision_cannot_hold_is_computed_in_float32(self, source: Source) -> None:
        name = f"layers.{self.architecture.layers - 1}.{self.last_product}"
        huge = {name: lambda: source.get(name) * 1e5}
        loud = replace(source, tensors={**source.tensors, **huge})
        sequences = self.sequences(5)
        exact = self.embed(loud, sequences)
        again = self.embed(loud, sequences, torch.float16)
        assert again.reasons == [None] * len(sequences)
        for key, rows in exact.rows.items():
            np.testing.assert_array_equal(again.rows[key], rows)
        for key, ragged in exact.ragged.items():
            np.testing.assert_array_equal(again.ragged[key].values, ragged.values)

    def test_resumed_is_as_unbroken(self, weights: Weights, tmp_path: Path) -> None:
        """From half of the parts, by the job that the workflow runs."""
        weights.write(tmp_path / "manifest.json")
        rng = random.Random(6)
        records = [(f"p{i}", random_sequence(rng, 5 + 3 * i)) for i in range(20)]
        fasta = write_fasta(tmp_path / "in.fasta", records)
        job = make_job(
            *(tmp_path, fasta, tmp_path / "manifest.json"),
            **{"model": MODEL, "engine": self.engine, "precision": "float32"},
            **{"outputs": self.outputs.names, "layers": self.outputs.layers},
            keep_parts=True,
        )
        embed_shard(job)
        unbroken = values_of(job)
        parts = sorted(job.checkpoints.glob("part-*.pt"))
        assert len(parts) > 3
        kept = tmp_path / "kept"
        kept.mkdir()
        for part in parts[: len(parts) // 2]:
            shutil.copy(part, kept)
        shutil.copy(job.checkpoints / "plan.json", kept)
        shutil.copy(job.checkpoints / "fingerprint.json", kept)
        shutil.rmtree(job.checkpoints)
        shutil.copytree(kept, job.checkpoints)
        job.output.unlink()
        embed_shard(job)
        assert 0 < journal_of(job)[-1]["computed"] < len(records)
        assert values_of(job) == unbroken


class PackedFamilyTests(FamilyTests):
    """For families that the packed engine computes."""

    @pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
    def test_prepared_weights_give_the_same_bits(
        self, weights: Weights, source: Source, tmp_path: Path, precision: str
    ) -> None:
        dtype = getattr(torch, precision)
        tokens = torch.tensor([0, 20, 15, 4, 9, 7, 2, 0, 20, 15, 2])
        direct = self.load(source)(dtype)
        for _ in range(2):  # made, then found
            ready = start_packed(weights, CPU, dtype, tmp_path / "p")
            one, two = (engine(tokens, [7, 4], self.outputs) for engine in (direct, ready))
            for layer, hidden in one.hidden.items():
                assert torch.equal(hidden, two.hidden[layer])
            assert torch.equal(one.logits, two.logits)
            for ours, theirs in zip(one.contacts, two.contacts, strict=True):
                assert torch.equal(ours, theirs)

    def test_no_layer_behind_the_last_one_runs(self, source: Source) -> None:
        ran = []
        tokens = torch.tensor([0, 20, 15, 2])
        model = self.load(source)(torch.float32)
        for layers, runs in (((0,), 0), ((1, 0), 1), ((self.architecture.layers,), None)):
            ran.clear()
            found = model(tokens, [4], Outputs(("mean",), layers), lambda: ran.append(1))
            assert len(ran) == (self.architecture.layers if runs is None else runs)
            assert found.hidden.keys() == set(layers)
