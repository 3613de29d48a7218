"""The attempts at one shard: what each did and how it ended, and what the next learns from that."""

import logging
import os
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from spotesm.base.classification import classify
from spotesm.base.failures import CUDA_RUNTIME
from spotesm.machine.preemption import Preempted
from spotesm.machine.slurm import requeue_this_job
from spotesm.sequences.digests import as_hex, from_hex
from spotesm.sequences.reasons import Device
from spotesm.sequences.sharding import Shard
from spotesm.shards.checkpoints import Checkpoints

log = logging.getLogger(__name__)

KILLS_OF_A_REJECTED_SEQUENCE = 2
# What is read of an event of the journal.
READ: dict[str, dict[str, type]] = {
    "start": {"restart": str},
    "failed": {
        "attempt": int,
        "time": str,
        "host": str,
        "type": str,
        "message": str,
        "digests": list,
        "hardware": dict,
    },
}
_DIGEST = re.compile("[0-9a-f]{32}")


@dataclass
class Attempt:
    """One attempt at a shard.

    Attributes:
        number: from 1, since the shard was last completed.
        suspects: sequences (indices) that were in flight when CUDA failed, to be run one by one.
        condemned: sequences that killed two attempts, one of them alone.
        computed: sequences embedded by this attempt.
        in_flight: the batches that the device works on.
    """

    number: int
    suspects: np.ndarray
    condemned: np.ndarray
    computed: int = 0
    in_flight: list[np.ndarray] = field(default_factory=list)

    def launching(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass batches on, each noted as in flight."""
        for batch in batches:
            self.in_flight.append(batch)
            yield batch

    def landed(self) -> None:
        """Note that the results of the oldest batch in flight have arrived."""
        self.computed += len(self.in_flight.pop(0))


@contextmanager
def journal_attempt(
    checkpoints: Checkpoints,
    shard: Shard,
    device: torch.device,
    hardware: Device,
    restart: str,
) -> Iterator[Attempt]:
    """Write an attempt's start and end to the shard's journal.

    A failure's line has its type, the batch in flight, the token budget and the device. A job
    of our SLURM profile that SIGTERM stops after it made progress asks to be run again.

    Args:
        hardware: what the device is; only what failed on such a one is rejected here.
        restart: a name for a forced restart, or empty; parts from before the first attempt
            under this name are ignored.
    """
    journal = checkpoints.journal
    earlier = journal.read_since_completed(_is_whole)
    starts = [entry for entry in earlier if entry["event"] == "start"]
    if restart and not any(entry["restart"] == restart for entry in starts):
        log.warning("forced restart: checkpoints of earlier runs are ignored")
        checkpoints.start_anew()
    attempt = Attempt(len(starts) + 1, *_find_suspects(earlier, shard, hardware))
    journal.record(
        "start",
        attempt=attempt.number,
        restart=restart,
        device=str(device),
        hardware=asdict(hardware),
        visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
    )
    try:
        yield attempt
    except Preempted as stop:
        with suppress(OSError):  # a full disk must not end it otherwise
            journal.record(
                "stopped", attempt=attempt.number, computed=attempt.computed, message=str(stop)
            )
        # Without progress, a requeue could go on for ever; other signals come from a person.
        if attempt.computed and stop.exit_code == 128 + signal.SIGTERM:
            requeue_this_job()
        raise
    except Exception as error:
        _log_history(earlier)
        batch = np.concatenate(attempt.in_flight) if attempt.in_flight else np.array([], np.int64)
        with suppress(OSError):  # a full disk must not hide what happened
            journal.record(
                "failed",
                attempt=attempt.number,
                computed=attempt.computed,
                type=classify(error),
                message=f"{type(error).__name__}: {error}",
                digests=as_hex(shard.digests[batch]),
                ids=shard.ids_of(batch),
                token_budget=checkpoints.token_budget,
                device=str(device),
                hardware=asdict(hardware),
            )
        raise
    journal.record("completed", attempt=attempt.number, computed=attempt.computed)


def _find_suspects(
    earlier: list[dict], shard: Shard, hardware: Device
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sequences to run one by one, and those that have killed enough attempts.

    Those of other devices count as suspects alone.
    """
    failures = [e for e in earlier if e["event"] == "failed" and e["type"] == CUDA_RUNTIME]
    here = [e for e in failures if e["hardware"] == asdict(hardware)]
    kills = Counter(digest for entry in here for digest in entry["digests"])
    alone = {entry["digests"][0] for entry in here if len(entry["digests"]) == 1}
    condemned = {d for d in alone if kills[d] >= KILLS_OF_A_REJECTED_SEQUENCE}
    suspects = {digest for entry in failures for digest in entry["digests"]}
    return _indices(shard, suspects - condemned), _indices(shard, condemned)


def _is_whole(event: dict) -> bool:
    """Whether an event of the journal has what is read of it."""
    kinds = READ.get(event["event"], {})
    if not all(isinstance(event.get(key), kind) for key, kind in kinds.items()):
        return False
    digests = event["digests"] if "digests" in kinds else []
    return all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in digests)


def _indices(shard: Shard, digests: Iterable[str]) -> np.ndarray:
    found = shard.find(from_hex(digests))
    return np.sort(found[found >= 0])


def _log_history(earlier: list[dict]) -> None:
    """Quote the journal, since Snakemake has deleted the logs of earlier attempts."""
    for entry in earlier:
        if entry["event"] == "failed":
            log.error(
                "attempt %d had failed at %s on %s: %s: %s",
                *(entry[key] for key in ("attempt", "time", "host", "type", "message")),
            )
