"""The worker: embed one shard on one device, and lose nothing when it is taken away."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile

import h5py
import numpy as np
import torch

from spotesm.base.durable import replacing
from spotesm.base.failures import CUDA_RUNTIME, IncompleteError
from spotesm.embed.attempts import Attempt, journal_attempt
from spotesm.embed.checkpoints import Checkpoints, open_checkpoints
from spotesm.embed.progress import Progress
from spotesm.embed.task import ShardJob, Task
from spotesm.hdf5.shard_file import ShardWriter, check_shard
from spotesm.machine.devices import lease_device
from spotesm.machine.preemption import StopRequest
from spotesm.model.batching import plan_batches
from spotesm.model.budget import choose_token_budget
from spotesm.model.encoder import Encoder
from spotesm.request.results import Results, rejected

log = logging.getLogger(__name__)

TOO_LONG = "too_long"


def embed_shard(job: ShardJob) -> None:
    """Embed every sequence of a shard that no earlier attempt has finished, and write its file.

    The file has a row for each record, and the same values however often the work was
    interrupted. It gets its name only when it is complete.

    Raises:
        Preempted: SIGTERM or SIGINT came; with checkpointing on, what was computed is on disk.
        UserError: the weights are not what was fetched, or another process has the shard.
    """
    with StopRequest() as stop, lease_device(stop.leave_if_asked) as device:
        task = Task.of_job(job, device)
        with open_checkpoints(job.checkpoints, task.settings, job.thresholds) as checkpoints:
            if is_complete(task):
                log.info("%s: another process has finished this shard meanwhile", job.output)
                return
            with (
                journal_attempt(checkpoints, task.shard, device, job.restart) as attempt,
                create_shard_file(task) as writer,
            ):
                done = find_done(task, checkpoints)
                progress = Progress(task, done, attempt.number)
                keep = checkpoints.add if job.checkpointing else writer.add
                try:
                    for batch, results in embed_remaining(task, checkpoints, attempt, stop, done):
                        keep(results)
                        progress.advance(batch, results)
                finally:
                    checkpoints.flush()  # whatever ended the work, what it computed is kept
                    progress.write()
                stop.leave_if_asked()

                for part in read_parts(task, checkpoints):
                    writer.add(part)
                    stop.leave_if_asked()
                writer.finish(
                    task.settings,
                    facts={
                        "weights": task.weights.source,
                        "embedding_dim": task.weights.architecture.embedding_dim,
                        "n_resumed": progress.resumed,
                        "n_computed": progress.computed,
                        "attempts": attempt.number,
                        "seconds": progress.seconds,
                    },
                )
            if job.checkpointing:
                checkpoints.keep_finished(job.output)
            if not job.keep_parts:
                checkpoints.remove_parts()


def embed_remaining(
    task: Task, checkpoints: Checkpoints, attempt: Attempt, stop: StopRequest, done: np.ndarray
) -> Iterator[tuple[np.ndarray, Results]]:
    """Yield the indices and results of one batch after another, until all is done or a stop asked.

    Sequences that were in flight when CUDA failed come first, one by one; those that have
    killed two attempts are rejected, and so are long ones if the config says so.
    """
    if done.all():
        return
    shard, long = task.shard, task.job.long_sequences
    settled = done.copy()
    too_long = np.flatnonzero(long.rejects(shard.lengths))
    for which, reason in (
        (attempt.condemned, f"{CUDA_RUNTIME}: killed two attempts"),
        (too_long, f"{TOO_LONG}: more than {long.window} residues"),
    ):
        which = which[~settled[which]]
        if len(which):
            settled[which] = True
            yield which, rejected(shard.digests[which], reason)
    suspects = attempt.suspects[~settled[attempt.suspects]]
    encoder = start_encoder(task, checkpoints, stop)
    token_budget = checkpoints.fix_token_budget(
        task.job.tokens_per_batch,
        lambda: choose_token_budget(encoder.model, task.outputs, long.window),
    )
    if len(suspects):
        log.warning("%d sequences were in flight when CUDA failed: one by one", len(suspects))
        list(encoder.embed_each([[b"M"]], token_budget))  # a broken GPU must not be blamed on them
    settled[suspects] = True
    rest = plan_remaining(task.tokens, token_budget, settled)
    for batches, ahead in ((suspects.reshape(-1, 1), False), (rest, True)):
        launching = attempt.launching(takewhile(lambda _: not stop, batches))
        reading = (shard.read_sequences(batch) for batch in launching)
        embedded = encoder.embed_each(reading, checkpoints.token_budget, ahead)
        for batch, results in zip(batches, embedded, strict=False):
            attempt.landed()
            yield batch, results


def start_encoder(task: Task, checkpoints: Checkpoints, stop: StopRequest) -> Encoder:
    """Load the model onto the device."""
    precision = task.settings["precision"]
    encoder = Encoder(
        load_model=task.load_model,
        dtype=getattr(torch, precision),
        outputs=task.outputs,
        long_sequences=task.job.long_sequences,
        on_smaller_budget=checkpoints.lower_token_budget,
        check_stop=stop.leave_if_overdue,
    )
    log.info("%s in %s, %s", task.weights.model, precision, encoder.model.description)
    return encoder


def is_complete(task: Task) -> bool:
    """Whether another process wrote the shard's file while this one waited for its lock.

    Snakemake removes an output before it starts the job, so a file that is there by now came
    from a job that outlived its Snakemake.
    """
    if not task.job.output.exists():
        return False
    try:
        check_shard(task.job.output, task.shard, task.settings)
    except IncompleteError as error:
        log.warning("%s; computing it again", error)
        return False
    return True


@contextmanager
def create_shard_file(task: Task) -> Iterator[ShardWriter]:
    """Yield a writer to a temporary file, which gets its name if it proves complete."""
    embedding_dim = task.weights.architecture.embedding_dim
    with replacing(task.job.output) as temporary:
        with h5py.File(temporary, "w") as file:
            yield ShardWriter(file, task.shard, task.outputs, embedding_dim)
        check_shard(temporary, task.shard, task.settings)


def read_parts(task: Task, checkpoints: Checkpoints) -> Iterator[Results]:
    """Yield the results on disk; none when checkpointing is off."""
    return checkpoints.read_parts() if task.job.checkpointing else iter(())


def find_done(task: Task, checkpoints: Checkpoints) -> np.ndarray:
    """Return which sequences of the shard, (u,) bool, earlier attempts have finished."""
    done = np.zeros(len(task.shard.digests), dtype=bool)
    for part in read_parts(task, checkpoints):
        found = task.shard.find(part.digests)
        done[found[found >= 0]] = True
    return done


def plan_remaining(tokens: np.ndarray, token_budget: int, done: np.ndarray) -> list[np.ndarray]:
    """Return the batches of the whole shard's plan, without what is done.

    An unbroken run forms the same batches, so that a resumed one gets the same bits.
    """
    remaining = (batch[~done[batch]] for batch in plan_batches(tokens, token_budget))
    return [batch for batch in remaining if len(batch)]
