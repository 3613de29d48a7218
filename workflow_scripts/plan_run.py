"""Rule plan_run: say what the run will cost, before it starts."""

from pathlib import Path

from spotesm.commands.plan import PlanJob, plan_run
from spotesm.sequences.long_sequences import LongSequences
from spotesm.step import step

with step(snakemake.log[0]):
    settings = snakemake.params.config
    plan = plan_run(
        PlanJob(
            datasets={
                name: [Path(path) for path in paths]
                for name, paths in snakemake.params.datasets.items()
            },
            shards=settings["shards"],
            model=settings["model"]["name"],
            engine=settings["model"]["engine"],
            outputs=settings["outputs"],
            layers=settings["layers"],
            store_dtype=settings["store_dtype"],
            long_sequences=LongSequences(**settings["long_sequences"]),
            precision=settings["precision"],
        )
    )
    print(plan)
