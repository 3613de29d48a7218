"""A shard of a tiny model, quick enough to be embedded many times in pytest's own process."""

from collections.abc import Iterator

import pytest
from models import write_fair_esm
from sequences import write_fasta
from shards import make_job, parts_of
from source_contract import TINY
from spotesm.embed.task import ShardJob
from spotesm.embed.worker import embed_shard
from spotesm.sequences.long_sequences import LongSequences
from spotesm.shards.checkpoints import Thresholds
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.fetch import fetch_weights
from tiny_shard import MODEL, RECORDS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardJob]:
    """A finished shard of many outputs, with all of its parts; the last record is too long."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(ARCHITECTURES, MODEL, TINY)
        write_fair_esm(TINY, folder / f"{MODEL}.pt")
        fetch_weights(MODEL, str(folder / f"{MODEL}.pt"), folder / "manifest.json", contacts=True)
        job = make_job(
            folder,
            write_fasta(folder / "in.fasta", RECORDS),
            folder / "manifest.json",
            model=MODEL,
            outputs=("mean", "residues", "contacts"),
            layers=(0, 2),
            long_sequences=LongSequences("reject", 12, 0, "reject"),
            tokens_per_batch=20,
            thresholds=Thresholds(4, 3600, 1 << 30),
            keep_parts=True,
            prepared=folder / "prepared",
        )
        embed_shard(job)
        assert len(parts_of(job)) >= 3
        yield job
