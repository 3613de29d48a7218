"""SLURM: a preempted job puts itself back into the queue, under its own number."""

import logging
import os
import subprocess

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10


def requeue_this_job() -> bool:
    """Ask SLURM to run this job again; whether it was asked.

    Asked only while the job is RUNNING: in any other state somebody has decided already, and a
    job that was cancelled would rise from the dead.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or _ask("squeue", "--noheader", "--jobs", job, "--format", "%T") != "RUNNING":
        return False
    log.info("asking SLURM to requeue job %s", job)
    return _ask("scontrol", "requeue", job) is not None


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
