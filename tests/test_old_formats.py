"""Files of past formats, made once by the version that wrote them, are read for ever.

A model of eight dimensions, all outputs of two layers, six records: one is repeated, one was
rejected by the split, one by the embedding. `expected.npz` has the numbers that version read back.
"""

import csv
import gzip
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from shards import make_merge
from spotesm import Embeddings
from spotesm.base.durable import read_json
from spotesm.embed.checkpoints import Thresholds, open_checkpoints
from spotesm.hdf5.check import check_shard
from spotesm.hdf5.merge import merge_shards
from spotesm.hdf5.shard_file import ShardWriter
from spotesm.request.outputs import Outputs, output_of
from spotesm.request.request import Request
from spotesm.sequences.long_sequences import LongSequences
from spotesm.sequences.sharding import Shard

DATA = Path(__file__).parent / "data"
FORMATS = sorted(path.name for path in DATA.glob("format-*"))
OUTPUTS = ("mean", "bos", "residues", "logits", "contacts")
ROWS = ["one", "two", "again", "é|x"]


@pytest.fixture(params=FORMATS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the files of one format."""
    folder = tmp_path / request.param
    shutil.copytree(DATA / request.param, folder)
    for packed in folder.glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    return folder


def assert_values(old: Path, embeddings: Embeddings) -> None:
    expected = np.load(old / "expected.npz")
    assert embeddings.ids == ROWS == [name.decode() for name in expected["ids"]]
    outputs = Outputs(OUTPUTS, (0, 6))
    assert set(embeddings.outputs) == set(outputs.keys)
    for key in outputs.keys:
        wanted, output = expected[key.replace("/", "_")], output_of(key)
        np.testing.assert_array_equal(embeddings.file[key], wanted)
        for row in range(len(ROWS)):
            edges = expected[f"{output.name}_offsets"][row : row + 2] if output.ragged else ()
            own = wanted[slice(*edges)] if output.ragged else wanted[row]
            np.testing.assert_array_equal(embeddings.value(key, row).reshape(own.shape), own)


def merge(old: Path, shard: Path) -> None:
    """Merge the shard, and compare the values and the rejected records."""
    merged = old / "merged"
    rejected = {"split_rejected": old / "split-rejected.tsv", "rejected": merged / "rejected.tsv"}
    merge_shards(make_merge([shard], old, merged, **rejected))
    with Embeddings(merged / "embeddings.h5") as embeddings:
        assert_values(old, embeddings)
    assert read_tsv(merged / "rejected.tsv") == read_tsv(old / "rejected.tsv")


def read_tsv(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter="\t"))


def test_there_is_a_format() -> None:
    assert "format-1" in FORMATS


def test_a_merged_file_is_read(old: Path) -> None:
    with Embeddings(old / "embeddings.h5") as embeddings:
        assert_values(old, embeddings)
        assert embeddings.request == Request(
            model="esm2_t6_8M_UR50D",
            engine="packed",
            outputs=OUTPUTS,
            layers=(0, 6),
            store_dtype="float32",
            precision="float32",
            long_sequences=LongSequences("reject", 20, 4, "reject"),
        )


def test_a_shard_file_is_merged(old: Path) -> None:
    settings = read_json(old / "fingerprint.json")
    check_shard(old / "1-of-1.h5", Shard.index(old / "1-of-1.fasta"), settings)
    merge(old, old / "1-of-1.h5")


@pytest.mark.parametrize("put", [lambda old: None, lambda old: keep_finished(old)])
def test_parts_and_finished_files_are_resumed(old: Path, put: Callable[[Path], None]) -> None:
    put(old)
    settings, shard = read_json(old / "fingerprint.json"), Shard.index(old / "1-of-1.fasta")
    path = old / "resumed.h5"
    with (
        open_checkpoints(old, settings, Thresholds(1, 1, 1)) as checkpoints,
        h5py.File(path, "w") as file,
    ):
        writer = ShardWriter(file, shard, Outputs(OUTPUTS, (0, 6)), 8)
        for results in checkpoints.read_parts():
            writer.add(results)
        counts = dict.fromkeys(("n_computed", "n_resumed", "attempts", "seconds"), 1)
        writer.finish(settings, {"weights": "untrained", "embedding_dim": 8, **counts})
    assert not (old / "set-aside").exists()
    merge(old, path)


def keep_finished(old: Path) -> None:
    """Leave the finished file among the checkpoints, and no part."""
    for part in old.glob("part-*.pt"):
        part.unlink()
    content = (old / "1-of-1.h5").read_bytes()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    shutil.copy(old / "1-of-1.h5", old / f"finished.{digest}.h5")
