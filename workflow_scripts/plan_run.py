"""Rule plan_run: say what the run will cost, before it starts."""

from pathlib import Path

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
    )
    print(plan)
