"""Every export is read back by the reader it is for, and each number compared."""

import csv
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import skbio.io
import torch
from embeddings_files import ALPHABET, EmbeddingsFile, write_embeddings
from sequences import write_fasta
from skbio.embedding import ProteinEmbedding, ProteinVector
from spotesm.__main__ import main
from spotesm.commands.export import FORMATS
from spotesm.commands.exports import records
from spotesm.merged.reader import Embeddings

ALL = ("mean/6", "bos/2", "residues/6", "logits/values", "contacts/values")
ROWS = ("mean/6", "bos/2")
ODD = ["sp|P1/2|X", "..", ".", "é", "", 'a,"b"', "x" * 300, "%2E", "<i>", "=1+1"]
IDS = [*ODD[:5], "p0", "p1", *ODD[5:], "p2"]
Pairs = list[tuple[str, np.ndarray]]


def export(format: str, made: EmbeddingsFile, output: Path, *options: str) -> None:
    main(["export", format, str(made.path), str(output), *options])


@pytest.fixture(params=["rows", "bytes"])
def bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three records, or of as many as one or two take."""
    at_once = {"rows": ("ROWS_AT_ONCE", 3), "bytes": ("BYTES_AT_ONCE", 50)}[request.param]
    monkeypatch.setattr(records, *at_once)


class ExportTests:
    """What every format must do; a new one gives itself a subclass.

    Attributes:
        format: its name.
        keys: the outputs that it takes.
        unique: whether it has one place for each id.
    """

    format: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]
    unique: ClassVar[bool] = False

    def options(self, made: EmbeddingsFile) -> list[str]:
        """What else must be given."""
        return []

    def read(self, path: Path, key: str) -> Pairs:
        """All records as the format's own reader gives them; in order, unless ids are unique."""
        raise NotImplementedError

    def expect(self, made: EmbeddingsFile, key: str) -> Pairs:
        """What should be read."""
        return list(zip(made.ids, made.values[key], strict=True))

    def check(self, made: EmbeddingsFile, output: Path, key: str, *options: str) -> None:
        export(self.format, made, output, *self.options(made), *options)
        found, expected = self.read(output, key), self.expect(made, key)
        if self.unique:
            found, expected = sorted(found, key=by_name), sorted(expected, key=by_name)
        assert [name for name, _ in found] == [name for name, _ in expected]
        for (name, values), (_, wanted) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(values, wanted, err_msg=f"{key} of {name}")

    @pytest.mark.usefixtures("bounds")
    @pytest.mark.parametrize("store_dtype", ["float32", "float16"])
    def test_every_output_is_read_back(self, tmp_path: Path, store_dtype: str) -> None:
        made = write_embeddings(tmp_path, IDS, store_dtype)
        for number, key in enumerate(self.keys):
            self.check(made, tmp_path / f"out-{number}", key, "--key", key)

    def test_the_first_output_is_written_if_none_is_named(self, tmp_path: Path) -> None:
        self.check(write_embeddings(tmp_path, IDS), tmp_path / "out", "mean/6")

    def test_ids_that_repeat(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, ["a", "twice", "b", "c", "d", "twice"])
        if not self.unique:
            self.check(made, tmp_path / "out", "mean/6")
            return
        with pytest.raises(SystemExit, match="several records have the id 'twice'"):
            export(self.format, made, tmp_path / "out", *self.options(made))
        assert not (tmp_path / "out").exists()

    def test_no_records(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, [])
        for number, key in enumerate(self.keys):
            self.check(made, tmp_path / f"out-{number}", key, "--key", key)

    def test_what_has_no_place_is_refused(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, IDS)
        for key in set(ALL) - set(self.keys):
            with pytest.raises(SystemExit, match=f"{key} has no place in {self.format}"):
                export(self.format, made, tmp_path / "out", *self.options(made), "--key", key)
        for key in ("residues/offsets", "lengths", "mean", "embeddings/6"):
            with pytest.raises(SystemExit, match=f"has no {key}; .*t has bos/2, contacts/values"):
                export(self.format, made, tmp_path / "out", *self.options(made), "--key", key)
        with pytest.raises(SystemExit, match="has no mean/66; did you mean mean/6"):
            export(self.format, made, tmp_path / "out", *self.options(made), "--key", "mean/66")
        assert not (tmp_path / "out").exists()

    def test_it_says_what_it_wrote(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made = write_embeddings(tmp_path, IDS)
        output = tmp_path / "out"
        export(self.format, made, output, *self.options(made), "--key", "bos/2")
        files = output.iterdir() if output.is_dir() else [output]
        size = sum(file.stat().st_size for file in files)
        said = f"{output}: 13 records, bos/2 (13 x 5 float32), {size:,} bytes\n"
        assert capsys.readouterr().out == said

    def test_sequences_are_asked_for_where_they_are_needed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made = write_embeddings(tmp_path, IDS)
        needs = FORMATS[self.format].needs_fasta
        with pytest.raises(SystemExit):
            export(self.format, made, tmp_path / "x", *(() if needs else ("--fasta", "in.fasta")))
        assert ("give --fasta" if needs else "takes no --fasta") in capsys.readouterr().err

    def test_records_may_be_called_by_accession(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ids = ["sp|P12345|A", "p1", "gi|1|ref|NP_268346.1|", "AF-Q00001-F1", "odd/|"]
        made = write_embeddings(tmp_path, ids)
        options = [*self.options(made), "--ids", "accession"]
        if not FORMATS[self.format].has_ids:
            with pytest.raises(SystemExit):
                export(self.format, made, tmp_path / "out", *options)
            assert f"{self.format} has no ids; leave out --ids" in capsys.readouterr().err
            return
        export(self.format, made, tmp_path / "out", *options)
        names = ["P12345", "p1", "NP_268346.1", "Q00001", "odd/|"]
        found = self.read_names(tmp_path / "out")
        assert (sorted(found) if self.unique else found) == (
            sorted(names) if self.unique else names
        )

    def read_names(self, path: Path) -> list[str]:
        """What the records are called there."""
        return [name for name, _ in self.read(path, "mean/6")]


def by_name(pair: tuple[str, np.ndarray]) -> str:
    return pair[0]


class TestH5(ExportTests):
    format, keys, unique = "h5", ALL, True

    def read(self, path: Path, key: str) -> Pairs:
        with h5py.File(path) as file:
            assert file.attrs["model_name"] == "esm2_t6_8M_UR50D"
            assert file.attrs["format"] == "spotesm-export"
            return [(item.attrs["original_id"], item[:]) for item in file.values()]

    def expect(self, made: EmbeddingsFile, key: str) -> Pairs:
        return one_map(super().expect(made, key), key)

    def read_names(self, path: Path) -> list[str]:
        with h5py.File(path) as file:
            assert file["P12345"].attrs["original_id"] == "sp|P12345|A"
            return [unquote(name) for name in file]

    def test_accessions_that_are_shared(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, ["sp|P12345|A", "p1", "AF-P12345-F1"])
        said = "the ids 'sp|P12345|A' and 'AF-P12345-F1' would have one place"
        with pytest.raises(SystemExit, match=re.escape(said)):
            export("h5", made, tmp_path / "out.h5", "--ids", "accession")
        assert not (tmp_path / "out.h5").exists()

    def test_plain_ids_are_the_names(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, ["sp|P12345|A_B", "p1", "x.y:z"])
        export("h5", made, tmp_path / "out.h5")
        with h5py.File(tmp_path / "out.h5") as file:
            assert set(file) == set(made.ids)

    def test_protspace(self, tmp_path: Path) -> None:
        loader = pytest.importorskip("protspace.data.loaders.h5", reason="protspace is large")
        made = write_embeddings(tmp_path, [f"p{i}" for i in range(9)])
        export("h5", made, tmp_path / "out.h5")
        found = loader.load_h5([tmp_path / "out.h5"])
        assert found.name == "esm2_t6_8M_UR50D"
        for name, values in zip(found.headers, found.data, strict=True):
            np.testing.assert_array_equal(values, made.values["mean/6"][made.ids.index(name)])


class TestNpz(ExportTests):
    format, keys = "npz", ALL

    def read(self, path: Path, key: str) -> Pairs:
        with np.load(path) as arrays:
            ids, values = arrays["ids"].tolist(), arrays["embeddings"]
            if key in ROWS:
                return list(zip(ids, values, strict=True))
            each = np.split(values, arrays["offsets"][1:-1]) if ids else []
            if key == "contacts/values":
                each = [
                    maps.reshape(n, *[round((len(maps) / n) ** 0.5)] * 2)
                    for maps, n in zip(each, arrays["windows"], strict=True)
                ]
            return list(zip(ids, each, strict=True))


class TestParquet(ExportTests):
    format, keys = "parquet", ALL

    def read(self, path: Path, key: str) -> Pairs:
        table = pq.read_table(path)
        return [(row["id"], np.array(row["embedding"], np.float32)) for row in table.to_pylist()]

    def test_without_pyarrow_it_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = write_embeddings(tmp_path, IDS)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(SystemExit, match="pip install pyarrow"):
            export("parquet", made, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_lengths(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, IDS)
        export("parquet", made, tmp_path / "out")
        lengths = pq.read_table(tmp_path / "out")["length"].to_pylist()
        assert lengths == [len(sequence) for _, sequence in made.records]

    def test_pandas(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, IDS)
        export("parquet", made, tmp_path / "out")
        frame = pd.read_parquet(tmp_path / "out")
        np.testing.assert_array_equal(np.stack(frame["embedding"]), made.values["mean/6"])


ALPHABET_IN = {
    "h5": lambda path: h5py.File(path).attrs["alphabet"].tolist(),
    "npz": lambda path: np.load(path)["alphabet"].tolist(),
    "parquet": lambda path: json.loads(pq.read_schema(path).metadata[b"alphabet"]),
    "pt": lambda path: torch.load(path / "a.pt", weights_only=True)["alphabet"],
}


@pytest.mark.parametrize("format", ALPHABET_IN)
def test_columns_of_logits_are_named(tmp_path: Path, format: str) -> None:
    made = write_embeddings(tmp_path, ["a", "b"])
    export(format, made, tmp_path / "out", "--key", "logits/values")
    assert ALPHABET_IN[format](tmp_path / "out") == ALPHABET
    with Embeddings(made.path) as embeddings:
        assert embeddings.alphabet == ALPHABET


class TextTests(ExportTests):
    """Text, with one separator or another."""

    keys = ROWS
    separator: ClassVar[str]

    def read(self, path: Path, key: str) -> Pairs:
        with open(path, newline="", encoding="utf-8") as text:
            header, *lines = csv.reader(text, delimiter=self.separator)
        assert header == ["id", "length", "d0", "d1", "d2", "d3", "d4"]
        return [(line[0], np.array(line[2:], np.float32)) for line in lines]

    def test_pandas(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, IDS)
        export(self.format, made, tmp_path / "out")
        frame = pd.read_csv(
            tmp_path / "out", sep=self.separator, index_col="id", keep_default_na=False
        )
        assert frame.index.tolist() == made.ids
        assert frame.pop("length").tolist() == [len(sequence) for _, sequence in made.records]
        np.testing.assert_array_equal(frame.to_numpy(np.float32), made.values["mean/6"])


class TestCsv(TextTests):
    format, separator = "csv", ","


class TestTsv(TextTests):
    format, separator = "tsv", "\t"


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
class TestH5ad(ExportTests):
    format, keys = "h5ad", ROWS

    def read(self, path: Path, key: str) -> Pairs:
        data = anndata.read_h5ad(path)
        return list(zip(data.obs_names, data.X, strict=True))

    @pytest.mark.usefixtures("bounds")
    def test_everything_else_has_its_place(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, IDS)
        export("h5ad", made, tmp_path / "out.h5ad", "--key", "bos/2")
        data = anndata.read_h5ad(tmp_path / "out.h5ad")
        assert list(data.obsm) == ["mean_6"]
        np.testing.assert_array_equal(data.obsm["mean_6"], made.values["mean/6"])
        assert data.obs["length"].tolist() == [len(sequence) for _, sequence in made.records]
        digests = [
            hashlib.blake2b(sequence.encode(), digest_size=16).hexdigest()
            for _, sequence in made.records
        ]
        assert data.obs["digest"].tolist() == digests
        assert data.var_names.tolist() == ["d0", "d1", "d2", "d3", "d4"]
        assert data.uns["model"] == "esm2_t6_8M_UR50D"
        assert data.uns["key"] == "bos/2"
        assert data.uns["layers"].tolist() == [2, 6]

    def test_backed(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, IDS)
        export("h5ad", made, tmp_path / "out.h5ad")
        data = anndata.read_h5ad(tmp_path / "out.h5ad", backed="r")
        np.testing.assert_array_equal(data.X[4:7], made.values["mean/6"][4:7])


class TestPt(ExportTests):
    format, keys, unique = "pt", ALL, True
    names: ClassVar[dict[str, str]] = {
        "mean/6": "mean_representations",
        "bos/2": "bos_representations",
        "residues/6": "representations",
        "logits/values": "logits",
        "contacts/values": "contacts",
    }

    def read(self, path: Path, key: str) -> Pairs:
        contents = [torch.load(file, weights_only=True) for file in path.iterdir()]
        values = [content[self.names[key]] for content in contents]
        values = [v[int(key[-1])] if isinstance(v, dict) else v for v in values]
        return [(c["label"], v.numpy()) for c, v in zip(contents, values, strict=True)]

    def expect(self, made: EmbeddingsFile, key: str) -> Pairs:
        return one_map(super().expect(made, key), key)

    def test_all_outputs_unless_one_is_named(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, ["a", "b"])
        export("pt", made, tmp_path / "all")
        export("pt", made, tmp_path / "one", "--key", "logits/values")
        all_outputs = torch.load(tmp_path / "all" / "b.pt", weights_only=True)
        assert all_outputs.keys() == {"label", "alphabet", *self.names.values()}
        one = torch.load(tmp_path / "one" / "b.pt", weights_only=True)
        assert one.keys() == {"label", "alphabet", "logits"}


class SequenceTests(ExportTests):
    """Formats that hold sequences, too."""

    keys = ("mean/6", "bos/2", "residues/6")

    def options(self, made: EmbeddingsFile) -> list[str]:
        return ["--fasta", str(made.fasta)]

    @pytest.mark.parametrize("wrong", ["first", "middle", "last", "order", "short"])
    def test_another_fasta_is_refused(self, tmp_path: Path, wrong: str) -> None:
        made = write_embeddings(tmp_path, [f"p{i}" for i in range(9)])
        records = list(made.records)
        match wrong:
            case "order":
                records[3:5] = records[4:2:-1]
            case "short":
                records.pop()
            case place:
                row = {"first": 0, "middle": 4, "last": 8}[place]
                records[row] = (records[row][0], records[row][1] + "W")
        other = write_fasta(tmp_path / "other.fasta", records)
        with pytest.raises(SystemExit, match=r"other.fasta: has no record 'p\d' with the sequence"):
            export(self.format, made, tmp_path / "out", "--fasta", str(other))
        assert not (tmp_path / "out").exists()

    def test_several_fasta_in_their_order(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, [f"p{i}" for i in range(9)])
        first = write_fasta(tmp_path / "1.fasta", made.records[:4])
        second = write_fasta(tmp_path / "2.fasta", made.records[4:])
        export(self.format, made, tmp_path / "out", "--fasta", str(first), "--fasta", str(second))
        if self.format == "skbio":
            assert self.read(tmp_path / "out", "mean/6")[-1][0] == made.records[-1][1]

    def test_records_that_were_rejected_are_passed_over(self, tmp_path: Path) -> None:
        """Those of the same id, before the first, in the middle, and others."""
        made = write_embeddings(tmp_path, [f"p{i}" for i in range(9)])
        records = list(made.records)
        for place, bad in ((8, "M*K"), (4, ""), (0, "M1K")):
            records.insert(place, (records[place][0], bad))
        other = write_fasta(tmp_path / "other.fasta", records)
        export(self.format, made, tmp_path / "a", "--fasta", str(other))
        plain = write_fasta(tmp_path / "plain.fasta", made.records)
        export(self.format, made, tmp_path / "b", "--fasta", str(plain))
        both = [self.read(tmp_path / name, "mean/6") for name in "ab"]
        for (name, values), (wanted, expected) in zip(*both, strict=True):
            assert name == wanted
            np.testing.assert_array_equal(values, expected)

    def test_truncated_sequences_have_no_vector_for_each_residue(self, tmp_path: Path) -> None:
        made = write_embeddings(tmp_path, IDS, truncated=True)
        with pytest.raises(SystemExit, match=r"'sp\|P1/2\|X' and 12 others were truncated"):
            export(self.format, made, tmp_path / "out", *self.options(made), "--key", "residues/6")
        self.check(made, tmp_path / "rows", "mean/6")


class TestBiotrainer(SequenceTests):
    format = "biotrainer"

    def read(self, path: Path, key: str) -> Pairs:
        with h5py.File(path) as file:
            return sorted(((name, item[:]) for name, item in file.items()), key=by_name)

    def expect(self, made: EmbeddingsFile, key: str) -> Pairs:
        """One entry a different sequence, as the FASTA has it: the first one's."""
        entries: dict[str, np.ndarray] = {}
        for (_, sequence), values in zip(made.records, made.values[key], strict=True):
            raw = f"{sequence.lower()}*"
            name = hashlib.sha256(f"{raw}_{len(raw)}".encode()).hexdigest()
            entries.setdefault(name, values)
        return sorted(entries.items(), key=by_name)

    @pytest.mark.parametrize("key", ["mean/6", "residues/6"])
    def test_biotrainer(self, tmp_path: Path, key: str) -> None:
        embedders = pytest.importorskip("biotrainer.embedders.services", reason="it is large")
        files = pytest.importorskip("biotrainer.input_files")
        made = write_embeddings(tmp_path, [f"p{i}" for i in range(9)])
        export(self.format, made, tmp_path / "out.h5", *self.options(made), "--key", key)
        read = [r for r in files.read_FASTA(made.fasta) if r.seq_id in made.ids][:9]
        hashes = [record.get_hash() for record in read]
        found = embedders.EmbeddingService.load_embeddings(str(tmp_path / "out.h5"), hashes)
        for row, name in enumerate(hashes):
            wanted = made.values[key][1 if row == 4 else row]  # they are of one sequence
            np.testing.assert_array_equal(found[name].numpy(), wanted)


class TestSkbio(SequenceTests):
    format = "skbio"

    def read(self, path: Path, key: str) -> Pairs:
        kind = ProteinEmbedding if key == "residues/6" else ProteinVector
        found = skbio.io.read(str(path), format="embed", constructor=kind)
        return [(str(one), one.embedding if key == "residues/6" else one.vector) for one in found]

    def expect(self, made: EmbeddingsFile, key: str) -> Pairs:
        sequences = [sequence for _, sequence in made.records]
        return list(zip(sequences, made.values[key], strict=True))


def one_map(pairs: Pairs, key: str) -> Pairs:
    """Contacts of one window are a map, of several maps."""
    return [(name, v[0] if key == "contacts/values" and len(v) == 1 else v) for name, v in pairs]


@pytest.mark.parametrize("key", ALL)
@pytest.mark.parametrize(("rows", "size"), [(3, 1 << 20), (100, 400), (100, 1)])
def test_a_block_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, rows: int, size: int
) -> None:
    """By records and by bytes, of which one record alone may have more; and no block is empty."""
    monkeypatch.setattr(records, "ROWS_AT_ONCE", rows)
    monkeypatch.setattr(records, "BYTES_AT_ONCE", size)
    made = write_embeddings(tmp_path, IDS)
    with Embeddings(made.path) as embeddings:
        blocks = list(records.Records(embeddings, [key]).blocks())
    assert sum(len(block.ids) for block in blocks) == len(IDS)
    for block in blocks:
        assert 1 <= len(block.ids) <= rows
        assert block.values.nbytes <= size or len(block.ids) == 1


def test_every_format_has_its_tests() -> None:
    classes = [value for value in globals().values() if isinstance(value, type)]
    tested = {c.format for c in classes if issubclass(c, ExportTests) and hasattr(c, "format")}
    assert tested == set(FORMATS)
