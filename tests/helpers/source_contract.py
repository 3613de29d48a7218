"""What every form of weights must do; a new form gets its tests by one subclass."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import CPU, TINY
from safetensors.torch import load_file, save_file
from spotesm.base.failures import WeightsError
from spotesm.model.independent import independent_forward
from spotesm.model.packed import PackedModel
from spotesm.model.reference import FairESM
from spotesm.request.outputs import Outputs
from spotesm.sequences.alphabet import tokenise
from spotesm.weights.architectures import ARCHITECTURES, FAMILIES, PACKED, Architecture
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.files import Kind, tell_kind
from spotesm.weights.manifest import Weights
from spotesm.weights.sources import open_source
from spotesm.weights.tensors import Source

SEQUENCE = b"MKTAYIAKQRLLG"
# Where files of any form have the tensors of a layer.
IN_A_LAYER = r"(layers?|blocks)\.\d\."
Tensors = dict[str, torch.Tensor]
# What a client computes of SEQUENCE: hidden (l + 2, D), logits (l + 2, V), contacts (l, l).
Values = dict[str, torch.Tensor]


def read_tensors(path: Path) -> tuple[dict, Tensors]:
    """All that a file holds, and the tensors in it, to be changed in place."""
    if tell_kind(path) is Kind.SAFETENSORS:
        state = load_file(path)
        return state, state
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, weights_only=True)
    return content, content.get("model", content)


def change_file(path: Path, change: Callable[[Tensors], None]) -> None:
    """Write a file of weights anew, with other tensors."""
    content, tensors = read_tensors(path)
    change(tensors)
    if content is tensors and tell_kind(path) is Kind.SAFETENSORS:
        save_file({name: x.contiguous() for name, x in content.items()}, path)
    else:
        torch.save(content, path)


def values_of(model: FairESM, layer: int) -> Values:
    """What fair-esm's forward gives for SEQUENCE."""
    tokens = torch.from_numpy(tokenise(SEQUENCE)).long()[None]
    with torch.inference_mode():
        result = model(tokens, [layer], return_contacts=True)
    hidden = result["representations"][layer][0]
    return {"hidden": hidden, "logits": result["logits"][0], "contacts": result["contacts"][0]}


def values_by(source: Source) -> Values:
    """What the independent forward of its family gives for SEQUENCE."""
    last, contacts = source.architecture.layers, source.architecture.has_regression
    with torch.inference_mode():
        computed = independent_forward(source).compute(SEQUENCE, [last], contacts)
    values = {"hidden": computed.hidden[last], "logits": computed.logits}
    return values | ({"contacts": computed.contacts} if contacts else {})


def whole(prefix: str = "esm.") -> Tensors:
    """A small model under the names that transformers gives its tensors."""
    generator = torch.Generator().manual_seed(0)
    dim = TINY.embedding_dim

    def affine(name: str, rows: int, columns: int) -> Tensors:
        weight = torch.randn(rows, columns, generator=generator) * 0.1
        return {f"{name}.weight": weight, f"{name}.bias": weight[:, 0].clone()}

    def norm(name: str) -> Tensors:
        return {f"{name}.weight": torch.full((dim,), 1.1), f"{name}.bias": torch.full((dim,), 0.1)}

    embedding = torch.randn(33, dim, generator=generator)
    state = {f"{prefix}embeddings.word_embeddings.weight": embedding}
    for number in range(TINY.layers):
        layer = f"{prefix}encoder.layer.{number}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            state |= affine(f"{layer}attention.{part}", dim, dim)
        state |= norm(f"{layer}attention.LayerNorm") | norm(f"{layer}LayerNorm")
        state |= affine(f"{layer}intermediate.dense", 4 * dim, dim)
        state |= affine(f"{layer}output.dense", dim, 4 * dim)
    state |= norm(f"{prefix}encoder.emb_layer_norm_after")
    state |= affine(f"{prefix}contact_head.regression", 1, TINY.layers * TINY.attention_heads)
    state |= affine("lm_head.dense", dim, dim) | norm("lm_head.layer_norm")
    return state | {"lm_head.bias": torch.arange(33.0)}


class SourceTests:
    """A subclass writes its form, and says what its own client computes of it."""

    architecture = TINY
    adapter: str = ""
    tolerance = 1e-5

    def write(self, folder: Path) -> Path:
        """Write a model, and say what the user would give."""
        raise NotImplementedError

    def expected(self, where: Path) -> Values:
        """What the client that wrote it computes of SEQUENCE, by the names of `values_of`."""
        raise NotImplementedError

    def tensor_file(self, where: Path) -> Path:
        """One of its files with tensors of the trunk."""
        return next(where.glob("*.safetensors")) if where.is_dir() else where

    @pytest.fixture
    def where(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setitem(ARCHITECTURES, "esm_tiny", self.architecture)
        (tmp_path / "w").mkdir()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return self.write(tmp_path / "w")

    def fetch(self, where: Path, **wanted: bool) -> Weights:
        manifest = where.parent / "manifest.json"
        fetch_weights("esm_tiny", str(where), manifest, self.adapter, **wanted)
        return Weights.read(manifest)

    def test_it_gives_the_numbers_of_its_client(self, where: Path) -> None:
        wanted = self.expected(where)
        source = self.fetch(where).open()
        values = values_by(source)
        assert source.has_logits == ("logits" in wanted)
        for name, expected in wanted.items():
            assert values[name].std() > 1e-4  # it means something
            torch.testing.assert_close(values[name], expected, rtol=0, atol=self.tolerance)
        if PACKED not in self.architecture.traits.engines:
            return
        engine = PackedModel.of_source(source, CPU, torch.float32)
        tokens = torch.from_numpy(tokenise(SEQUENCE)).long()
        kinds = ("residues", *(kind for kind in ("logits", "contacts") if kind in wanted))
        last = self.architecture.layers
        out = engine(tokens, [len(tokens)], Outputs(kinds, (last,)))
        close = {"rtol": 0, "atol": self.tolerance}
        torch.testing.assert_close(out.hidden[last], wanted["hidden"], **close)
        if "logits" in wanted:
            torch.testing.assert_close(out.logits, wanted["logits"], **close)
        if "contacts" in wanted:
            torch.testing.assert_close(out.contacts[0], wanted["contacts"], **close)

    def test_what_it_lacks_is_refused_where_it_is_wanted(self, where: Path) -> None:
        values = self.expected(where)
        for name in ("logits", "contacts"):
            if name in values:
                self.fetch(where, **{name: True})
            else:
                with pytest.raises(WeightsError, match=f"{name} need"):
                    self.fetch(where, **{name: True})

    def test_a_change_of_any_file_is_noticed(self, where: Path) -> None:
        weights = self.fetch(where)
        weights.open()
        assert weights.files
        for path in map(Path, weights.files):
            before = path.read_bytes()
            path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
            with pytest.raises(WeightsError, match=re.escape(str(path))):
                weights.open()
            path.write_bytes(before)
        weights.open()

    @pytest.mark.parametrize(("which", "value"), [(0, torch.nan), (7, torch.inf), (-1, -torch.inf)])
    def test_a_number_that_is_none_is_named(self, where: Path, which: int, value: float) -> None:
        """In the first, in one of the middle, in the last."""

        def spoil(tensors: Tensors) -> None:
            names = sorted(n for n in tensors if re.search(IN_A_LAYER, n))
            tensors[names[min(which, len(names) - 1)]].detach().view(-1)[-1] = value

        change_file(self.tensor_file(where), spoil)
        with pytest.raises(WeightsError, match=r"layers\.\d\.\S+ holds a NaN or an infinite"):
            self.fetch(where)

    @pytest.mark.parametrize("which", [0, 7, -1])
    def test_a_tensor_that_is_missing_is_named(self, where: Path, which: int) -> None:
        def drop(tensors: Tensors) -> None:
            names = sorted(name for name in tensors if re.search(IN_A_LAYER, name))
            del tensors[names[min(which, len(names) - 1)]]

        change_file(self.tensor_file(where), drop)
        with pytest.raises(WeightsError, match=r"layers\.\d\.\S+ (is|are) missing"):
            self.fetch(where)

    def test_a_tensor_too_many_is_named(self, where: Path) -> None:
        change_file(self.tensor_file(where), lambda t: t.update(extra=torch.zeros(3)))
        with pytest.raises(WeightsError, match=r"holds extra|extra is more than"):
            self.fetch(where)

    def test_a_wrong_shape_is_named(self, where: Path) -> None:
        def widen(tensors: Tensors) -> None:
            name = sorted(name for name in tensors if re.search(rf"{IN_A_LAYER}.*bias", name))[-1]
            tensors[name] = torch.zeros(19)

        change_file(self.tensor_file(where), widen)
        with pytest.raises(WeightsError, match=r"layers\.\d\.\S+ is \(19,\), and should be"):
            self.fetch(where)

    def test_half_a_download_is_told(self, where: Path) -> None:
        path = self.tensor_file(where)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(WeightsError, match=r"half a download|damaged") as caught:
            self.fetch(where)
        assert str(path) in str(caught.value)
        assert "weights_only" not in str(caught.value)

    def test_another_model_is_refused(self, where: Path) -> None:
        own = self.architecture.family
        for other in (
            Architecture(3, 16, 2, own),
            Architecture(2, 32, 2, own),
            *(Architecture(2, 16, 2, family) for family in FAMILIES if family != own),
        ):
            with pytest.raises(WeightsError, match="model: name"):
                open_source(where, other)
