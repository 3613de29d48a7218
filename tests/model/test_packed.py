"""The packed forward against fair-esm's, at the head dimensions of all six models."""

import random

import esm
import numpy as np
import pytest
import torch
from models import packed
from processors import fused_bfloat16, fused_float32
from sequences import embed_residues, random_sequence
from spotesm.model import packed as engine
from spotesm.model.products import FusedProducts, Products
from spotesm.request.outputs import Outputs
from spotesm.sequences.alphabet import tokenise
from spotesm.weights.architectures import ARCHITECTURES

ESM2 = [name for name, shape in ARCHITECTURES.items() if shape.family == "esm2"]


@pytest.fixture(scope="module", params=ESM2)
def model(request: pytest.FixtureRequest) -> esm.model.esm2.ESM2:
    """A two-layer model as wide as a real one."""
    shape = ARCHITECTURES[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        # The widest are slow on a CPU: fewer heads, of the same dimension.
        heads = min(shape.attention_heads, 8)
        dim = heads * shape.embedding_dim // shape.attention_heads
        return esm.model.esm2.ESM2(2, dim, heads).eval()


def forward(model: esm.model.esm2.ESM2, sequences: list[str]) -> list[torch.Tensor]:
    """Run the packed forward over one batch; each sequence's residues, (L, D)."""
    tokens = [torch.from_numpy(tokenise(s.encode())).long() for s in sequences]
    lengths = [len(t) for t in tokens]
    with torch.inference_mode():
        out = packed(model, torch.float32)(torch.cat(tokens), lengths, Outputs(("mean",), (2,)))
    return [x[1:-1] for x in out.hidden[2].split(lengths)]


def test_equals_fair_esm(model: esm.model.esm2.ESM2) -> None:
    rng = random.Random(2)
    lengths = [1022, 700, 300, 300, 300, 57, 57, 10, 3, 2, 1, 1]
    sequences = [random_sequence(rng, n) for n in lengths] + ["XBUZO"]
    for sequence, residues in zip(sequences, forward(model, sequences), strict=True):
        expected = torch.from_numpy(embed_residues(model, sequence))
        torch.testing.assert_close(residues, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(residues.mean(0), expected.mean(0), rtol=0, atol=1e-5)


def test_the_rest_of_the_batch_does_not_matter(model: esm.model.esm2.ESM2) -> None:
    rng = random.Random(3)
    sequences = [random_sequence(rng, rng.randint(1, 200)) for _ in range(12)]
    together = forward(model, sequences)
    for sequence, residues in zip(sequences, together, strict=True):
        (alone,) = forward(model, [sequence])
        # In units of the values' size: a product with other neighbours may round the last bit.
        assert (alone - residues).abs().max() <= 1e-6 * residues.abs().max()
        torch.testing.assert_close(alone.mean(0), residues.mean(0), rtol=0, atol=1e-6)


def test_no_sequence_sees_another(model: esm.model.esm2.ESM2) -> None:
    rng = random.Random(4)
    sequences = [random_sequence(rng, n) for n in (90, 90, 90, 40, 17)]
    before = forward(model, sequences)
    for changed in range(len(sequences)):
        other = list(sequences)
        other[changed] = random_sequence(rng, len(sequences[changed]))
        for place, (x, y) in enumerate(zip(before, forward(model, other), strict=True)):
            assert torch.equal(x, y) == (place != changed)


@fused_float32
@pytest.mark.parametrize("n_tokens", [3, 63, 64, 65, 700])
def test_batches_are_filled_up_to_few_numbers_of_rows(
    fair_esm: esm.model.esm2.ESM2, monkeypatch: pytest.MonkeyPatch, n_tokens: int
) -> None:
    """Where a kernel is compiled for each number; what fills them up is in no output."""
    rows = set()

    class Watched(FusedProducts):
        def linear(self, x: torch.Tensor, *operands: torch.Tensor) -> torch.Tensor:
            rows.add(len(x))
            return super().linear(x, *operands)

    lengths = [length for length in (n_tokens - 30, 27, 3) if 2 < length <= n_tokens]
    rng = random.Random(6)
    tokens = [tokenise(random_sequence(rng, length - 2).encode()) for length in lengths]
    asked = Outputs(("residues", "logits", "contacts"), (0, 3, 6))
    filled, plain = (
        model_by(fair_esm, monkeypatch, way)(
            torch.from_numpy(np.concatenate(tokens)).int(), lengths, asked
        )
        for way in (Watched, Products)
    )
    assert rows == {-(-sum(lengths) // 64) * 64}
    for layer in (0, 3, 6):
        assert len(filled.hidden[layer]) == sum(lengths)
        torch.testing.assert_close(filled.hidden[layer], plain.hidden[layer], rtol=0, atol=1e-5)
    scale = plain.logits.abs().max().item()  # of weights that were never trained, some tens
    torch.testing.assert_close(filled.logits, plain.logits, rtol=0, atol=1e-5 * scale)
    for ours, theirs in zip(filled.contacts, plain.contacts, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def model_by(
    fair_esm: esm.model.esm2.ESM2, monkeypatch: pytest.MonkeyPatch, way: type
) -> engine.PackedModel:
    monkeypatch.setattr(engine, "choose_products", lambda *_: way)
    return packed(fair_esm, torch.float32)


@fused_bfloat16
@pytest.mark.processor
def test_fused_products_are_no_further_from_float32(
    fair_esm: esm.model.esm2.ESM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    tokens = [tokenise(random_sequence(rng, n).encode()) for n in (500, 300, 300, 70, 9, 1)]
    lengths = [len(t) for t in tokens]
    packed_tokens = torch.from_numpy(np.concatenate(tokens)).int()

    def residues(dtype: torch.dtype, way: type) -> torch.Tensor:
        monkeypatch.setattr(engine, "choose_products", lambda *_: way)
        model = packed(fair_esm, dtype)
        return model(packed_tokens, lengths, Outputs(("residues",), (6,))).hidden[6]

    exact = residues(torch.float32, Products)
    plain, fused = (
        float((residues(torch.bfloat16, way) - exact).norm() / exact.norm())
        for way in (Products, FusedProducts)
    )
    assert 0 < fused < 1.03 * plain < 0.01


@pytest.mark.parametrize(
    ("names", "layers", "run"),
    [
        (("mean",), (0,), 0),
        (("mean", "bos"), (3, 0), 3),
        (("residues",), (5,), 5),
        (("residues",), (2, 6), 6),
        (("mean", "logits"), (2,), 6),
        (("contacts",), (0,), 6),
    ],
)
def test_no_layer_behind_the_last_one_runs(
    fair_esm: esm.model.esm2.ESM2, names: tuple[str, ...], layers: tuple[int, ...], run: int
) -> None:
    rng = random.Random(6)
    sequences = [random_sequence(rng, n) for n in (90, 30, 30, 1)]
    tokens = [torch.from_numpy(tokenise(s.encode())).long() for s in sequences]
    model = packed(fair_esm, torch.float32)
    ran = []
    lengths = [len(t) for t in tokens]
    got = model(torch.cat(tokens), lengths, Outputs(names, layers), lambda: ran.append(1))
    assert len(ran) == run
    assert set(got.hidden) == set(layers)
    for place, own in enumerate(tokens):
        with torch.inference_mode():
            expected = fair_esm(own[None], repr_layers=layers, return_contacts=True)
        for layer in layers:
            hidden = expected["representations"][layer][0]
            atol = 1e-5 * max(1.0, float(hidden.abs().max()))
            ours = got.hidden[layer].split(lengths)[place]
            torch.testing.assert_close(ours, hidden, rtol=0, atol=atol)
        if "logits" in names:
            ours = got.logits.split(lengths)[place]
            logits = expected["logits"][0]
            atol = 1e-5 * max(1.0, float(logits.abs().max()))
            torch.testing.assert_close(ours, logits, rtol=0, atol=atol)
        if "contacts" in names:
            torch.testing.assert_close(
                got.contacts[place], expected["contacts"][0], rtol=0, atol=1e-5
            )
