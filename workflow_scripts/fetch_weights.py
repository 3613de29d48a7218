"""Rule fetch_weights: make sure the weights are on disk, readable and known by their sha256."""

from pathlib import Path

from spotesm.step import step
from spotesm.weights.sources import fetch_weights

with step(snakemake.log[0]):
    manifest = Path(snakemake.output.manifest)
    fetch_weights(
        model=snakemake.params.model,
        source=snakemake.params.source,
        folder=manifest.parent,
        manifest=manifest,
    )
