"""SLURM: a preempted job puts itself back into the queue, under its own number."""

import logging
import os
import subprocess

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10
# The profile sets it in the jobs that it submits. A person's own `sbatch` or `salloc`, in which
# spotESM runs as it does anywhere else, is never requeued.
MAY_REQUEUE = "SPOTESM_REQUEUE"


def requeue_this_job() -> bool:
    """Ask SLURM to run this job again, if our profile submitted it; whether it was asked.

    Asked only while the job is RUNNING: in any other state somebody has decided already, and a
    job that was cancelled would rise from the dead.
    """
    job = _this_job()
    if not job or os.environ.get(MAY_REQUEUE) != "1":
        return False
    if _ask("squeue", "--noheader", "--jobs", job, "--format", "%T") != "RUNNING":
        return False
    log.info("asking SLURM to requeue job %s", job)
    return _ask("scontrol", "requeue", job) is not None


def _this_job() -> str | None:
    """Return the name of the job that this process runs in, as SLURM's commands take it.

    Of an array's tasks it is JOB_TASK: the number of one of them is the number of them all.
    """
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _ask(*command: str) -> str | None:
    """Return what a SLURM command prints; None if it fails or does not answer."""
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("%s: %s", command[0], error)
        return None
    return answer.stdout.strip()
