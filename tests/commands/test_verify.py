"""What `spotesm verify` notices, and what it says to odd arguments: always one line."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from checksums import restate_all
from merged import write_merged
from models import write_fair_esm
from sequences import write_fasta
from shards import make_request
from spotesm.__main__ import main
from spotesm.base.paths import weights_manifest as weights_manifest_of
from spotesm.commands import verify
from spotesm.merged import integrity
from spotesm.merged.reader import opened
from spotesm.model import independent
from spotesm.sequences.digests import digest_sequence
from spotesm.sequences.long_sequences import LongSequences
from spotesm.sequences.rejected import Rejected
from spotesm.shards.shard_writer import as_attribute
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights
from spotesm.weights.prepared import Prepared

N, D, WINDOW = 11, 320, 10
REJECTED = (0, 5, 12)
HEADER = "\t".join(Rejected._fields)
LINES = [f"{ordinal}\tbad{ordinal}\tsplit\tempty\t" for ordinal in REJECTED]


@dataclass(frozen=True)
class Dataset:
    """A merged file, and what it was made from."""

    file: Path
    fasta: Path
    rejected: Path


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Eleven records of some fourteen, with every output; none of it computed."""
    folder = tmp_path / "results" / "d"
    folder.mkdir(parents=True)
    sequences = ["ACDEFGHIKLMNPQRSTVWY"[i : i + 3 + 2 * i % 13] for i in range(N)]
    kept = iter(enumerate(sequences))
    records = [
        (f"bad{i}", "") if i in REJECTED else (lambda n, s: (f"é{n}", s))(*next(kept))
        for i in range(N + len(REJECTED))
    ]
    fasta = write_fasta(tmp_path / "in.fasta", records)
    rejected = folder / "rejected.tsv"
    rejected.write_text("\n".join([HEADER, *LINES, ""]), encoding="utf-8")
    lengths = np.array(list(map(len, sequences)), np.int32)
    policy = LongSequences("window", WINDOW, 4, "reject")
    windows = policy.count_windows(lengths)
    maps = windows * np.minimum(lengths, WINDOW) ** 2
    file = write_merged(
        folder / "embeddings.h5",
        [f"é{n}" for n in range(N)],
        mean_6=np.ones((N, D), np.float32),
        bos_6=np.ones((N, D), np.float32),
        residues_6=np.ones((lengths.sum(), D), np.float32),
        residues_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        logits_values=np.ones((lengths.sum(), 33), np.float32),
        logits_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        contacts_values=np.ones(maps.sum(), np.float32),
        contacts_offsets=np.concatenate([[0], np.cumsum(maps)]),
    )
    request = make_request(
        outputs=("mean", "bos", "residues", "logits", "contacts"),
        layers=(6,),
        precision="float32",
        long_sequences=policy,
    )
    with h5py.File(file, "a") as writer:
        writer["lengths"][:] = lengths
        writer["windows"][:] = windows
        writer["digests"][:] = [list(digest_sequence(s.encode())) for s in sequences]
        settings = request.fingerprint("0" * 64)
        writer.attrs.update({name: as_attribute(value) for name, value in settings.items()})
        writer.attrs.update(fingerprint=json.dumps(settings), weights="untrained")
        writer.attrs.update(n_records=N + len(REJECTED), n_rejected=len(REJECTED), embedding_dim=D)
        writer.attrs.update(config="{}", rejected_on="[]", biologically_meaningful=False)
        restate_all(writer)
    return Dataset(file, fasta, rejected)


def run(dataset: Dataset, *options: object, rows: int = 0) -> None:
    arguments = [dataset.file, dataset.fasta, "--rows", rows, *options]
    main(["verify", *map(str, arguments)])


def said_by(dataset: Dataset, *options: object, rows: int = 0) -> str:
    """The one line with which the command ends."""
    with pytest.raises(SystemExit) as caught:
        run(dataset, *options, rows=rows)
    said = caught.value.code
    assert isinstance(said, str)
    assert "\n" not in said
    return said


def test_what_is_right_is_said_to_be(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    run(dataset)
    keys = "bos/6, contacts/values, logits/values, mean/6, residues/6"
    assert capsys.readouterr().out.splitlines() == [
        "11 rows are the records of the FASTA, in order: ids, lengths, digests",
        "every header of the FASTA is one of these rows or of 3 rejected ones",
        f"all values of {keys} are finite, and as their checksums say",
    ]


# -- the file --------------------------------------------------------------------------------------

KEYS = ["mean/6", "bos/6", "residues/6", "logits/values", "contacts/values"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("key", KEYS)
def test_one_bad_value_among_good_ones(
    dataset: Dataset, key: str, place: str, value: float
) -> None:
    with h5py.File(dataset.file, "a") as file:
        values = file[key][:]
        values.flat[{"first": 0, "middle": values.size // 2, "last": values.size - 1}[place]] = (
            value
        )
        file[key][...] = values
    assert said_by(dataset) == f"{dataset.file}: {key} has values that are not finite"


@pytest.mark.parametrize("size", [5, N - 1, N, N + 1])
def test_a_bad_value_alone_in_the_last_block(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(integrity, "ROWS_AT_ONCE", size)
    with h5py.File(dataset.file, "a") as file:
        file["mean/6"][-1, -1] = np.nan
    assert "mean/6 has values that are not finite" in said_by(dataset)


def test_random_numbers_are_not_said_to_be_meaningful(dataset: Dataset) -> None:
    with h5py.File(dataset.file, "a") as file:
        file.attrs["biologically_meaningful"] = True
    assert "biologically_meaningful does not fit its weights, untrained" in said_by(dataset)


@pytest.mark.parametrize("place", [0, 1, 3, 6, N - 1, N])
@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("group", ["residues", "logits", "contacts"])
def test_each_offset_counts(dataset: Dataset, group: str, by: int, place: int) -> None:
    with h5py.File(dataset.file, "a") as file:
        file[f"{group}/offsets"][place] += by
    said = said_by(dataset)
    if place == 0:
        assert f"{group}/offsets are not {N + 1} numbers from 0 on" in said
    elif place == N:
        assert f"{group}/" in said and " rows, not " in said
    else:
        assert f"row {place - 1}: has " in said and f"values of {group}, not " in said


@pytest.mark.parametrize("place", [0, 5, N - 1])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lengths", "its length is"),
        ("digests", "its digest is"),
        ("sequence_ids", "its id is"),
        ("windows", "99 windows, not"),
    ],
)
def test_each_record_counts(dataset: Dataset, name: str, message: str, place: int) -> None:
    with h5py.File(dataset.file, "a") as file:
        file[name][place] = "other" if name == "sequence_ids" else 99
    assert f"row {place}: {message}" in said_by(dataset)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_output(dataset: Dataset, key: str) -> None:
    with h5py.File(dataset.file, "a") as file:
        del file[key]
    assert said_by(dataset).startswith(f"{dataset.file}: has no {key}")


@pytest.mark.parametrize("key", [*KEYS, "residues/offsets", "contacts/offsets"])
def test_an_output_of_too_few_rows(dataset: Dataset, key: str) -> None:
    with h5py.File(dataset.file, "a") as file:
        values = file[key][:-1]
        del file[key]
        file[key] = values
    said = said_by(dataset)
    assert key in said or key.replace("values", "offsets") in said


@pytest.mark.parametrize("key", KEYS)
def test_an_output_of_another_type(dataset: Dataset, key: str) -> None:
    with h5py.File(dataset.file, "a") as file:
        values = file[key][:].astype(np.float16)
        del file[key]
        file[key] = values
    assert f"{key} is {values.shape} float16, not {values.shape} float32" in said_by(dataset)


@pytest.mark.parametrize("link", ["/bos/6", "/residues/6", "/lengths", "/none"])
def test_embeddings_are_the_first_output(dataset: Dataset, link: str) -> None:
    with h5py.File(dataset.file, "a") as file:
        del file["embeddings"]
        file["embeddings"] = h5py.SoftLink(link)
    said = said_by(dataset)
    assert "embeddings is not mean/6" in said or f"{link[1:]}" in said


def test_an_output_that_nobody_asked_for(dataset: Dataset) -> None:
    with h5py.File(dataset.file, "a") as file:
        file["mean/5"] = file["mean/6"][:]
    assert "has mean/5, which it was computed without" in said_by(dataset)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "esm2_t12_35M_UR50D"),
        ("engine", "reference"),
        ("outputs", ["mean"]),
        ("layers", [5]),
        ("store_dtype", "float16"),
        ("precision", "bfloat16"),
        ("long_sequences", json.dumps(vars(LongSequences("whole", WINDOW, 4, "reject")))),
        ("long_sequences", "{"),
        ("long_sequences", "{}"),
        ("weights_sha256", "1" * 64),
        ("fingerprint", "{}"),
        ("fingerprint", "[]"),
        ("fingerprint", "{"),
        ("n_records", 13),
        ("n_rejected", "none"),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_each_attribute_counts(dataset: Dataset, name: str, value: object, gone: bool) -> None:
    with h5py.File(dataset.file, "a") as file:
        del file.attrs[name]
        if not gone:
            file.attrs[name] = value
    assert str(dataset.file) in said_by(dataset)


# -- the FASTA and rejected.tsv --------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 6, N + 2])
@pytest.mark.parametrize("glue", ["\n", "", "*"], ids=["line", "glued", "glued-to-stop"])
def test_a_record_that_the_reader_loses_is_missed(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, place: int, glue: str
) -> None:
    """`read_fasta` gives the records of before, whatever is in the file now."""
    before = list(verify.read_fasta([dataset.fasta]))
    monkeypatch.setattr(verify, "read_fasta", lambda _: iter(before))
    records = dataset.fasta.read_text().split(">")[1:]
    records[place] = f"{records[place][:-1]}{glue}>another\nMKV\n"
    dataset.fasta.write_text("".join(f">{record}" for record in records))
    assert said_by(dataset) == (
        f"{dataset.file}: 11 rows and 3 rejected records, but the FASTA has 15 headers"
    )


@pytest.mark.parametrize("place", [0, 5, N - 1])
def test_a_row_that_was_taken_out_whole_is_missed(dataset: Dataset, place: int) -> None:
    kept = np.delete(np.arange(N), place)
    with h5py.File(dataset.file, "a") as file:
        for name in ("lengths", "windows", "digests", "sequence_ids", "mean/6", "bos/6"):
            values = file[name][:][kept]
            del file[name]
            file[name] = values
        file.attrs["n_records"] -= 1
    assert said_by(dataset).startswith(
        f"{dataset.file}, row {place}: its id is 'é{place + 1}'"
    ) or (place == N - 1 and "from row 10 on, the FASTA has more records" in said_by(dataset))


@pytest.mark.parametrize(
    ("content", "n"),
    [
        (b"", 0),
        (b"; >no\n# > no\n>a >b\nMK\n>b\nAC", 2),
        (b"\xef\xbb\xbf>a\rMK\r>b\rAC\r>c", 3),
        (b">a\r\nMK\r\n\r\n>b\r\nAC*>c\r\n", 3),
        (b">a\nMK<br>\n</p>\nMK>b\n>\n", 3),
    ],
)
def test_headers_are_counted(tmp_path: Path, content: bytes, n: int) -> None:
    for written in (content, gzip.compress(content)):
        (tmp_path / "in").write_bytes(written)
        assert verify.count_headers(tmp_path / "in") == n


def test_another_folder(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run(dataset)
    relative = Dataset(Path("../results/d/embeddings.h5"), Path("../in.fasta"), Path())
    run(relative)
    monkeypatch.chdir(dataset.file.parent)
    run(Dataset(Path("embeddings.h5"), Path("../../in.fasta"), Path()))


@pytest.mark.parametrize("named", [False, True])
def test_without_rejected_tsv(dataset: Dataset, tmp_path: Path, named: bool) -> None:
    dataset.rejected.unlink()
    where = tmp_path / "other.tsv" if named else dataset.rejected
    said = said_by(dataset, *(["--rejected", where] if named else []))
    assert said.startswith(f"{where}: cannot be read (No such file or directory); it lists the ")
    assert "--rejected" in said


ODD = {
    "nothing in it": (b"", "has not the columns ordinal, id"),
    "other columns": (b"a\tb\n", "has not the columns ordinal, id"),
    "no header": ("\n".join(LINES).encode(), "has not the columns ordinal, id"),
    "commas": (HEADER.replace("\t", ",").encode(), "has not the columns"),
    "a column less": (f"{HEADER}\n0\tbad0\tsplit\tempty\n".encode(), "line 2: has 4 columns"),
    "a column more": (f"{HEADER}\n{LINES[0]}\t\n".encode(), "line 2: has 6 columns"),
    "an empty line": (f"{HEADER}\n{LINES[0]}\n\n{LINES[1]}\n".encode(), "line 3: has 0 columns"),
    "a word": (f"{HEADER}\n{LINES[0]}\nx{LINES[1]}\n".encode(), "line 3: 'x5' is no ordinal"),
    "a fraction": (f"{HEADER}\n0.0\t\t\t\t\n".encode(), "'0.0' is no ordinal"),
    "a sign": (f"{HEADER}\n-1\t\t\t\t\n".encode(), "'-1' is no ordinal"),
    "other digits": (f"{HEADER}\n٣\t\t\t\t\n".encode(), "is no ordinal"),
    "many digits": (f"{HEADER}\n{'9' * 5000}\t\t\t\t\n".encode(), "is no ordinal"),
    "not sorted": ("\n".join([HEADER, LINES[1], LINES[0]]).encode(), "0 after 5"),
    "a line twice": ("\n".join([HEADER, *LINES, LINES[2]]).encode(), "12 after 12"),
    "beyond the end": (
        "\n".join([HEADER, *LINES, "14\tx\tsplit\tempty\t"]).encode(),
        "lists record 14, but the FASTA has 14",
    ),
    "one missing": ("\n".join([HEADER, *LINES[:2]]).encode(), "record 12 is missing"),
    "the first missing": ("\n".join([HEADER, *LINES[1:]]).encode(), "record 0 is missing"),
    "one too many": (
        "\n".join([HEADER, *LINES, "13\tx\tsplit\tempty\t"]).encode(),
        "from row 10 on, the file has more records",
    ),
    "Latin-1": (f"{HEADER}\n{LINES[0]}é\n".encode("latin-1"), "is no TSV of rejected records"),
    "UTF-16": (HEADER.encode("utf-16"), "is no TSV of rejected records"),
    "NUL": (f"{HEADER}\n0\0\t\t\t\t\n".encode(), "is no"),
}


@pytest.mark.parametrize("content", ODD)
def test_an_odd_rejected_tsv(dataset: Dataset, content: str) -> None:
    dataset.rejected.write_bytes(ODD[content][0])
    said = said_by(dataset)
    assert ODD[content][1] in said
    assert str(dataset.rejected if "the file has" not in said else dataset.file) in said
    assert len(said) < 400


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("bad5", "b" * 200_000),
        lambda text: text.replace("bad5", '"b ""5"""'),
    ],
    ids=["as Windows writes it", "with a mark", "without its last newline", "long", "quoted"],
)
def test_a_rejected_tsv_that_was_only_copied(
    dataset: Dataset, change: Callable[[str], str]
) -> None:
    content = change(dataset.rejected.read_text(encoding="utf-8"))
    dataset.rejected.write_bytes(content.encode())
    run(dataset)


@pytest.mark.parametrize("name", ["none", ".", "in.fasta.gz"])
def test_a_fasta_that_cannot_be_read(dataset: Dataset, tmp_path: Path, name: str) -> None:
    (tmp_path / "in.fasta.gz").write_bytes(b"\x1f\x8bnot gzip")
    other = Dataset(dataset.file, tmp_path / name, dataset.rejected)
    assert said_by(other).startswith(f"{tmp_path / name}")


def test_a_fasta_may_be_a_pipe(dataset: Dataset, tmp_path: Path) -> None:
    """It is read once, so `<(zcat ...)` will do."""
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cp", dataset.fasta, tmp_path / "pipe"]) as copying:
        run(Dataset(dataset.file, tmp_path / "pipe", dataset.rejected))
    assert copying.returncode == 0


# -- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["-1", "1.5", "all", ""])
def test_rows_are_a_number(dataset: Dataset, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["verify", str(dataset.file), str(dataset.fasta), "--rows", rows])
    assert caught.value.code == 2
    assert "Error: Invalid value for '--rows'" in capsys.readouterr().err


def wrong_weights(folder: Path) -> list[tuple[Path, str]]:
    contents = {
        "weights.pt": b"PK\x03\x04" + bytes(range(256)),
        "empty": b"",
        "text": b"hello",
        "list.json": b"[]",
        "null.json": b"null",
        "number.json": b"5",
        "other.json": b'{"model": "esm2"}',
        "summary.json": b'{"n_records": 3}',
        "half.json": b'{"model": "esm2_t6_8M',
        "latin.json": b'{"model": "\xe9"}',
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_weights_that_are_no_manifest(dataset: Dataset, tmp_path: Path) -> None:
    for path in wrong_weights(tmp_path):
        said = said_by(dataset, "--weights", path, rows=5)
        assert str(path) in said
        assert "manifest" in said or "another version" in said


def test_weights_that_are_not_there(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        assert f"{path}: no such file" in said_by(dataset, "--weights", path, rows=1)
    monkeypatch.chdir(tmp_path)
    said = said_by(dataset, rows=1)
    assert said.startswith("resources/weights/untrained/esm2_t6_8M_UR50D.json: no such file")
    assert "--weights" in said


def test_other_weights(dataset: Dataset, weights_manifest: Path) -> None:
    assert "not the weights that" in said_by(dataset, "--weights", weights_manifest, rows=1)


def test_weights_are_found_where_the_workflow_ran(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the file's own place, from any folder; paths in the manifest are relative to it."""
    monkeypatch.chdir(tmp_path)
    manifest = Path("resources/weights/untrained/esm2_t6_8M_UR50D.json")
    path = manifest.with_suffix(".pt")
    write_fair_esm(ARCHITECTURES["esm2_t6_8M_UR50D"], path)
    fetch_weights("esm2_t6_8M_UR50D", str(path), manifest)
    manifest = manifest.absolute()
    content = json.loads(manifest.read_text())
    with h5py.File(dataset.file, "a") as file:
        settings = json.loads(file.attrs["fingerprint"])
        settings["weights_sha256"] = file.attrs["weights_sha256"] = content["sha256"]
        file.attrs["fingerprint"] = json.dumps(settings)
    (tmp_path / "elsewhere").mkdir()
    for place in (tmp_path, tmp_path / "elsewhere", Path("/")):
        monkeypatch.chdir(place)
        for options in ([], ["--weights", manifest]):
            # Found, loaded and compared: the file's values were never computed.
            assert "off what fair-esm computes" in said_by(dataset, *options, rows=1)


@pytest.mark.parametrize("place", [0, 0.37, 1])
def test_every_byte_of_prepared_weights_is_read(
    dataset: Dataset, tmp_path: Path, weights_manifest: Path, place: float
) -> None:
    """A flipped bit that no job's quick look need notice."""
    weights = Weights.read(weights_manifest)
    prepared = Prepared(weights, torch.float32, tmp_path / "p")
    prepared.make()
    with h5py.File(dataset.file, "a") as file:
        settings = json.loads(file.attrs["fingerprint"])
        settings["weights_sha256"] = file.attrs["weights_sha256"] = weights.sha256
        file.attrs["fingerprint"] = json.dumps(settings)
        file.attrs["config"] = json.dumps({"model": {"prepared": str(tmp_path / "p")}})
    assert "off what fair-esm computes" in said_by(dataset, "--weights", weights_manifest, rows=1)
    layer = sorted(prepared.folder.glob("layer-*"))[round(place * 5)]
    stat, content = layer.stat(), bytearray(layer.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 1
    layer.write_bytes(content)
    os.utime(layer, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    said = said_by(dataset, "--weights", weights_manifest, rows=1)
    assert "has changed since it was prepared" in said


# -- foreign files ---------------------------------------------------------------------------------


def test_files_that_are_no_embeddings(dataset: Dataset, tmp_path: Path) -> None:
    whole = dataset.file.read_bytes()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "html").write_text("<html>")
    (tmp_path / "signature").write_bytes(whole[:8])
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "short").write_bytes(whole[:-1])
    with h5py.File(tmp_path / "other", "w") as file:
        file["x"] = 1
    with h5py.File(tmp_path / "shard", "w") as file:
        file["records/ordinals"] = [0]
        file.attrs["fingerprint"] = "{}"
    with h5py.File(tmp_path / "odd", "w") as file:
        file.attrs["format"] = [b"spotesm", b"spotesm"]
    shutil.copy(dataset.file, tmp_path / "newer")
    with h5py.File(tmp_path / "newer", "a") as file:
        file.attrs["format_version"] = 99
    shutil.copy(dataset.file, tmp_path / "bare")
    with h5py.File(tmp_path / "bare", "a") as file:
        del file["sequence_ids"]
    shutil.copy(dataset.file, tmp_path / "short-ids")
    with h5py.File(tmp_path / "short-ids", "a") as file:
        del file["lengths"]
        file["lengths"] = np.zeros(N - 1, np.int32)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, message in {
        "none": "no such file; name an embeddings.h5",
        "text/x": "no such file",
        ".": "is a folder",
        "results": "is a folder",
        "pipe": "is no regular file",
        "loop": "",
        "text": "cannot be read as HDF5",
        "html": "cannot be read as HDF5",
        "empty": "is empty",
        "signature": "truncated or damaged",
        "half": "truncated or damaged",
        "short": "truncated or damaged",
        "other": "not a file of spotESM's format 1; name an embeddings.h5",
        "odd": "not a file of spotESM's format 1",
        "shard": "is the file of one shard; name the embeddings.h5 of its dataset",
        "newer": "not a file of spotESM's format 1, but of 99",
        "bare": "has no sequence_ids of each record",
        "short-ids": "has no lengths of each record",
    }.items():
        path = tmp_path / name
        said = said_by(Dataset(path, dataset.fasta, dataset.rejected))
        assert said.startswith(f"{path}: {message}") or message in said
        with pytest.raises(SystemExit) as caught:
            main(["export", "npz", str(path), str(tmp_path / "x.npz")])
        assert caught.value.code == said
        assert not (tmp_path / "x.npz").exists()


def test_damage_in_the_middle_of_a_file(dataset: Dataset) -> None:
    with h5py.File(dataset.file, "a") as file:
        values = file["bos/6"][:]
        del file["bos/6"]
        file.create_dataset("bos/6", data=values, chunks=(3, D), compression="gzip")
        place = file["bos/6"].id.get_chunk_info(2).byte_offset
    content = bytearray(dataset.file.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    dataset.file.write_bytes(content)
    assert said_by(dataset).startswith(f"{dataset.file}: is damaged (")


def test_ids_that_the_terminal_cannot_write(dataset: Dataset) -> None:
    with h5py.File(dataset.file, "a") as file:
        file["lengths"][3] = 99
        file["sequence_ids"][2] = "ß"
    command = [sys.executable, "-m", "spotesm", "verify", dataset.file, dataset.fasta]
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    bare |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(verify.__file__).parents[2])}
    ended = subprocess.run(command, env=bare, capture_output=True, text=True)
    assert ended.returncode == 1
    said = r"row 2: its id is '\xdf', but the FASTA says '\xe92'"
    assert ended.stderr == f"{dataset.file}, {said}\n"


def test_without_the_library_of_a_family_no_row_is_recomputed(
    dataset: Dataset,
    weights_manifest: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a transformers without ESM C, or none, is to verify."""
    weights = Weights.read(weights_manifest)
    with h5py.File(dataset.file, "a") as file:
        settings = json.loads(file.attrs["fingerprint"])
        settings["weights_sha256"] = file.attrs["weights_sha256"] = weights.sha256
        file.attrs["fingerprint"] = json.dumps(settings)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(verify, "independent_forward", independent.FORWARDS["esmc"])
    run(dataset, "--weights", weights_manifest, rows=2)
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("no rows recomputed: that needs a transformers that has ESM C (pip")
    assert not [line for line in said if " rows recomputed by " in line]


@pytest.mark.parametrize(
    ("weights", "adapter", "named"),
    [
        ("hf:lab/model", "", "hf:lab/model@abcd"),
        ("pretrained", "", "pretrained@abcd"),
        ("hf:lab/model", "lora", "hf:lab/model@abcd + lora"),
    ],
)
def test_the_manifest_is_found_by_what_the_config_names(
    dataset: Dataset, tmp_path: Path, weights: str, adapter: str, named: str
) -> None:
    model = {"name": "esm2_t6_8M_UR50D", "weights": weights, "adapter": adapter}
    with h5py.File(dataset.file, "a") as file:
        file.attrs.update(weights=named, config=json.dumps({"model": model}))
    usual = weights_manifest_of("esm2_t6_8M_UR50D", weights, adapter)
    (tmp_path / usual).parent.mkdir(parents=True)
    (tmp_path / usual).write_text("{}")
    with opened(dataset.file) as embeddings:
        assert verify.find_manifest(embeddings, None) == (tmp_path / usual, tmp_path)
