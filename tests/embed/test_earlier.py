"""What earlier runs computed is not computed again, and is what computing gives."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from checksums import restate
from sequences import random_sequence, write_fasta
from shards import (
    changed,
    interrupt,
    log_of,
    make_job,
    make_merge,
    parts_of,
    read_datasets,
    run,
    running,
    wait_until,
)
from spotesm.base.durable import read_json
from spotesm.base.failures import IncompleteError
from spotesm.commands.verify import choose_rows
from spotesm.embed.task import ShardJob
from spotesm.hdf5 import pieces, table
from spotesm.merged.integrity import check_integrity
from spotesm.merged.merge import merge_shards
from spotesm.merged.merged_file import MergedFile
from spotesm.merged.reader import Embeddings
from spotesm.request.outputs import Outputs
from spotesm.sequences.long_sequences import LongSequences
from spotesm.sequences.sharding import split_fasta

EVERYTHING = {"outputs": ("mean", "bos", "residues", "contacts"), "layers": (0, 3, -1)}
Records = list[tuple[str, str]]


@pytest.fixture(scope="module")
def records() -> Records:
    """Thirty proteins, some longer than the window of 40; three come twice."""
    rng = random.Random(19)
    records = [(f"p{i}", random_sequence(rng, rng.randint(5, 52))) for i in range(30)]
    return [*records, ("again0", records[0][1]), *records[14:16], ("again29", records[29][1])]


@pytest.fixture(scope="module")
def merged(
    tmp_path_factory: pytest.TempPathFactory, records: Records, weights_manifest: Path
) -> Path:
    """A merged file with everything, of one shard."""
    folder = tmp_path_factory.mktemp("earlier")
    return embed(folder, records, weights_manifest, 1, **EVERYTHING)[0]


@pytest.fixture(scope="module")
def expected(merged: Path) -> dict[str, np.ndarray]:
    return read_datasets(merged)


def make_jobs(
    folder: Path, records: Records, manifest: Path, shards: int, **changes: object
) -> list[ShardJob]:
    """Jobs over records, in so many shards, in a folder as the workflow lays it out."""
    fasta = write_fasta(folder / "in.fasta", records)
    (folder / "shards").mkdir(exist_ok=True)
    pieces = [folder / f"shards/{i}-of-{shards}.fasta" for i in range(1, shards + 1)]
    template = make_job(folder / "shards", fasta, manifest, past=folder / "embeddings.h5")
    split_fasta([fasta], pieces, folder / "shards/rejected.tsv", folder / "shards/split.json")
    return [
        changed(
            template,
            fasta=piece,
            output=piece.with_suffix(".h5"),
            checkpoints=folder / "checkpoints" / piece.stem,
            **changes,
        )
        for piece in pieces
    ]


def embed(
    folder: Path, records: Records, manifest: Path, shards: int, **changes: object
) -> tuple[Path, int]:
    """Embed and merge as the workflow does; the merged file, and how many passes it took."""
    jobs = make_jobs(folder, records, manifest, shards, **changes)
    trace = folder / "trace"
    trace.unlink(missing_ok=True)
    for job in jobs:
        job.output.unlink(missing_ok=True)  # as Snakemake does
        assert run(job, faults=f"trace={trace}") == 0, log_of(job).read_text()
    return merge(folder, jobs), len(trace.read_bytes()) if trace.exists() else 0


def merge(folder: Path, jobs: list[ShardJob]) -> Path:
    (folder / "embeddings.h5").unlink(missing_ok=True)
    merge_shards(make_merge([job.output for job in jobs], folder / "shards", folder))
    return folder / "embeddings.h5"


def assert_holds(path: Path, expected: dict[str, np.ndarray], dtype: str = "float32") -> None:
    """All datasets but `reused` are there under their names, bit for bit; checksums fit them."""
    with Embeddings(path) as embeddings:
        check_integrity(embeddings)
    got = read_datasets(path)
    got.pop("reused", None)
    if dtype == "float16":  # of which they are others
        got = {name: values for name, values in got.items() if "checksums/" not in name}
    for name, values in got.items():
        wanted = expected[name].astype(dtype) if values.dtype.kind == "f" else expected[name]
        assert values.dtype == wanted.dtype
        assert values.tolist() == wanted.tolist(), name


def summary_of(folder: Path) -> tuple[int, int, int]:
    summary = read_json(folder / "summary.json")
    return tuple(summary[name] for name in ("n_reused", "n_computed", "n_resumed"))


# -- what serves -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({}, "float32"),
        ({"outputs": ("residues",), "layers": (3,)}, "float32"),
        ({"outputs": ("contacts", "mean"), "layers": (-1, 0)}, "float32"),
        ({"store_dtype": "float16"}, "float16"),
    ],
)
def test_a_named_file_serves_whole_or_in_part(
    tmp_path: Path,
    records: Records,
    weights_manifest: Path,
    merged: Path,
    expected: dict[str, np.ndarray],
    changes: dict,
    dtype: str,
) -> None:
    asked = {**EVERYTHING, **changes, "reuse": [merged]}
    path, passes = embed(tmp_path, records, weights_manifest, 3, **asked)
    assert passes == 0
    assert_holds(path, expected, dtype)
    assert summary_of(tmp_path) == (30, 0, 0)
    summary = read_json(tmp_path / "summary.json")
    assert summary["reused_from"] == {str(merged): len(records)}
    with h5py.File(path) as file:
        assert file["reused"][:].tolist() == [1] * len(records)
        assert file.attrs["reused_from"].tolist() == [str(merged)]


def test_half_of_it_is_there(
    tmp_path: Path,
    records: Records,
    weights_manifest: Path,
    merged: Path,
    expected: dict[str, np.ndarray],
) -> None:
    rng = random.Random(3)
    fresh = [(f"new{i}", random_sequence(rng, 20 + i)) for i in range(5)]
    mixed = [fresh[0], *records[:10], fresh[1], fresh[2], *records[10:17], *fresh[3:]]
    (tmp_path / "alone").mkdir()
    alone, _ = embed(tmp_path / "alone", mixed, weights_manifest, 2)
    (tmp_path / "reusing").mkdir()
    path, passes = embed(tmp_path / "reusing", mixed, weights_manifest, 2, reuse=[merged])
    assert 0 < passes <= 5
    assert summary_of(tmp_path / "reusing") == (17, 5, 0)
    with h5py.File(path) as file, h5py.File(alone) as other:
        flags = [int(not name.startswith("new")) for name, _ in mixed]
        assert file["reused"][:].tolist() == flags
        np.testing.assert_allclose(file["mean/6"][:], other["mean/6"][:], rtol=0, atol=1e-5)
        assert file["mean/6"][1:11].tolist() == expected["mean/6"][:10].tolist()


def test_only_what_is_missing_is_computed(
    tmp_path: Path,
    records: Records,
    weights_manifest: Path,
    expected: dict[str, np.ndarray],
) -> None:
    """Layers are added, and a ragged output: what was there keeps its bits, and says so."""
    embed(tmp_path, records, weights_manifest, 1, outputs=("mean",), layers=(-1,))
    path, passes = embed(
        tmp_path, records, weights_manifest, 1, outputs=("mean",), layers=(0, 3, -1)
    )
    assert passes > 0
    assert_holds(path, expected)
    log = (tmp_path / "shards/1-of-1.log").read_text()
    assert re.search(r"in float32, .*: mean/0, mean/3$", log, re.M)
    assert summary_of(tmp_path) == (0, 30, 0)
    with h5py.File(path) as file:
        assert file["reused"][:].tolist() == [1] * len(records)
    path, _ = embed(tmp_path, records, weights_manifest, 1, **EVERYTHING)
    assert_holds(path, expected)
    # Back to one output: nothing is computed.
    path, passes = embed(tmp_path, records, weights_manifest, 1, outputs=("bos",), layers=(3,))
    assert passes == 0
    assert_holds(path, expected)


@pytest.mark.parametrize("left", ["merged", "finished", "shards", "parts"])
def test_another_split_serves(
    tmp_path: Path, records: Records, weights_manifest: Path, left: str
) -> None:
    """Whatever of an earlier split is there: its merged file, finished shards, or parts alone."""
    path, _ = embed(tmp_path, records, weights_manifest, 2, keep_parts=True)
    before = read_datasets(path)
    for pattern, kind in (
        ("embeddings.h5", "merged"),
        ("checkpoints/*/finished.*", "finished"),
        ("shards/*.h5", "shards"),
        ("checkpoints/*/part-*", "parts"),
    ):
        found = list(tmp_path.glob(pattern))
        assert found
        for file in found if kind != left else ():
            file.unlink()
    path, passes = embed(tmp_path, records, weights_manifest, 3)
    assert passes == 0
    assert_holds(path, before)
    assert summary_of(tmp_path) == (30, 0, 0)


def test_rejected_records_of_another_split_are_no_damage(
    tmp_path: Path, records: Records, weights_manifest: Path
) -> None:
    long = LongSequences("reject", 40, 8, "reject")
    embed(tmp_path, records, weights_manifest, 2, long_sequences=long)
    (tmp_path / "embeddings.h5").unlink()
    embed(tmp_path, records, weights_manifest, 3, long_sequences=long)
    n_long = len({sequence for _, sequence in records if len(sequence) > 40})
    assert n_long > 0
    assert summary_of(tmp_path) == (30 - n_long, n_long, 0)
    assert not any("WARNING" in log.read_text() for log in (tmp_path / "shards").glob("*-of-3.log"))


def test_a_forced_restart_leaves_the_past_alone(
    tmp_path: Path, records: Records, weights_manifest: Path, merged: Path
) -> None:
    embed(tmp_path, records, weights_manifest, 1)
    for shards in (1, 2):
        _, passes = embed(tmp_path, records, weights_manifest, shards, restart=f"r{shards}")
        assert passes > 0
        assert summary_of(tmp_path) == (0, 30, 0)
    _, passes = embed(tmp_path, records, weights_manifest, 2, restart="named", reuse=[merged])
    assert passes == 0


def test_what_was_reused_is_remembered_when_the_shard_is_taken_up_again(
    tmp_path: Path, records: Records, weights_manifest: Path, merged: Path
) -> None:
    embed(tmp_path, records, weights_manifest, 1, reuse=[merged])
    path, passes = embed(tmp_path, records, weights_manifest, 1)
    assert passes == 0
    with h5py.File(path) as file:
        assert file["reused"][:].tolist() == [1] * len(records)
        assert file.attrs["reused_from"].tolist() == [str(merged)]


def test_the_first_file_that_has_an_output_gives_it(
    tmp_path: Path, records: Records, weights_manifest: Path, merged: Path
) -> None:
    """One file lacks the second half, another has all under two outputs more."""
    (tmp_path / "half").mkdir()
    (tmp_path / "all").mkdir()
    half, _ = embed(tmp_path / "half", records[:15], weights_manifest, 1)
    changes = {"outputs": ("mean", "bos"), "reuse": [half, merged]}
    path, passes = embed(tmp_path / "all", records, weights_manifest, 2, **changes)
    assert passes == 0
    first = {sequence for _, sequence in records[:15]}
    with h5py.File(path) as file:
        names = file.attrs["reused_from"].tolist()
        origins = [names[number - 1] for number in file["reused"][:]]
    assert origins == [str(half if sequence in first else merged) for _, sequence in records]
    check_integrity(Embeddings(path))
    with h5py.File(path, "r+") as file:
        file["reused"][len(records) // 2] = 3
    with pytest.raises(IncompleteError, match="whence it is reused"):
        check_integrity(Embeddings(path))


@pytest.mark.parametrize("n", [0, 1, 4, 6, 40])
def test_verify_draws_reused_rows(
    tmp_path: Path, records: Records, weights_manifest: Path, merged: Path, n: int
) -> None:
    path = tmp_path / "copy.h5"
    path.write_bytes(merged.read_bytes())
    with h5py.File(path, "r+") as file:
        file["reused"] = np.array([7 <= row < 9 for row in range(len(records))], np.uint16)
    chosen = choose_rows(Embeddings(path), n, random.Random(0))
    assert len(set(chosen)) == len(chosen) == min(n, len(records))
    assert len({7, 8} & set(chosen)) >= min((n + 1) // 2, 2)


# -- what does not ---------------------------------------------------------------------------------


def other_weights(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        settings = file.attrs["fingerprint"].replace('"weights_sha256": "', '"weights_sha256": "0')
        file.attrs["fingerprint"] = settings


def half_precision(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["fingerprint"] = file.attrs["fingerprint"].replace(
            '"store_dtype": "float32"', '"store_dtype": "float16"'
        )


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def not_finite(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["mean/6"][:, 7] = np.nan


def without_windows(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["windows"]


def without_digests(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["digests"][:] = 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (other_weights, r"was computed with other settings \(weights_sha256\); not used"),
        (half_precision, r"holds float16, but float32 is wanted; not used"),
        (truncated, r"cannot be read as HDF5, it is truncated or damaged"),
        (emptied, r"is empty; not used"),
        (without_windows, r"cannot be read, or is damaged .*; not used"),
        (not_finite, ""),
        (without_digests, ""),
    ],
)
def test_what_does_not_serve_is_named_and_all_is_computed(
    tmp_path: Path,
    records: Records,
    weights_manifest: Path,
    merged: Path,
    expected: dict[str, np.ndarray],
    damage: Callable[[Path], None],
    said: str,
) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(merged.read_bytes())
    damage(copy)
    path, passes = embed(tmp_path, records, weights_manifest, 1, reuse=[copy])
    assert passes > 0
    assert summary_of(tmp_path) == (0, 30, 0)
    assert_holds(path, expected)
    with h5py.File(path) as file:
        assert "reused" not in file
    log = (tmp_path / "shards/1-of-1.log").read_text()
    assert not said or re.search(f"WARNING reuse: {copy} {said}", log)


def opened_copy(merged: Path, copy: Path) -> h5py.File:
    """A copy of a merged file, open to be changed."""
    copy.write_bytes(merged.read_bytes())
    return h5py.File(copy, "r+")


def rows_like(records: Records, place: int) -> list[int]:
    """All rows with the sequence of the one at a place."""
    return [row for row, (_, sequence) in enumerate(records) if sequence == records[place][1]]


@pytest.mark.parametrize("key", ["mean/6", "residues/6", "contacts/values"])
@pytest.mark.parametrize("place", [0, 17, 33])
def test_a_row_of_other_values_is_computed(
    tmp_path: Path,
    records: Records,
    weights_manifest: Path,
    merged: Path,
    expected: dict[str, np.ndarray],
    place: int,
    key: str,
) -> None:
    """One bit of them is another than when they were computed."""
    copy = tmp_path / "copy.h5"
    with opened_copy(merged, copy) as file:
        for row in rows_like(records, place):
            if key != "mean/6":
                row = file[f"{key.partition('/')[0]}/offsets"][row + 1] - 1
            value = np.array(file[key][row])
            value.reshape(-1).view(np.uint32)[-1] ^= 1
            file[key][row] = value
    asked = {"outputs": ("mean", "residues", "contacts"), "layers": (6,)}
    path, _ = embed(tmp_path, records, weights_manifest, 1, reuse=[copy], **asked)
    assert summary_of(tmp_path) == (29, 1, 0)
    got = read_datasets(path)
    for name in ("mean/6", "residues/6", "contacts/values"):
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-5)
    said = f"WARNING reuse: {copy} has other values than were computed of 1 sequence; not used"
    assert said in (tmp_path / "shards/1-of-1.log").read_text()


@pytest.mark.parametrize("place", [0, 17, 33])
def test_one_bad_row_is_computed(
    tmp_path: Path,
    records: Records,
    weights_manifest: Path,
    merged: Path,
    expected: dict[str, np.ndarray],
    place: int,
) -> None:
    """Its checksum is that of what is there: whatever wrote the file meant it."""
    copy = tmp_path / "copy.h5"
    with opened_copy(merged, copy) as file:
        for row in rows_like(records, place):
            file["mean/6"][row, -1] = np.inf
        restate(file, "mean/6")
    path, _ = embed(tmp_path, records, weights_manifest, 1, reuse=[copy])
    assert summary_of(tmp_path) == (29, 1, 0)
    got = read_datasets(path)["mean/6"]
    np.testing.assert_allclose(got, expected["mean/6"], rtol=0, atol=1e-5)


def test_a_damaged_part_of_another_split_is_not_used(
    tmp_path: Path, records: Records, weights_manifest: Path
) -> None:
    jobs = make_jobs(tmp_path, records, weights_manifest, 1, keep_parts=True)
    assert run(jobs[0]) == 0
    finished = next(jobs[0].checkpoints.glob("finished.*"))
    jobs[0].output.unlink()
    for path in (finished, *parts_of(jobs[0])):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    _, passes = embed(tmp_path, records, weights_manifest, 2)
    assert passes > 0
    assert summary_of(tmp_path) == (0, 30, 0)


def test_smaller_windows_are_never_mixed_with_usual_ones(
    tmp_path: Path, records: Records, weights_manifest: Path
) -> None:
    """Where a sequence may have been cut anew, all its outputs come from one file or none."""
    cut = LongSequences("window", 40, 8, "smaller_windows")
    embed(tmp_path, records, weights_manifest, 1, long_sequences=cut)
    _, passes = embed(
        tmp_path, records, weights_manifest, 1, long_sequences=cut, outputs=("mean", "bos")
    )
    assert passes > 0
    with h5py.File(tmp_path / "embeddings.h5") as file:
        assert "reused" not in file
    _, passes = embed(tmp_path, records, weights_manifest, 1, long_sequences=cut, outputs=("bos",))
    assert passes == 0


# -- interruptions ---------------------------------------------------------------------------------


def test_killed_again_and_again_while_a_layer_is_added(
    tmp_path: Path, records: Records, weights_manifest: Path, merged: Path
) -> None:
    """Half is there whole, half without a layer, some not at all: the same bits as unbroken."""
    for name in ("half", "unbroken", "broken"):
        (tmp_path / name).mkdir()
    rng = random.Random(4)
    more = [*records, *[(f"n{i}", random_sequence(rng, rng.randint(5, 52))) for i in range(20)]]
    half, _ = embed(tmp_path / "half", more[20:45], weights_manifest, 1)
    changes = {"outputs": ("mean",), "layers": (3, -1), "reuse": [half, merged]}
    unbroken, _ = embed(tmp_path / "unbroken", more, weights_manifest, 1, **changes)
    (job,) = make_jobs(tmp_path / "broken", more, weights_manifest, 1, **changes)
    assert interrupt(job, 6) > 1
    assert run(job) == 0
    got = read_datasets(merge(tmp_path / "broken", [job]))
    for name, values in read_datasets(unbroken).items():
        assert got[name].tolist() == values.tolist(), name


def test_a_kill_while_values_are_copied_leaves_nothing_behind(
    tmp_path: Path, records: Records, weights_manifest: Path, merged: Path
) -> None:
    (job,) = make_jobs(tmp_path, records, weights_manifest, 1, reuse=[merged])
    with running(job) as process:
        wait_until(lambda: list(job.output.parent.glob(".1-of-1.h5.*.tmp")), process)
        process.kill()
        process.join()
    path, passes = embed(tmp_path, records, weights_manifest, 1, reuse=[merged])
    assert passes == 0
    assert not list(job.output.parent.glob(".*.tmp"))
    assert_holds(path, read_datasets(merged))


def test_a_large_file_is_read_in_blocks(
    tmp_path: Path,
    merged: Path,
    expected: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More rows than a block of digests, of values, or a stretch that is read in one piece."""
    monkeypatch.setattr(table, "DIGESTS_AT_ONCE", 7)
    monkeypatch.setattr(table, "BYTES_AT_ONCE", 9000)
    monkeypatch.setattr(pieces, "BYTES_AT_ONCE", 9000)
    monkeypatch.setattr(pieces, "GAP", 2)
    with h5py.File(merged) as file:
        digests = np.unique(np.frombuffer(file["digests"][:].tobytes(), "V16"))
    chosen = digests[::2]
    with MergedFile(merged) as earlier:
        which, places = earlier.find(chosen)
        assert which.tolist() == list(range(len(chosen)))
        keys = Outputs(EVERYTHING["outputs"], (0, 3, 6)).keys
        found = list(earlier.read(np.sort(places), keys))
    assert len(found) > 3
    rows = {bytes(d): row for row, d in reversed(list(enumerate(expected["digests"])))}
    got = np.concatenate([results.digests for results in found])
    assert sorted(map(bytes, got)) == sorted(map(bytes, chosen))
    at = [rows[bytes(d)] for d in got]
    values = np.concatenate([results.rows["mean/3"] for results in found])
    assert values.tolist() == expected["mean/3"][at].tolist()
    offsets = expected["residues/offsets"]
    residues = np.concatenate([results.ragged["residues/6"].values for results in found])
    wanted = [expected["residues/6"][offsets[row] : offsets[row + 1]] for row in at]
    assert residues.tolist() == np.concatenate(wanted).tolist()
