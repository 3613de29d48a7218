"""The worker: embed one shard on one device, and lose nothing when it is taken away."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

import h5py
import numpy as np
import torch

from spotesm.attempts import Attempt, journal_attempt
from spotesm.batching import plan_batches
from spotesm.budget import choose_token_budget
from spotesm.checkpoints import Checkpoints, Thresholds, open_checkpoints
from spotesm.devices import lease_device, resolve_precision
from spotesm.durable import replacing
from spotesm.encoder import Encoder
from spotesm.esm2 import PackedESM2
from spotesm.failures import CUDA_RUNTIME, IncompleteError, WeightsError
from spotesm.long_sequences import LongSequences
from spotesm.model_files import regression_path
from spotesm.outputs import CONTACTS, Outputs
from spotesm.preemption import StopRequest
from spotesm.progress import Progress
from spotesm.reference import ReferenceEngine
from spotesm.results import Results, rejected
from spotesm.shard_files import ShardWriter, check_shard
from spotesm.sharding import Shard
from spotesm.weights import Weights, load_verified

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 2
ENGINES = {"packed": PackedESM2, "reference": ReferenceEngine}
TOO_LONG = "too_long"


@dataclass(frozen=True)
class ShardJob:
    """One shard's work order.

    Attributes:
        fasta: the shard, as `split_fasta` wrote it.
        output: the shard's HDF5 file.
        weights: manifest of the weights.
        checkpoints: the shard's own checkpoint directory.
        engine: `packed`, or fair-esm's own forward, the `reference`.
        outputs: names of what is computed.
        layers: of which layers; negative ones are counted from the end.
        store_dtype: `float32` or `float16`, of the values in the file.
        long_sequences: what happens to long ones.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        tokens_per_batch: most tokens in a batch, over all windows, BOS and EOS included; 0 lets
            the model and the device decide.
        thresholds: when a part is written.
        checkpointing: whether parts are written and read at all.
        keep_parts: whether parts stay when the shard is complete.
        restart: a name for a forced restart, or empty. Parts from before the first attempt
            under this name are ignored; later attempts under it resume as ever.
    """

    fasta: Path
    output: Path
    weights: Path
    checkpoints: Path
    engine: str
    outputs: Sequence[str]
    layers: Sequence[int]
    store_dtype: str
    long_sequences: LongSequences
    precision: str
    tokens_per_batch: int
    thresholds: Thresholds
    checkpointing: bool = True
    keep_parts: bool = False
    restart: str = ""


def embed_shard(job: ShardJob) -> None:
    """Embed every sequence of a shard that no earlier attempt has finished, and write its file.

    The file has a row for each record, and the same values however often the work was
    interrupted. It gets its name only when it is complete.

    Raises:
        Preempted: SIGTERM or SIGINT came; with checkpointing on, what was computed is on disk.
        UserError: the weights are not what was fetched, or another process has the shard.
    """
    shard = Shard.index(job.fasta)
    weights = Weights.read(job.weights)
    with StopRequest() as stop, lease_device(stop.leave_if_asked) as device:
        settings = describe_settings(job, weights, device)
        with open_checkpoints(job.checkpoints, settings, job.thresholds) as checkpoints:
            if is_complete(job.output, shard, checkpoints):
                log.info("%s: another process has finished this shard meanwhile", job.output)
                return
            with (
                journal_attempt(checkpoints, shard, device, job.restart) as attempt,
                create_shard_file(job, shard, weights, settings) as writer,
            ):
                done = find_done(job, shard, checkpoints)
                keep = checkpoints.add if job.checkpointing else writer.add
                tokens = job.long_sequences.count_tokens(shard.lengths)
                where = {"device": str(device), "folder": job.checkpoints}
                progress = Progress(shard.lengths, tokens, done, attempt.number, **where)
                try:
                    for batch, results in embed_remaining(
                        job, shard, weights, device, checkpoints, attempt, stop, done
                    ):
                        keep(results)
                        progress.advance(batch, results)
                finally:
                    checkpoints.flush()  # whatever ended the work, what it computed is kept
                    progress.write()
                stop.leave_if_asked()

                for part in read_parts(job, checkpoints):
                    writer.add(part)
                    stop.leave_if_asked()
                writer.finish(
                    settings,
                    facts={
                        "weights": weights.source,
                        "embedding_dim": weights.architecture.embedding_dim,
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
    job: ShardJob,
    shard: Shard,
    weights: Weights,
    device: torch.device,
    checkpoints: Checkpoints,
    attempt: Attempt,
    stop: StopRequest,
    done: np.ndarray,
) -> Iterator[tuple[np.ndarray, Results]]:
    """Yield the indices and results of one batch after another, until all is done or a stop asked.

    Sequences that were in flight when CUDA failed come first, one by one; those that have
    killed two attempts are rejected, and so are long ones if the config says so.
    """
    if done.all():
        return
    settled = done.copy()
    for which, reason in (
        (attempt.condemned, f"{CUDA_RUNTIME}: killed two attempts"),
        (
            np.flatnonzero(job.long_sequences.rejects(shard.lengths)),
            f"{TOO_LONG}: {job.long_sequences.window}",
        ),
    ):
        which = which[~settled[which]]
        if len(which):
            settled[which] = True
            yield which, rejected(shard.digests[which], reason)
    suspects = attempt.suspects[~settled[attempt.suspects]]
    encoder = start_encoder(job, weights, device, checkpoints, stop)
    token_budget = checkpoints.fix_token_budget(
        job.tokens_per_batch,
        lambda: choose_token_budget(encoder.model, encoder.outputs, job.long_sequences.window),
    )
    if len(suspects):
        log.warning("%d sequences were in flight when CUDA failed: one by one", len(suspects))
        list(encoder.embed_each([[b"M"]], token_budget))  # a broken GPU must not be blamed on them
    settled[suspects] = True
    tokens = job.long_sequences.count_tokens(shard.lengths)
    rest = plan_remaining(tokens, token_budget, settled)
    for batches, ahead in ((suspects.reshape(-1, 1), False), (rest, True)):
        launching = attempt.launching(takewhile(lambda _: not stop, batches))
        reading = (shard.read_sequences(batch) for batch in launching)
        embedded = encoder.embed_each(reading, checkpoints.token_budget, ahead)
        for batch, results in zip(batches, embedded, strict=False):
            attempt.landed()
            yield batch, results


def resolve_outputs(job: ShardJob, weights: Weights) -> Outputs:
    """Return what is computed, with the model's own numbers of the layers."""
    if CONTACTS in job.outputs and not weights.regression_sha256:
        raise WeightsError(
            f"{weights.path}: contacts need its contact regression; put fair-esm's "
            f"{regression_path(Path(weights.path)).name} beside it, or take contacts out of outputs"
        )
    layers = weights.architecture.layers
    return Outputs.of_model(job.outputs, job.layers, job.store_dtype, layers)


def describe_settings(job: ShardJob, weights: Weights, device: torch.device) -> dict:
    """Return what determines the numbers; checkpoints and files of other settings never mix."""
    outputs = resolve_outputs(job, weights)
    settings = {
        "checkpoint_format": CHECKPOINT_FORMAT,
        "model": weights.model,
        "engine": job.engine,
        "weights_sha256": weights.sha256,
        "outputs": list(outputs.names),
        "layers": list(outputs.layers),
        "store_dtype": outputs.store_dtype,
        "precision": resolve_precision(job.precision, device),
        "long_sequences": asdict(job.long_sequences),
    }
    if CONTACTS in outputs:
        settings["regression_sha256"] = weights.regression_sha256
    return settings


def start_encoder(
    job: ShardJob,
    weights: Weights,
    device: torch.device,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> Encoder:
    """Load the model onto the device."""
    precision = checkpoints.fingerprint["precision"]
    encoder = Encoder(
        load_model=lambda dtype: ENGINES[job.engine](load_verified(weights), device, dtype),
        dtype=getattr(torch, precision),
        outputs=resolve_outputs(job, weights),
        long_sequences=job.long_sequences,
        on_smaller_budget=checkpoints.lower_token_budget,
        check_stop=stop.leave_if_overdue,
    )
    log.info("%s in %s, %s", weights.model, precision, encoder.model.description)
    return encoder


def is_complete(output: Path, shard: Shard, checkpoints: Checkpoints) -> bool:
    """Whether another process wrote the shard's file while this one waited for its lock.

    Snakemake removes an output before it starts the job, so a file that is there by now came
    from a job that outlived its Snakemake.
    """
    if not output.exists():
        return False
    try:
        check_shard(output, shard, checkpoints.fingerprint)
    except IncompleteError as error:
        log.warning("%s; computing it again", error)
        return False
    return True


@contextmanager
def create_shard_file(
    job: ShardJob, shard: Shard, weights: Weights, settings: dict
) -> Iterator[ShardWriter]:
    """Yield a writer to a temporary file, which gets its name if it proves complete."""
    embedding_dim = weights.architecture.embedding_dim
    with replacing(job.output) as temporary:
        with h5py.File(temporary, "w") as file:
            yield ShardWriter(file, shard, resolve_outputs(job, weights), embedding_dim)
        check_shard(temporary, shard, settings)


def read_parts(job: ShardJob, checkpoints: Checkpoints) -> Iterator[Results]:
    """Yield the results on disk; none when checkpointing is off."""
    return checkpoints.read_parts() if job.checkpointing else iter(())


def find_done(job: ShardJob, shard: Shard, checkpoints: Checkpoints) -> np.ndarray:
    """Return which sequences of the shard, (u,) bool, earlier attempts have finished."""
    done = np.zeros(len(shard.digests), dtype=bool)
    for part in read_parts(job, checkpoints):
        found = shard.find(part.digests)
        done[found[found >= 0]] = True
    return done


def plan_remaining(tokens: np.ndarray, token_budget: int, done: np.ndarray) -> list[np.ndarray]:
    """Return the batches of the whole shard's plan, without what is done.

    An unbroken run forms the same batches, so that a resumed one gets the same bits.
    """
    remaining = (batch[~done[batch]] for batch in plan_batches(tokens, token_budget))
    return [batch for batch in remaining if len(batch)]
