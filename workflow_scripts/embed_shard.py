"""Rule embed_shard: embed one shard on one device, resuming what earlier attempts finished."""

import os
from pathlib import Path

from spotesm.base.paths import DatasetPaths
from spotesm.embed.task import ShardJob
from spotesm.embed.worker import embed_shard
from spotesm.request.precision import Agreement
from spotesm.request.request import Request
from spotesm.shards.checkpoints import Thresholds
from spotesm.step import RUN, step

with step(snakemake.log[0]):
    checkpoints = Path(snakemake.params.checkpoints)
    dataset = DatasetPaths.of(snakemake.wildcards.dataset)
    dataset.note_checkpoints(checkpoints.parent)
    embed_shard(
        ShardJob(
            fasta=Path(snakemake.input.fasta),
            output=Path(snakemake.output[0]),
            weights=Path(snakemake.input.weights),
            checkpoints=checkpoints,
            request=Request.of_param(snakemake.params.request),
            # From resources, not params: a change of speed must not recompute finished shards.
            tokens_per_batch=snakemake.resources.tokens_per_batch,
            thresholds=Thresholds(**snakemake.params.thresholds),
            checkpointing=snakemake.params.checkpointing,
            keep_parts=snakemake.params.keep_parts,
            restart=snakemake.params.restart,
            prepared=Path(snakemake.params.prepared) if snakemake.params.prepared else None,
            past=dataset.embeddings,
            input=snakemake.params.origin,
            reuse=[Path(path) for path in snakemake.params.reuse],
            agreement=Agreement(
                dataset,
                checkpoints.parent,
                run=os.environ.get(RUN, ""),
                restart=bool(snakemake.params.restart),
            ),
        )
    )
