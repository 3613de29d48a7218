"""Rule fetch_weights: make sure the weights are on disk, readable and known by their sha256."""

from pathlib import Path

from spotesm.model.known_answer import check_known_answer
from spotesm.runs.identity import check_same_weights
from spotesm.step import step
from spotesm.weights.fetch import fetch_weights

with step(snakemake.log[0]):
    fetch_weights(
        model=snakemake.params.model,
        source=snakemake.params.source,
        manifest=Path(snakemake.output.manifest),
        adapter=snakemake.params.adapter,
        logits=snakemake.params.logits,
        contacts=snakemake.params.contacts,
        precision=snakemake.params.precision,
        prepared=Path(snakemake.params.prepared) if snakemake.params.prepared else None,
        prove=check_known_answer,
        contents=snakemake.params.contents,
    )
    check_same_weights(Path(snakemake.output.manifest), map(Path, snakemake.params.held))
