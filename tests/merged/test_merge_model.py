"""The merge against a model: a dictionary from a sequence to its values, or to why it has none.

Records are dealt to shards at random, some of them repeated, some rejected by the split or by the
embedding; shards are empty, or hold rejected records alone.
"""

import itertools
import json
import tempfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import WORK, make_merge, make_request
from spotesm.base.durable import write_json
from spotesm.base.failures import IncompleteError
from spotesm.hdf5.writing import WrittenFile
from spotesm.merged.integrity import check_integrity
from spotesm.merged.merge import MergeJob, merge_shards
from spotesm.merged.reader import Embeddings
from spotesm.request.outputs import output_of
from spotesm.request.request import Request
from spotesm.request.results import Ragged, Results
from spotesm.sequences.digests import digest_sequence, digests_of
from spotesm.sequences.reasons import EMPTY, NOT_FINITE, OUT_OF_MEMORY, Reason
from spotesm.sequences.rejected import read_rejected, writing_rejected
from spotesm.sequences.sharding import Shard
from spotesm.shards.check import check_shard
from spotesm.shards.shard_writer import ShardWriter
from spotesm.weights.architectures import ARCHITECTURES

SHAPE = ARCHITECTURES["esm2_t6_8M_UR50D"]
DIM = SHAPE.embedding_dim
MOST_SEQUENCES = 7
BY_SPLIT = -1
ALL = ("mean", "bos", "residues", "logits", "contacts")
FATES = (None, None, None, Reason(NOT_FINITE, "NaN\tof"), Reason(OUT_OF_MEMORY, ""))


@dataclass(frozen=True)
class Dataset:
    """What is merged, and the model of it.

    Attributes:
        records: of each record, which sequence it has; `BY_SPLIT` if the split rejected it.
        shard_of: of each sequence, which shard it is in.
        fates: of each sequence, why it has no values.
    """

    records: list[int]
    shard_of: list[int]
    fates: list[Reason | None]
    n_shards: int
    request: Request

    @property
    def settings(self) -> dict:
        return self.request.fingerprint("0" * 64)

    @property
    def keys(self) -> list[str]:
        return self.request.select().keys

    def select_ragged(self) -> list[str]:
        return self.request.select().ragged_keys

    def sequence(self, i: int) -> bytes:
        return b"ACDEFGHIK"[: i + 1]

    def values(self, key: str, i: int) -> np.ndarray:
        """What belongs to a sequence: (1 or l or l * l rows, width)."""
        output, length = output_of(key), i + 1
        rows = {"mean": 1, "bos": 1, "contacts": length * length}.get(output.name, length)
        width = output.width(SHAPE)
        numbers = np.arange(rows * width) % 89 + 100 * i + 10 * self.keys.index(key)
        return numbers.reshape(rows, width).astype(self.request.store_dtype)

    @property
    def kept(self) -> list[int]:
        """The ordinals that have a row."""
        return [o for o, i in enumerate(self.records) if i >= 0 and self.fates[i] is None]

    def write(self, folder: Path) -> MergeJob:
        """Write the shard files and what the split leaves beside them."""
        rejected = (o for o, i in enumerate(self.records) if i == BY_SPLIT)
        with writing_rejected(folder / "rejected.tsv") as tsv:
            for ordinal in rejected:
                tsv.add(ordinal, f"é{ordinal}", "split", Reason(EMPTY, "no residues"))
        write_json(folder / "split.json", {"n_records": len(self.records)})
        shards = [self.write_shard(folder, number) for number in range(self.n_shards)]
        return make_merge(shards, folder, folder)

    def write_shard(self, folder: Path, number: int) -> Path:
        fasta, path = folder / f"{number}.fasta", folder / f"{number}.h5"
        mine = [i for i, shard in enumerate(self.shard_of) if shard == number]
        with open(fasta, "wb") as file:
            for ordinal, i in enumerate(self.records):
                if i in mine:
                    file.write(b">%d %s\n" % (ordinal, f"é{ordinal}".encode()))
                    file.write(self.sequence(i) + b"\n")
        shard = Shard.index(fasta)
        with WrittenFile(path) as file:
            writer = ShardWriter(file, shard, self.request, DIM)
            for half in (mine[1::2], mine[::-2], mine):  # out of order, and some of them again
                if half:
                    writer.add(self.results(half))
            facts = dict.fromkeys(WORK, 1)
            writer.finish(self.settings, {"weights": "untrained", "embedding_dim": DIM, **facts})
        check_shard(path, shard, self.settings)
        return path

    def results(self, which: list[int]) -> Results:
        rows, ragged = {}, {}
        for key in self.keys:
            parts = [self.values(key, i)[: None if self.fates[i] is None else 0] for i in which]
            if not output_of(key).ragged:
                rows[key] = np.concatenate([self.values(key, i) for i in which])
            elif any(map(len, parts)):
                values = np.concatenate(parts)
                values = values.ravel() if output_of(key).width(SHAPE) == 1 else values
                ragged[key] = Ragged.of_sizes(values, np.array([len(part) for part in parts]))
        windows = np.array([self.fates[i] is None for i in which], np.int32)
        digests = digests_of(map(self.sequence, which))
        return Results(digests, [self.fates[i] for i in which], windows, rows, ragged)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    n = draw(st.integers(1, MOST_SEQUENCES))
    n_shards = draw(st.integers(1, 4))
    return Dataset(
        records=draw(st.lists(st.integers(BY_SPLIT, n - 1), max_size=20)),
        shard_of=draw(st.lists(st.integers(0, n_shards - 1), min_size=n, max_size=n)),
        fates=draw(st.lists(st.sampled_from(FATES), min_size=n, max_size=n)),
        n_shards=n_shards,
        request=make_request(
            outputs=draw(st.sampled_from([("mean",), ("residues",), ("bos", "contacts"), ALL])),
            layers=draw(st.sampled_from([(6,), (0, 6)])),
            precision="float32",
            store_dtype=draw(st.sampled_from(["float32", "float16"])),
        ),
    )


def assert_is(dataset: Dataset, job: MergeJob, summary: dict) -> None:
    """Everything in the merged file is what the model says."""
    sequences = [dataset.records[ordinal] for ordinal in dataset.kept]
    with h5py.File(job.output) as file:
        assert file["sequence_ids"].asstr()[:].tolist() == [f"é{o}" for o in dataset.kept]
        assert file["lengths"][:].tolist() == [i + 1 for i in sequences]
        assert file["windows"][:].tolist() == [1] * len(sequences)
        digests = [digest_sequence(dataset.sequence(i)) for i in sequences]
        assert [bytes(digest) for digest in file["digests"][:]] == digests
        for key in dataset.keys:
            parts = [dataset.values(key, i) for i in sequences]
            output = output_of(key)
            if not parts and output.ragged:
                assert key not in file
                continue
            sums = [zlib.crc32(part.tobytes()) for part in parts]
            assert file[f"checksums/{key}"][:].tolist() == sums
            expected = np.concatenate(parts) if parts else np.empty((0, DIM))
            expected = expected.ravel() if output.width(SHAPE) == 1 else expected
            np.testing.assert_array_equal(file[key][:], expected, strict=bool(parts))
            if output.ragged:
                offsets = np.cumsum([0, *map(len, parts)]).tolist()
                assert file[f"{output.name}/offsets"][:].tolist() == offsets
        rejected = {
            o: Reason(EMPTY, "no residues") if i == BY_SPLIT else dataset.fates[i]
            for o, i in enumerate(dataset.records)
            if o not in dataset.kept
        }
        assert file.attrs["n_records"] == len(dataset.records)
        assert file.attrs["n_rejected"] == len(rejected)
        assert json.loads(file.attrs["fingerprint"]) == dataset.settings
    assert [
        (line.ordinal, line.id, line.stage, line.reason, line.detail)
        for line in read_rejected(job.rejected)
    ] == [
        (o, f"é{o}", "split" if dataset.records[o] == BY_SPLIT else "embed", r.keyword, r.detail)
        for o, r in rejected.items()
    ]
    assert summary["rejected"] == Counter(reason.keyword for reason in rejected.values())
    assert summary["n_embedded"] == len(sequences)
    with Embeddings(job.output) as embeddings:
        check_integrity(embeddings)


@settings(max_examples=40)
@given(datasets())
def test_a_merged_file_is_what_the_model_says(dataset: Dataset) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = dataset.write(Path(folder))
        assert_is(dataset, job, merge_shards(job))


# -- one thing wrong -------------------------------------------------------------------------------

PLACES = ("first", "middle", "last")
# Every second record is a repeated one; in each of three shards some are rejected.
FIXED = Dataset(
    records=[0, 1, BY_SPLIT, 2, 0, 3, 4, 1, 5, 6, 2, BY_SPLIT, 6, 5],
    shard_of=[0, 1, 2, 0, 1, 2, 0],
    fates=[None, None, None, FATES[3], FATES[4], None, None],
    n_shards=3,
    request=make_request(outputs=ALL, layers=(6,), precision="float32"),
)


# Its files by name, made by the first test that asks for them.
WRITTEN: dict[str, bytes] = {}


def write_fixed(folder: Path) -> MergeJob:
    """Write what `FIXED` is, and what merges it."""
    if not WRITTEN:
        FIXED.write(folder)
        WRITTEN.update({path.name: path.read_bytes() for path in folder.iterdir()})
    for name, content in WRITTEN.items():
        (folder / name).write_bytes(content)
    return make_merge([folder / f"{i}.h5" for i in range(FIXED.n_shards)], folder, folder)


def at(place: str, n: int) -> int:
    return {"first": 0, "middle": n // 2, "last": n - 1}[place]


@pytest.mark.parametrize("shard", range(3))
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", FIXED.keys)
def test_one_value_that_is_not_finite_is_refused(
    tmp_path: Path, key: str, place: str, shard: int
) -> None:
    job = write_fixed(tmp_path)
    with h5py.File(job.shards[shard], "r+") as file:
        table = file["sequences"]
        values = table[key][:]
        accepted = np.flatnonzero(table["reasons"].asstr()[:] == "")
        row = accepted[at(place, len(accepted))]
        if output_of(key).ragged:
            own = values[slice(*table[f"{output_of(key).name}/offsets"][row : row + 2])]
        else:
            own = values[row]
        own.flat[at(place, own.size)] = np.nan
        table[key][...] = values
        table[f"checksums/{key}"][row] = zlib.crc32(own.tobytes())  # as if it was computed
    with pytest.raises(IncompleteError, match="is not finite"):
        merge_shards(job)
    assert not job.output.exists()


@pytest.mark.parametrize("shard", range(3))
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", FIXED.select_ragged())
def test_one_other_value_of_many_is_refused(
    tmp_path: Path, key: str, place: str, shard: int
) -> None:
    """Of what nobody has read again since it was written."""
    job = write_fixed(tmp_path)
    with h5py.File(job.shards[shard], "r+") as file:
        table = file["sequences"]
        accepted = np.flatnonzero(table["reasons"].asstr()[:] == "")
        row = accepted[at(place, len(accepted))]
        offsets = table[f"{output_of(key).name}/offsets"][row : row + 2]
        flip_a_bit(table, key, slice(*offsets), place)
    with pytest.raises(IncompleteError, match=rf"{shard}\.h5: holds values of {key} that are not"):
        merge_shards(job)
    assert not job.output.exists()


@pytest.mark.parametrize("key", FIXED.keys)
def test_one_bit_of_a_merged_file_is_noticed(tmp_path: Path, key: str) -> None:
    job = write_fixed(tmp_path)
    merge_shards(job)
    content = job.output.read_bytes()
    for record, place in itertools.product(PLACES, PLACES):
        row = at(record, len(FIXED.kept))
        job.output.unlink()
        job.output.write_bytes(content)
        with h5py.File(job.output, "r+") as file:
            rows = slice(row, row + 1)
            if output_of(key).ragged:
                rows = slice(*file[f"{output_of(key).name}/offsets"][row : row + 2])
            flip_a_bit(file, key, rows, place)
        with (
            Embeddings(job.output) as embeddings,
            pytest.raises(IncompleteError, match=f"row {row}: has other values of {key} than"),
        ):
            check_integrity(embeddings)


def flip_a_bit(file: h5py.Group, key: str, rows: slice, place: str) -> None:
    """Change the first, a middle or the last value in these rows by its last bit."""
    values = file[key][rows]
    bits = values.view(np.uint32).reshape(-1)
    bits[at(place, len(bits))] ^= 1
    assert np.isfinite(values).all()
    file[key][rows] = values


@pytest.mark.parametrize("shard", range(3))
def test_a_shard_whose_structure_is_damaged_is_named(tmp_path: Path, shard: int) -> None:
    job = write_fixed(tmp_path)
    content = bytearray(job.shards[shard].read_bytes())
    content[content.rindex(b"SNOD")] ^= 1
    job.shards[shard].write_bytes(content)
    with pytest.raises(IncompleteError, match=rf"{shard}\.h5: not a whole shard file"):
        merge_shards(job)


@pytest.mark.parametrize("shard", range(3))
@pytest.mark.parametrize(
    "name",
    [
        "records/ordinals",
        *(f"sequences/{name}" for name in ("windows", "mean/6", "residues/6", "checksums/mean/6")),
    ],
)
def test_a_shard_whose_dataset_cannot_be_opened_is_named(
    tmp_path: Path, name: str, shard: int
) -> None:
    """It is listed, as one whose header is damaged, but nothing is there."""
    job = write_fixed(tmp_path)
    with h5py.File(job.shards[shard], "r+") as file:
        del file[name]
        file[name] = h5py.SoftLink("/nowhere")
    with pytest.raises(IncompleteError, match=rf"{shard}\.h5: not a whole shard file"):
        merge_shards(job)


@pytest.mark.parametrize("shard", range(3))
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("by", [-1, 1, 100])
def test_one_changed_ordinal_is_refused(tmp_path: Path, place: str, by: int, shard: int) -> None:
    job = write_fixed(tmp_path)
    with h5py.File(job.shards[shard], "r+") as file:
        ordinals = file["records/ordinals"][:]
        ordinals[at(place, len(ordinals))] += by
        file["records/ordinals"][...] = ordinals
    with pytest.raises(IncompleteError):
        merge_shards(job)
    assert not job.output.exists()


@pytest.mark.parametrize("shard", range(3))
@pytest.mark.parametrize("place", PLACES)
def test_one_record_without_windows_is_refused(tmp_path: Path, place: str, shard: int) -> None:
    job = write_fixed(tmp_path)
    with h5py.File(job.shards[shard], "r+") as file:
        accepted = np.flatnonzero(file["sequences/reasons"].asstr()[:] == "")
        file["sequences/windows"][accepted[at(place, len(accepted))]] = 0
    with pytest.raises(IncompleteError, match="has no result"):
        merge_shards(job)


@pytest.mark.parametrize("shard", range(3))
def test_other_settings_in_one_shard_are_refused(tmp_path: Path, shard: int) -> None:
    job = write_fixed(tmp_path)
    with h5py.File(job.shards[shard], "r+") as file:
        file.attrs["fingerprint"] = json.dumps({**FIXED.settings, "weights_sha256": "1"})
    with pytest.raises(IncompleteError, match="different settings"):
        merge_shards(job)
