"""One shard's work order, and the task it becomes on a device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from spotesm.hdf5.format import auto_of
from spotesm.machine.allocator import keep_freed_memory
from spotesm.machine.devices import describe_device, resolve_precision
from spotesm.machine.nvidia import AUTO
from spotesm.model.engines import ENGINES, Engine, start_packed
from spotesm.request.outputs import CONTACTS, LOGITS, Outputs
from spotesm.request.precision import Agreement
from spotesm.request.request import Request
from spotesm.sequences.reasons import Device
from spotesm.sequences.sharding import Shard
from spotesm.shards.checkpoints import CHECKPOINT_FORMAT, Thresholds
from spotesm.weights.architectures import PACKED
from spotesm.weights.manifest import Weights
from spotesm.weights.prepared import default_folder


@dataclass(frozen=True)
class ShardJob:
    """One shard's work order.

    Attributes:
        fasta: the shard, as `split_fasta` wrote it.
        output: the shard's HDF5 file.
        weights: manifest of the weights.
        checkpoints: the shard's own checkpoint directory.
        request: what is asked for.
        tokens_per_batch: most tokens in a batch, over all windows, BOS and EOS included; 0 lets
            the model and the device decide.
        thresholds: when a part is written.
        checkpointing: whether parts are written and read at all.
        keep_parts: whether parts stay when the shard is complete.
        restart: a name for a forced restart, or empty. Parts from before the first attempt
            under this name are ignored; later attempts under it resume as ever.
        prepared: the folder of prepared weights; None for the one beside torch's downloads.
        past: the merged file of this dataset, if an earlier run left one.
        input: what the records come from, kept in the file.
        reuse: earlier merged files of others.
        agreement: where the jobs of a dataset agree on what `precision: auto` is; None if each
            decides for itself.
    """

    fasta: Path
    output: Path
    weights: Path
    checkpoints: Path
    request: Request
    tokens_per_batch: int
    thresholds: Thresholds
    checkpointing: bool = True
    keep_parts: bool = False
    restart: str = ""
    prepared: Path | None = None
    past: Path | None = None
    input: Mapping = field(default_factory=dict)
    reuse: Sequence[Path] = ()
    agreement: Agreement | None = None


@dataclass(frozen=True)
class Task:
    """A work order, what it names, and the device that does it.

    Attributes:
        request: what is asked for, resolved for the model and the device.
        hardware: what the device is.
    """

    job: ShardJob
    shard: Shard
    weights: Weights
    request: Request
    device: torch.device
    hardware: Device

    @classmethod
    def of_job(cls, job: ShardJob, device: torch.device) -> "Task":
        """Read what the work order names.

        Raises:
            DeviceError: it cannot have the precision that others of the dataset computed in.
            WeightsError: logits or contacts are wanted, but the weights lack what they need.
        """
        own = resolve_precision(job.request.precision, device, job.request.architecture)
        hardware = describe_device(device, own)
        if job.request.precision == AUTO and job.agreement:
            agreed = job.agreement.join(hardware, lambda: auto_of(job.past))
            hardware = replace(hardware, precision=agreed)
        weights = Weights.read(job.weights)
        weights.check_has(LOGITS in job.request.outputs, CONTACTS in job.request.outputs)
        request = job.request.resolve(hardware.precision)
        return cls(job, Shard.index(job.fasta), weights, request, device, hardware)

    @property
    def outputs(self) -> Outputs:
        """What goes through the model."""
        return self.request.select()

    @property
    def dtype(self) -> torch.dtype:
        """The precision of matrix products, as torch calls it."""
        return getattr(torch, self.request.precision)

    @cached_property
    def tokens(self) -> np.ndarray:
        """What each sequence of the shard costs, (u,)."""
        return self.request.long_sequences.count_tokens(self.shard.lengths)

    @cached_property
    def settings(self) -> dict:
        """What determines the numbers; checkpoints and files of other settings never mix."""
        return settings_of(self.request, self.weights)

    def load_model(
        self, dtype: torch.dtype, check_stop: Callable[[], None] = lambda: None
    ) -> Engine:
        """Load the weights onto the device, in a precision.

        Args:
            check_stop: called now and then while another process prepares them.
        """
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.request.engine == PACKED and dtype == self.dtype:
            folder = self.job.prepared or default_folder()
            return start_packed(self.weights, self.device, dtype, folder, check_stop)
        # Nothing is kept of another precision, which few sequences need.
        return ENGINES[self.request.engine].of_source(self.weights.open(), self.device, dtype)


def settings_of(request: Request, weights: Weights | None) -> dict:
    """Return what determines the numbers of a resolved request; without weights, the rest of it."""
    settings = {"checkpoint_format": CHECKPOINT_FORMAT, **request.as_param()}
    if weights is None:
        return settings
    settings |= request.fingerprint(weights.sha256)
    if CONTACTS in request.outputs:
        settings["regression_sha256"] = weights.regression_sha256
    return settings
