"""The worker: embed one shard on one device, and lose nothing when it is taken away."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
                create_shard_file(task, stop) as writer,
            ):
                write_done(task, checkpoints, writer, stop)
                write_earlier(task, writer, stop)
                progress = Progress(task, writer.done, writer.n_reused, attempt.number)
                try:
                    embed_rest(task, checkpoints, attempt, stop, progress, writer)
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
                    check_stop=stop.leave_if_asked,
                )
            if job.checkpointing:
                checkpoints.keep_finished(job.output)
            if not job.keep_parts:
                checkpoints.remove_parts()


@dataclass(frozen=True)
class Work:
    """Batches to embed, for some outputs.

    Attributes:
        units: of the outputs, see `Outputs.units`.
        batches: the sequences (k,) of each.
        alone: whether each is of one sequence, that was in flight when CUDA failed.
    """

    units: list[str]
    batches: list[np.ndarray]
    alone: bool


def embed_rest(
    task: Task,
    checkpoints: Checkpoints,
    attempt: Attempt,
    stop: StopRequest,
    progress: Progress,
    writer: ShardWriter,
) -> None:
    """Embed what is not done, one batch after another, until all is or a stop is asked for.

    What can only be rejected comes first.
    """

    def store(which: np.ndarray, found: Results) -> None:
        results = found.on(task.hardware)
        if task.job.checkpointing:
            checkpoints.add(results)
        writer.add(results)
        writer.file.check()
        progress.advance(which, results)

    for which, reason in find_hopeless(task, attempt, writer.done):
        store(which, rejected(task.shard.digests[which], reason))
    if writer.done.all():
        return
    # Once, however many works there are.
    load_model = cache(partial(task.load_model, check_stop=stop.leave_if_asked))
    checkpoints.fix_token_budget(
        task.job.tokens_per_batch,
        lambda: choose_token_budget(
            load_model(task.dtype), task.outputs, task.request.long_sequences.window
        ),
    )
    for work in list_work(task, attempt, writer, checkpoints.token_budget):
        if stop:
            return
        encoder = start_encoder(task, work.units, load_model, checkpoints, stop, progress)
        if work.alone:
            n = len(work.batches)
            log.warning("%d sequences were in flight when CUDA failed: one by one", n)
            trial = Batch.of([b"M"])  # a broken GPU must not be blamed on them
            list(encoder.embed_each([trial], checkpoints.token_budget))
        keys = task.outputs.keys_of(work.units)
        launching = attempt.launching(takewhile(lambda _: not stop, work.batches))
        reading = (read_batch(task.shard, batch) for batch in launching)
        embedded = encoder.embed_each(reading, checkpoints.token_budget, not work.alone)
        for batch, results in zip(work.batches, embedded, strict=False):  # fewer after a stop
            attempt.landed()
            store(batch, results.only(keys))


def list_work(task: Task, attempt: Attempt, writer: ShardWriter, token_budget: int) -> list[Work]:
    """Return what is to be embedded, by the outputs that sequences lack together.

    Of each, what was in flight when CUDA failed comes first, one by one.
    """
    works = []
    for units, which in writer.group_by_lack():
        alone = which[np.isin(which, attempt.suspects)]
        if len(alone):
            works.append(Work(units, list(alone.reshape(-1, 1)), alone=True))
        others = np.ones(len(task.shard.digests), bool)
        others[np.setdiff1d(which, alone)] = False
        if batches := plan_remaining(task, token_budget, others):
            works.append(Work(units, batches, alone=False))
    return works


def find_hopeless(
    task: Task, attempt: Attempt, done: np.ndarray
) -> list[tuple[np.ndarray, Reason]]:
    """Return sequences (k,) that are rejected without a try, and why, but for those done, (u,).

    Those are what has killed two attempts and, if the config says so, what is too long.
    """
    condemned = np.zeros_like(done)
    condemned[attempt.condemned] = True
    long = task.request.long_sequences
    too_long = long.rejects(task.shard.lengths) & ~condemned
    found = (
        (condemned, Reason(CUDA_RUNTIME, "killed two attempts")),
        (too_long, Reason(TOO_LONG, f"more than {long.window} residues")),
    )
    return [
        (np.flatnonzero(which & ~done), reason) for which, reason in found if (which & ~done).any()
    ]


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
        dtype=task.dtype,
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
def create_shard_file(task: Task, stop: StopRequest) -> Iterator[ShardWriter]:
    """Yield a writer to a temporary file, which gets its name if it proves complete."""
    embedding_dim = task.weights.architecture.embedding_dim
    with replacing(task.job.output) as temporary:
        with WrittenFile(temporary) as file:
            yield ShardWriter(file, task.shard, task.request, embedding_dim)
        check_shard(temporary, task.shard, task.settings, stop.leave_if_asked)


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
