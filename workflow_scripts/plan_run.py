"""Rule plan_run: say what the run will cost, before it starts."""

from pathlib import Path

from spotesm.base.paths import DatasetPaths
from spotesm.embed.earlier import Past
from spotesm.request.precision import read_precision
from spotesm.request.request import Request
from spotesm.runs.estimate import plan_run
from spotesm.step import step

with step(snakemake.log[0]):
    plan = plan_run(
        datasets={
            name: [Path(path) for path in paths]
            for name, paths in snakemake.params.datasets.items()
        },
        shards=snakemake.params.shards,
        request=Request.of_param(snakemake.params.request),
        pasts={
            name: Past(
                merged=DatasetPaths.of(name).embeddings,
                checkpoints=Path(checkpoints),
                shards=DatasetPaths.of(name).folder / "shards",
                named=[Path(path) for path in snakemake.params.reuse[name]],
            )
            for name, checkpoints in snakemake.params.checkpoints.items()
        },
        weights=Path(snakemake.params.weights),
        precisions={
            name: read_precision(DatasetPaths.of(name)) for name in snakemake.params.datasets
        },
    )
    print(plan)
