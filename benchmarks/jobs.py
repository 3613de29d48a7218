"""The jobs of benchmarks: one shard, and means of the last layer."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from spotesm.embed.task import ShardJob
from spotesm.request.request import Request
from spotesm.sequences.long_sequences import LongSequences
from spotesm.sequences.sharding import split_fasta
from spotesm.shards.checkpoints import Thresholds


def make_job(
    folder: Path,
    sequences: Iterable[str],
    weights: Path,
    model: str,
    precision: str,
    **changes: object,
) -> ShardJob:
    """Return a job over some sequences, in an empty folder; a part every 50, far more than usual.

    Args:
        weights: their manifest.
        changes: fields of the job that are others.
    """
    fasta, shard = folder / "in.fasta", folder / "1-of-1.fasta"
    fasta.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
    split_fasta([fasta], [shard], folder / "rejected.tsv", folder / "split.json")
    job = ShardJob(
        fasta=shard,
        output=folder / "1-of-1.h5",
        weights=weights,
        checkpoints=folder / "checkpoints",
        request=Request(
            model=model,
            engine="packed",
            outputs=("mean",),
            layers=(-1,),
            store_dtype="float32",
            precision=precision,
            long_sequences=LongSequences("window", 1022, 256, "reject"),
        ),
        tokens_per_batch=0,
        thresholds=Thresholds(sequences=50, seconds=300, bytes=1 << 30),
    )
    return replace(job, **changes)
