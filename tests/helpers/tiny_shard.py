"""What a shard job of the tiny model leaves (the fixture `whole`), and another one beside it."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import torch
from sequences import write_fasta
from shards import journal_of, make_job
from spotesm.embed.task import ShardJob
from spotesm.embed.worker import embed_shard
from spotesm.shards.shard_file import ShardFile

MODEL = "esm2_tiny"
N = 12
RECORDS = [(f"p{i}", "MKVLAYRHIPQGS"[: 2 + i]) for i in range(N)]


def job_beside(whole: ShardJob, folder: Path, records: list[tuple[str, str]]) -> ShardJob:
    """The same work in another folder, over other records."""
    job = make_job(folder, write_fasta(folder / "in.fasta", records), whole.weights)
    places = {name: getattr(job, name) for name in ("fasta", "output", "checkpoints")}
    return dataclasses.replace(whole, **places)


def lay_out_parts(whole: ShardJob, job: ShardJob) -> None:
    """Give a job the parts of the whole one: as if it had been killed before its file was."""
    shutil.rmtree(job.checkpoints, ignore_errors=True)
    shutil.copytree(
        whole.checkpoints, job.checkpoints, ignore=shutil.ignore_patterns("finished*", "journal*")
    )
    job.output.unlink(missing_ok=True)


def sequences_in(part: Path, but_rejected: bool = False) -> int:
    """How many sequences a part holds."""
    reasons = [
        r for batch in torch.load(part, weights_only=True)["batches"] for r in batch["reasons"]
    ]
    return reasons.count(None) if but_rejected else len(reasons)


def values_of(job: ShardJob) -> dict[bytes, list[object]]:
    """All that the shard's file holds of each sequence, whatever the order of the work."""
    with ShardFile(job.output) as file:
        held = list(file.read(np.arange(file.n_sequences), file.outputs.keys))
    return {
        digest.tobytes(): [
            one.reasons[0],
            one.windows.tobytes(),
            *((key, rows.tobytes()) for key, rows in one.rows.items()),
            *((key, ragged.values.tobytes()) for key, ragged in one.ragged.items()),
        ]
        for results in held
        for place, digest in enumerate(results.digests)
        for one in [results.take(np.array([place]))]
    }


def resume(job: ShardJob) -> int:
    """Run the job; how many sequences it computed."""
    embed_shard(job)
    return journal_of(job)[-1]["computed"]
