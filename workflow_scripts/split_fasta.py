"""Rule split_fasta: split the FASTA files of a dataset into shards by content."""

import logging
from pathlib import Path

from spotesm.base.paths import DatasetPaths
from spotesm.request.inputs import Split
from spotesm.sequences.sharding import Contigs, split_fasta
from spotesm.step import step

with step(snakemake.log[0]):
    split = Split(**snakemake.params.split)
    split.tell()
    if snakemake.params.left_out:
        logging.getLogger(__name__).warning("%s", snakemake.params.left_out)
    split_fasta(
        inputs=[Path(path) for path in snakemake.params.fasta],
        shards=[Path(path) for path in snakemake.output.shards],
        rejected=Path(snakemake.output.rejected),
        summary=Path(snakemake.output.summary),
        max_rejected=snakemake.params.max_rejected,
        kept=Path(snakemake.params.kept),
        origin=snakemake.params.origin,
        surely_proteins=snakemake.params.surely_proteins,
        contigs=Contigs(*map(Path, snakemake.input.contigs)) if snakemake.input.contigs else None,
    )
    # Where Snakemake does not know of it: it stays when the input is split again.
    DatasetPaths.of(snakemake.wildcards.dataset).note_split(split.shards, split.chosen_for)
