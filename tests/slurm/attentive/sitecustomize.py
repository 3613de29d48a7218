"""Let Snakemake ask SLURM every two seconds, where PYTHONPATH has this folder.

The executor plugin waits ten seconds longer after each round in which no job has ended, and so may
notice the end of a run half a minute late.
"""

import asyncio
import sys

SECONDS = 2

if "-m snakemake" in " ".join(sys.orig_argv[1:4]):
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    async def _sleep(_: RemoteExecutor) -> None:
        await asyncio.sleep(SECONDS)

    RemoteExecutor.sleep = _sleep
