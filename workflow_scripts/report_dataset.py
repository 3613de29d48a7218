"""Rule report_dataset: write one HTML page on a dataset."""

from pathlib import Path

from spotesm.report.page import ReportJob, write_report
from spotesm.step import step

with step(snakemake.log[0]):
    labels = snakemake.input.get("labels")
    write_report(
        ReportJob(
            dataset=snakemake.wildcards.dataset,
            embeddings=Path(snakemake.input.embeddings),
            rejected=Path(snakemake.input.rejected),
            summary=Path(snakemake.input.summary),
            checkpoints=Path(snakemake.params.checkpoints),
            labels=Path(labels) if labels else None,
            output=Path(snakemake.output[0]),
        )
    )
