"""Reading back, exporting and verifying a file that the real steps made."""

import csv
import dataclasses
import pickle
import random
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from checksums import restate
from sequences import random_sequence, write_fasta
from shards import make_job, make_merge
from spotesm.__main__ import main
from spotesm.base.failures import InputError
from spotesm.embed.worker import embed_shard
from spotesm.merged.merge import merge_shards
from spotesm.merged.reader import Embeddings
from spotesm.sequences.long_sequences import LongSequences

LONG = LongSequences("window", 60, 20, "reject")


@dataclasses.dataclass
class Made:
    """A dataset's file, what it was made from, and its manifest of weights."""

    path: Path
    fasta: Path
    weights: Path
    records: list[tuple[str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, weights_manifest: Path) -> Made:
    """Forty proteins with all outputs; one record is rejected, two have the same id."""
    folder = tmp_path_factory.mktemp("made")
    rng = random.Random(80)
    odd = ["sp|P1/2|X", "..", "<b>", "é", "", "twice", "twice", "x" * 300]
    names = odd + [f"p{i}" for i in range(32)]
    records = [(name, random_sequence(rng, rng.randint(4, 150))) for name in names]
    fasta = write_fasta(folder / "in.fasta", [*records[:20], ("bad", "AC*DE"), *records[20:]])
    job = make_job(
        folder,
        fasta,
        weights_manifest,
        outputs=("mean", "bos", "residues", "logits", "contacts"),
        layers=(-1, 2),
        long_sequences=LONG,
    )
    embed_shard(job)
    out = folder / "out"
    rejected = out / "rejected.tsv"
    merge_shards(make_merge([job.output], folder, out, rejected=rejected, compression="gzip"))
    return Made(folder / "out" / "embeddings.h5", fasta, weights_manifest, records)


@pytest.fixture
def whole(made: Made) -> dict[str, np.ndarray]:
    """Everything in the file, as plain h5py reads it."""
    with h5py.File(made.path) as file:
        names = ("mean/6", "bos/2", "residues/6", "residues/offsets", "windows")
        return {name: file[name][:] for name in names}


# -- reading ---------------------------------------------------------------------------------------


def test_rows_by_place_by_id_and_many_at_once(made: Made, whole: dict[str, np.ndarray]) -> None:
    rows = whole["mean/6"]
    with Embeddings(made.path) as embeddings:
        assert len(embeddings) == len(rows) == 40
        assert embeddings.ids == [name for name, _ in made.records]
        for wanted in (0, 7, -1, np.int64(3)):
            np.testing.assert_array_equal(embeddings[wanted], rows[wanted])
        np.testing.assert_array_equal(embeddings["é"], rows[3])
        for many in (slice(3, 20, 4), slice(None, None, -1), [5, 1, 5, -2], np.arange(40) % 3 == 0):
            np.testing.assert_array_equal(embeddings[many], rows[many])
        np.testing.assert_array_equal(np.stack(list(embeddings)), rows)
        assert embeddings.rows_of("twice") == [5, 6]
        with pytest.raises(KeyError, match="2 records have the id or accession 'twice'"):
            embeddings["twice"]
        with pytest.raises(KeyError, match="no record has the id 'nobody'"):
            embeddings["nobody"]
        with pytest.raises(IndexError, match="has 40 rows, not row 40"):
            embeddings[40]
    with Embeddings(made.path, key="bos/2", as_torch=True) as embeddings:
        torch.testing.assert_close(embeddings["p3"], torch.from_numpy(whole["bos/2"][11]))


def test_what_depends_on_length(made: Made, whole: dict[str, np.ndarray]) -> None:
    offsets = whole["residues/offsets"]
    with Embeddings(made.path) as embeddings:
        for row, (_, sequence) in enumerate(made.records):
            expected = whole["residues/6"][offsets[row] : offsets[row + 1]]
            np.testing.assert_array_equal(embeddings.residues(row, 6), expected)
            np.testing.assert_allclose(expected.mean(0), embeddings[row], rtol=0, atol=1e-5)
            assert embeddings.logits(row).shape == (len(sequence), 33)
            side = min(len(sequence), LONG.window)
            assert embeddings.contacts(row).shape == (whole["windows"][row], side, side)
        with pytest.raises(InputError, match=r"has residues/2, residues/6; name a layer"):
            embeddings.residues(0)


def test_a_data_loader_with_workers(made: Made, whole: dict[str, np.ndarray]) -> None:
    embeddings = Embeddings(made.path, as_torch=True)
    assert len(pickle.loads(pickle.dumps(embeddings))) == 40
    loader = torch.utils.data.DataLoader(embeddings, batch_size=7, num_workers=2)
    torch.testing.assert_close(torch.cat(list(loader)), torch.from_numpy(whole["mean/6"]))


def test_foreign_files_are_refused_in_one_line(tmp_path: Path, made: Made) -> None:
    (tmp_path / "text.h5").write_text("hello")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    for path, message in (
        (tmp_path / "none.h5", "no such file"),
        (tmp_path / "text.h5", "cannot be read as HDF5"),
        (tmp_path / "other.h5", "not a file of spotESM"),
    ):
        with pytest.raises(InputError, match=message):
            Embeddings(path)
    with pytest.raises(InputError, match="has no bos/9; it has bos/2, bos/6"):
        Embeddings(made.path, key="bos/9")


# -- exporting -------------------------------------------------------------------------------------


@pytest.fixture
def unique(made: Made, tmp_path: Path) -> Path:
    """The same file, with unique ids."""
    path = tmp_path / "embeddings.h5"
    path.write_bytes(made.path.read_bytes())
    with h5py.File(path, "a") as file:
        file["sequence_ids"][6] = "once"
    return path


def test_one_dataset_a_protein(unique: Path, tmp_path: Path, whole: dict[str, np.ndarray]) -> None:
    main(["export", "h5", str(unique), str(tmp_path / "per-protein.h5")])
    with h5py.File(tmp_path / "per-protein.h5") as file, Embeddings(unique) as embeddings:
        assert len(file) == 40
        found = {item.attrs["original_id"]: item[:] for item in file.values()}
        np.testing.assert_array_equal(file["p0"][:], whole["mean/6"][8])
        assert found.keys() == set(embeddings.ids)
        for row, identifier in enumerate(embeddings.ids):
            np.testing.assert_array_equal(found[identifier], whole["mean/6"][row])


def test_npz(made: Made, tmp_path: Path, whole: dict[str, np.ndarray]) -> None:
    main(["export", "npz", str(made.path), str(tmp_path / "x.npz"), "--key", "bos/2"])
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["ids"].tolist() == [name for name, _ in made.records]
        np.testing.assert_array_equal(arrays["embeddings"], whole["bos/2"])


def test_parquet(made: Made, tmp_path: Path, whole: dict[str, np.ndarray]) -> None:
    main(["export", "parquet", str(made.path), str(tmp_path / "x.parquet")])
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["id"].to_pylist() == [name for name, _ in made.records]
    assert table["length"].to_pylist() == [len(sequence) for _, sequence in made.records]
    vectors = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(vectors, whole["mean/6"])


def test_a_file_a_protein(unique: Path, tmp_path: Path, whole: dict[str, np.ndarray]) -> None:
    folder = tmp_path / "pt"
    main(["export", "pt", str(unique), str(folder)])
    found = {}
    for path in folder.iterdir():
        assert path.is_file()
        content = torch.load(path, weights_only=True)
        found[content["label"]] = content
    with Embeddings(unique) as embeddings:
        assert found.keys() == set(embeddings.ids)
        for row, identifier in enumerate(embeddings.ids):
            content = found[identifier]
            mean = content["mean_representations"][6].numpy()
            np.testing.assert_array_equal(mean, whole["mean/6"][row])
            np.testing.assert_array_equal(
                content["representations"][2].numpy(), embeddings.residues(row, 2)
            )


def test_a_format_with_one_place_for_each_id_says_which_repeats(made: Made, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="several records have the id 'twice'"):
        main(["export", "h5", str(made.path), str(tmp_path / "x.h5")])
    assert not (tmp_path / "x.h5").exists()


# -- verifying -------------------------------------------------------------------------------------


def run_verify(made: Made, path: Path) -> None:
    options = ["--weights", str(made.weights), "--rows", "40"]
    options += ["--rejected", str(made.path.with_name("rejected.tsv"))]
    main(["verify", str(path), str(made.fasta), *options])


def test_a_right_file_is_verified(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    run_verify(made, made.path)
    said = capsys.readouterr().out
    assert "40 rows are the records" in said
    assert "40 rows recomputed by fair-esm" in said


@pytest.mark.parametrize(
    ("name", "row", "value", "message"),
    [
        ("sequence_ids", 4, "other", "row 4: its id is 'other', but the FASTA says ''"),
        ("lengths", 11, 3, "row 11: its length is 3"),
        ("digests", 30, 0, "row 30: its digest is"),
        ("mean/2", 8, np.nan, "mean/2 has values that are not finite"),
        ("mean/6", 8, 0.5, "row 8: has other values of mean/6 than were computed"),
        ("residues/2", 700, 9.5, "has other values of residues/2 than were computed"),
        ("mean/6", 8, 0.5, r"row 8 \(p0\): mean/6 is .* off what fair-esm computes"),
        ("residues/2", 700, 9.5, r"residues/2 is .* off what fair-esm computes"),
    ],
)
def test_a_wrong_file_is_not(
    made: Made, tmp_path: Path, name: str, row: int, value: object, message: str
) -> None:
    path = tmp_path / "embeddings.h5"
    path.write_bytes(made.path.read_bytes())
    with h5py.File(path, "a") as file:
        file[name][row] = value
        if "computes" in message:  # as if they had been computed so
            restate(file, name)
    with pytest.raises(SystemExit, match=message):
        run_verify(made, path)


def test_rejected_records_must_be_listed(made: Made, tmp_path: Path) -> None:
    with open(made.path.with_name("rejected.tsv"), newline="") as tsv:
        header = next(csv.reader(tsv, delimiter="\t"))
    (tmp_path / "rejected.tsv").write_text("\t".join(header) + "\n")
    with pytest.raises(SystemExit, match="record 20 is missing"):
        main(
            [
                "verify",
                str(made.path),
                str(made.fasta),
                "--rejected",
                str(tmp_path / "rejected.tsv"),
            ]
        )
