"""All that a run leaves of a small dataset: its shard, the parts of that, and the merged file.

Random values of a model of eight dimensions, all outputs of two layers, six records: one is
repeated, one was rejected by the split, one by the embedding. So a shard of five records of four
sequences, of which `REJECTED` has no values.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sequences import write_fasta
from shards import make_merge, make_request
from spotesm.base.durable import write_json
from spotesm.hdf5.writing import WrittenFile
from spotesm.merged.merge import merge_shards
from spotesm.request.outputs import output_of
from spotesm.request.results import Ragged, Results
from spotesm.sequences.long_sequences import LongSequences
from spotesm.sequences.reasons import TOO_LONG, Reason
from spotesm.sequences.sharding import Shard, split_fasta
from spotesm.shards.checkpoints import Thresholds, open_checkpoints
from spotesm.shards.shard_writer import ShardWriter
from spotesm.weights.architectures import ARCHITECTURES

DIM = 8
RECORDS = [
    ("one", "DTSGLKQSCATK"),
    ("two", "SAK"),
    ("bad", "AC*D"),
    ("long", "RFWWAAMWIFKAFKLFFFLGATNPEYVDHR"),
    ("again", "DTSGLKQSCATK"),
    ("é|x", "FSKEMRQ"),
]
N_RECORDS, N_SEQUENCES = 5, 4  # of the shard
REQUEST = make_request(
    outputs=("mean", "bos", "residues", "logits", "contacts"),
    layers=(0, 6),
    precision="float32",
    long_sequences=LongSequences("reject", 20, 4, "reject"),
)
SETTINGS = {"checkpoint_format": 2, **REQUEST.fingerprint("f" * 64), "regression_sha256": "e" * 64}
NEVER = Thresholds(sequences=1 << 40, seconds=1e9, bytes=1 << 60)


def write_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write it, and let the model have so few dimensions; the folder."""
    small = dataclasses.replace(ARCHITECTURES[REQUEST.model], embedding_dim=DIM)
    monkeypatch.setitem(ARCHITECTURES, REQUEST.model, small)
    folder.mkdir(parents=True, exist_ok=True)
    fasta = write_fasta(folder / "in.fasta", RECORDS)
    split = {"rejected": folder / "shards/rejected.tsv", "summary": folder / "shards/split.json"}
    split_fasta([fasta], [folder / "1-of-1.fasta"], **split)
    shard = Shard.index(folder / "1-of-1.fasta")
    write_json(folder / "fingerprint.json", SETTINGS)
    batches = [results_of(shard, which) for which in np.array_split(np.arange(N_SEQUENCES), 2)]
    with open_checkpoints(folder, SETTINGS, NEVER) as checkpoints:
        for results in batches:
            checkpoints.add(results)
            checkpoints.flush()
    with WrittenFile(folder / "1-of-1.h5") as file:
        writer = ShardWriter(file, shard, REQUEST, DIM)
        for results in batches:
            writer.add(results)
        counts = {"n_computed": 4, "n_resumed": 0, "n_reused": 0, "attempts": 1, "seconds": 1.5}
        writer.finish(SETTINGS, {"weights": "untrained", "embedding_dim": DIM, **counts})
    merge_shards(
        make_merge(
            [folder / "1-of-1.h5"], folder / "shards", folder, rejected=folder / "rejected.tsv"
        )
    )
    return folder


def results_of(shard: Shard, which: np.ndarray) -> Results:
    """Random values of some sequences; what is too long is rejected."""
    lengths = shard.lengths[which]
    long = REQUEST.long_sequences.rejects(lengths)
    rng = np.random.default_rng(int(which[0]))
    rows, ragged = {}, {}
    for key in REQUEST.select().keys:
        output = output_of(key)
        counts = np.where(long, 0, REQUEST.count_rows(output, lengths)).astype(np.int64)
        n = int(counts.sum()) if output.ragged else len(which)
        values = rng.normal(size=output.shape(n, ARCHITECTURES[REQUEST.model])).astype(np.float32)
        if output.ragged:
            ragged[key] = Ragged.of_sizes(values, counts)
        else:
            rows[key] = values
    reasons = [Reason(TOO_LONG, "more than 20 residues") if one else None for one in long]
    return Results(shard.digests[which], reasons, (~long).astype(np.int32), rows, ragged)
