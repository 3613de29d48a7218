"""The worker: embed one shard on one device, and lose nothing when it is taken away."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import takewhile

import numpy as np
import torch

from spotesm.base.durable import replacing
from spotesm.base.failures import CUDA_RUNTIME, IncompleteError
from spotesm.embed.attempts import Attempt, journal_attempt
from spotesm.embed.earlier import write_earlier
from spotesm.embed.progress import Progress
from spotesm.embed.task import ShardJob, Task
from spotesm.hdf5.writing import WrittenFile
from spotesm.machine.devices import lease_device
from spotesm.machine.preemption import StopRequest
from spotesm.model.batching import plan_batches
from spotesm.model.budget import choose_token_budget
from spotesm.model.encoder import Batch, Encoder
from spotesm.model.engines import Engine
from spotesm.request.results import Results, rejected
from spotesm.sequences.reasons import TOO_LONG, Reason
from spotesm.sequences.sharding import Shard
from spotesm.shards.check import check_shard
from spotesm.shards.checkpoints import Checkpoints, open_checkpoints
from spotesm.shards.shard_writer import ShardWriter

log = logging.getLogger(__name__)


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
                journal_attempt(
                    *(checkpoints, task.shard, device, task.hardware, job.restart)
                ) as attempt,
                create_shard_file(task) as writer,
            ):
                write_done(task, checkpoints, writer, stop)
                write_earlier(task, writer, stop)
                progress = Progress(task, writer.done, writer.n_reused, attempt.number)
                remaining = embed_remaining(task, checkpoints, attempt, stop, progress, writer)
                try:
                    for batch, found in remaining:
                        results = found.on(task.hardware)
                        if job.checkpointing:
                            checkpoints.add(results)
                        writer.add(results)
                        writer.file.check()
                        progress.advance(batch, results)
                finally:
                    checkpoints.flush()  # whatever ended the work, what it computed is kept
                    progress.end()
                stop.leave_if_asked()
                writer.finish(
                    task.settings,
                    facts={
                        "input": json.dumps(dict(job.input)),
                        "weights": task.weights.source,
                        "embedding_dim": task.weights.architecture.embedding_dim,
                        "n_resumed": progress.resumed,
                        "n_reused": progress.reused,
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
    task: Task,
    checkpoints: Checkpoints,
    attempt: Attempt,
    stop: StopRequest,
    progress: Progress,
    writer: ShardWriter,
) -> Iterator[tuple[np.ndarray, Results]]:
    """Yield the indices and results of one batch after another, until all is done or a stop asked.

    What can only be rejected comes first. Then, of the sequences that lack the same outputs, and of
    those outputs alone: one by one what was in flight when CUDA failed, and the rest.
    """
    if progress.done.all():
        return
    settled = progress.done.copy()
    for which, reason in find_hopeless(task, attempt, settled):
        settled[which] = True
        yield which, rejected(task.shard.digests[which], reason)
    if settled.all():
        return

    # Once, however many groups there are.
    load_model = cache(partial(task.load_model, check_stop=stop.leave_if_asked))
    for units, which in list(writer.group_by_lack()):
        encoder = start_encoder(task, units, load_model, checkpoints, stop, progress)
        checkpoints.fix_token_budget(
            task.job.tokens_per_batch,
            lambda model=encoder.model: choose_token_budget(
                model, task.outputs, task.request.long_sequences.window
            ),
        )
        others = np.ones_like(settled)
        others[which] = settled[which]
        keys = task.outputs.keys_of(units)
        for batch, results in embed_group(task, encoder, checkpoints, attempt, stop, others):
            yield batch, results.only(keys)
        if stop:
            return


def embed_group(
    task: Task,
    encoder: Encoder,
    checkpoints: Checkpoints,
    attempt: Attempt,
    stop: StopRequest,
    settled: np.ndarray,
) -> Iterator[tuple[np.ndarray, Results]]:
    """Yield the indices and results of one batch after another, but for settled ones, (u,) bool."""
    suspects = attempt.suspects[~settled[attempt.suspects]]
    settled[suspects] = True
    token_budget = checkpoints.token_budget
    if len(suspects):
        log.warning("%d sequences were in flight when CUDA failed: one by one", len(suspects))
        trial = Batch.of([b"M"])  # a broken GPU must not be blamed on them
        list(encoder.embed_each([trial], token_budget))
    one_by_one = list(suspects.reshape(-1, 1))
    rest = plan_remaining(task, token_budget, settled)
    for batches, ahead in ((one_by_one, False), (rest, True)):
        launching = attempt.launching(takewhile(lambda _: not stop, batches))
        reading = (read_batch(task.shard, batch) for batch in launching)
        embedded = encoder.embed_each(reading, checkpoints.token_budget, ahead)
        for batch, results in zip(batches, embedded, strict=False):  # fewer, when a stop was asked
            attempt.landed()
            yield batch, results


def find_hopeless(
    task: Task, attempt: Attempt, settled: np.ndarray
) -> Iterator[tuple[np.ndarray, Reason]]:
    """Yield sequences (k,) that are rejected without a try, and why, but for settled ones.

    Those are what has killed two attempts and, if the config says so, what is too long.
    """
    condemned = np.zeros_like(settled)
    condemned[attempt.condemned] = True
    long = task.request.long_sequences
    too_long = long.rejects(task.shard.lengths) & ~condemned
    for which, reason in (
        (condemned, Reason(CUDA_RUNTIME, "killed two attempts")),
        (too_long, Reason(TOO_LONG, f"more than {long.window} residues")),
    ):
        if (which & ~settled).any():
            yield np.flatnonzero(which & ~settled), reason


def read_batch(shard: Shard, which: np.ndarray) -> Batch:
    """Read the sequences with the indices `which`."""
    return Batch(shard.read_sequences(which), shard.digests[which])


def start_encoder(
    task: Task,
    units: list[str],
    load_model: Callable[[torch.dtype], Engine],
    checkpoints: Checkpoints,
    stop: StopRequest,
    progress: Progress,
) -> Encoder:
    """Load the model onto the device, for some units of the outputs."""
    precision = task.request.precision
    outputs = task.outputs.narrow(units)
    encoder = Encoder(
        load_model=load_model,
        dtype=getattr(torch, precision),
        outputs=outputs,
        long_sequences=task.request.long_sequences,
        on_smaller_budget=checkpoints.lower_token_budget,
        check_stop=stop.leave_if_overdue,
        on_pass=progress.advance_within,
    )
    log.info(
        "%s in %s, %s: %s",
        *(task.weights.model, precision, encoder.model.description, ", ".join(outputs.keys)),
    )
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
        with WrittenFile(temporary) as file:
            yield ShardWriter(file, task.shard, task.request, embedding_dim)
        check_shard(temporary, task.shard, task.settings)


def write_done(
    task: Task, checkpoints: Checkpoints, writer: ShardWriter, stop: StopRequest
) -> None:
    """Write what earlier attempts have finished, but for what this device may do better."""
    if task.job.checkpointing:
        for part in checkpoints.read_parts():
            holds = [reason is None or reason.holds_on(task.hardware) for reason in part.reasons]
            writer.add(part.take(np.flatnonzero(holds)))
            stop.leave_if_asked()


def plan_remaining(task: Task, token_budget: int, done: np.ndarray) -> list[np.ndarray]:
    """Return the batches of the whole shard's plan, without what is done.

    An unbroken run forms the same batches, so that a resumed one gets the same bits; and so does
    one over the same sequences in another order.
    """
    by_digest = task.shard.by_digest
    batches = (by_digest[batch] for batch in plan_batches(task.tokens[by_digest], token_budget))
    remaining = (batch[~done[batch]] for batch in batches)
    return [batch for batch in remaining if len(batch)]
