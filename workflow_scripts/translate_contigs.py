"""Rule translate_contigs: turn contigs into the proteins of their open reading frames."""

from pathlib import Path

from spotesm.sequences.translation import translate_contigs
from spotesm.step import step

with step(snakemake.log[0]):
    translate_contigs(
        inputs=[Path(path) for path in snakemake.params.fasta],
        output=Path(snakemake.output.orfs),
        rejected=Path(snakemake.output.rejected),
        summary=Path(snakemake.output.summary),
        genetic_code=snakemake.params.genetic_code,
        min_orf=snakemake.params.min_orf,
        max_rejected=snakemake.params.max_rejected,
        kept=Path(snakemake.params.kept),
        origin=snakemake.params.origin,
    )
