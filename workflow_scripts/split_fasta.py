"""Rule split_fasta: split the FASTA files of a dataset into shards by content."""

from pathlib import Path

from spotesm.sequences.sharding import split_fasta
from spotesm.step import step

with step(snakemake.log[0]):
    split_fasta(
        inputs=[Path(path) for path in snakemake.input],
        shards=[Path(path) for path in snakemake.output.shards],
        rejected=Path(snakemake.output.rejected),
        summary=Path(snakemake.output.summary),
    )
