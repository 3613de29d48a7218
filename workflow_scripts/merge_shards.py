"""Rule merge_shards: merge the shards of a dataset into one HDF5 file, in input order."""

from pathlib import Path

from spotesm.merged.merge import MergeJob, merge_shards
from spotesm.step import step

with step(snakemake.log[0]):
    checkpoints = snakemake.params.checkpoints
    merge_shards(
        MergeJob(
            shards=[Path(path) for path in snakemake.input.shards],
            split=Path(snakemake.input.split),
            split_rejected=Path(snakemake.input.split_rejected),
            output=Path(snakemake.output.embeddings),
            rejected=Path(snakemake.params.rejected),
            summary=Path(snakemake.output.summary),
            max_rejected=snakemake.params.max_rejected,
            nucleotide=snakemake.params.nucleotide,
            compression=snakemake.params.compression,
            config=snakemake.params.config,
            input=snakemake.params.origin,
            earlier=Path(snakemake.params.earlier),
            checkpoints=Path(checkpoints) if checkpoints else None,
        )
    )
