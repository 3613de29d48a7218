"""One shard's work order, and the task it becomes on a device."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from spotesm.base.failures import WeightsError
from spotesm.embed.checkpoints import Thresholds
from spotesm.machine.devices import resolve_precision
from spotesm.model.packed import PackedESM2
from spotesm.model.reference import ReferenceEngine
from spotesm.request.outputs import CONTACTS, Outputs
from spotesm.sequences.long_sequences import LongSequences
from spotesm.sequences.sharding import Shard
from spotesm.weights.files import regression_path
from spotesm.weights.sources import Weights, load_verified

CHECKPOINT_FORMAT = 2
ENGINES = {"packed": PackedESM2, "reference": ReferenceEngine}


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


@dataclass(frozen=True)
class Task:
    """A work order, what it names, and the device that does it.

    Attributes:
        outputs: with the model's own numbers of the layers.
    """

    job: ShardJob
    shard: Shard
    weights: Weights
    outputs: Outputs
    device: torch.device

    @classmethod
    def of_job(cls, job: ShardJob, device: torch.device) -> "Task":
        """Read what the work order names.

        Raises:
            WeightsError: contacts are wanted, but the weights have no contact regression.
        """
        weights = Weights.read(job.weights)
        if CONTACTS in job.outputs and not weights.regression_sha256:
            raise WeightsError(
                f"{weights.path}: contacts need its contact regression; put fair-esm's "
                f"{regression_path(Path(weights.path)).name} beside it, or take contacts out of "
                "outputs"
            )
        n_layers = weights.architecture.layers
        outputs = Outputs.of_model(job.outputs, job.layers, job.store_dtype, n_layers)
        return cls(job, Shard.index(job.fasta), weights, outputs, device)

    @cached_property
    def tokens(self) -> np.ndarray:
        """What each sequence of the shard costs, (u,)."""
        return self.job.long_sequences.count_tokens(self.shard.lengths)

    @cached_property
    def settings(self) -> dict:
        """What determines the numbers; checkpoints and files of other settings never mix."""
        settings = {
            "checkpoint_format": CHECKPOINT_FORMAT,
            "model": self.weights.model,
            "engine": self.job.engine,
            "weights_sha256": self.weights.sha256,
            "outputs": list(self.outputs.names),
            "layers": list(self.outputs.layers),
            "store_dtype": self.outputs.store_dtype,
            "precision": resolve_precision(self.job.precision, self.device),
            "long_sequences": asdict(self.job.long_sequences),
        }
        if CONTACTS in self.outputs:
            settings["regression_sha256"] = self.weights.regression_sha256
        return settings

    def load_model(self, dtype: torch.dtype) -> PackedESM2 | ReferenceEngine:
        """Load the weights onto the device, in a precision."""
        return ENGINES[self.job.engine](load_verified(self.weights), self.device, dtype)
