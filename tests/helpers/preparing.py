"""Preparing weights in a process of its own, so slowly that it can be killed in between."""

import os
import time
from pathlib import Path

import torch
from spotesm.weights import prepared
from spotesm.weights.architectures import ARCHITECTURES, Architecture
from spotesm.weights.manifest import Weights
from spotesm.weights.prepared import Prepared

TINY = Architecture(layers=2, embedding_dim=16, attention_heads=2)


def prepare_slowly(manifest: Path, root: Path, log: Path) -> None:
    """Prepare in float32; a line in `log` for each file that is begun."""
    ARCHITECTURES["esm2_tiny"] = TINY
    save = prepared._save

    def noted(tensors: dict, path: Path) -> None:
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {path.name}\n")
        save(tensors, path)
        time.sleep(0.05)

    prepared._save = noted
    Prepared(Weights.read(manifest), torch.float32, root).make()
