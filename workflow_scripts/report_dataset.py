"""Rule report_dataset: write one HTML page on a dataset."""

from pathlib import Path

from spotesm.report.page import ReportJob, report_dataset
from spotesm.runs.identity import report_key
from spotesm.step import step

with step(snakemake.log[0]):
    report_dataset(
        ReportJob(
            dataset=snakemake.wildcards.dataset,
            embeddings=Path(snakemake.input.embeddings),
            rejected=Path(snakemake.params.rejected),
            summary=Path(snakemake.input.summary),
            checkpoints=Path(snakemake.params.checkpoints),
            labels=next(map(Path, snakemake.params.labels), None),
            output=Path(snakemake.output[0]),
            key=report_key(Path(snakemake.input.embeddings), snakemake.params.labels_content),
        )
    )
