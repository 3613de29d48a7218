"""Make sure that weights are there, whole and right, before any shard waits for them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from spotesm.base.failures import NoLocksError
from spotesm.base.paths import HUB, PRETRAINED, UNTRAINED
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.downloads import download_pretrained, download_snapshot
from spotesm.weights.manifest import Weights, know, open_named
from spotesm.weights.prepared import Prepared, default_folder, warn_unkept
from spotesm.weights.settings import check_origin
from spotesm.weights.tensors import check_finite

log = logging.getLogger(__name__)


def fetch_weights(
    model: str,
    source: str,
    manifest: Path,
    adapter: str = "",
    logits: bool = False,
    contacts: bool = False,
    precision: str = "auto",
    prepared: Path | None = None,
    prove: Callable[[Weights], None] = lambda weights: None,
    contents: Sequence[str] = (),
) -> None:
    """Make sure the weights of `model` are on disk, whole and right, and write their manifest.

    Args:
        source: `untrained`, `pretrained` (downloaded to torch's hub folder unless already there),
            `hf:OWNER/NAME[@REVISION]`, or the path of a file or folder that `open_source` reads.
        manifest: JSON with the fields of `Weights`.
        adapter: of LoRA: a folder, or `hf:OWNER/NAME[@REVISION]`.
        logits: whether they will be asked for.
        contacts: likewise.
        precision: in which they are prepared for the packed engine; `auto` leaves that to the first
            job, which knows its device.
        prepared: the folder of prepared weights; None for the one beside torch's downloads.
        contents: what the files that the config names are known by, kept in the manifest.
        prove: is called with the weights before they are written down; what it raises ends it.

    Raises:
        WeightsError: they cannot be had, cannot be read, are another model, or lack what an
            output needs.
    """
    named, path = _find(model, source, contacts)
    if adapter:
        named_adapter, adapter = _find_hub(adapter)
        named = f"{named} + {named_adapter}"
    opened = open_named(model, path, adapter)
    weights = replace(know(model, named, path, adapter, opened), contents=list(contents))
    weights.check_has(logits, contacts)
    if opened.files:
        check_finite(opened)
    prove(weights)
    if precision != "auto":
        folder = prepared or default_folder()
        try:
            Prepared(weights, getattr(torch, precision), folder).make()
        except (OSError, NoLocksError) as error:
            warn_unkept(folder, error)
    weights.write(manifest)
    log.info("%s: %s, sha256 %s", model, path or "untrained", weights.sha256)
    if weights.untrained:
        log.warning("these weights are random: the embeddings will mean nothing biologically")


def _find(model: str, source: str, contacts: bool) -> tuple[str, str]:
    """Return what the weights are called for good, and their path; untrained ones have none."""
    if source == UNTRAINED:
        return UNTRAINED, ""
    if source == PRETRAINED and (published := ARCHITECTURES[model].hub):
        named, path = _find_hub(f"{HUB}{published}")
        return f"{PRETRAINED}@{named.rpartition('@')[2]}", path
    if source == PRETRAINED:
        regression = contacts and ARCHITECTURES[model].has_regression
        return PRETRAINED, str(download_pretrained(model, regression))
    if source.startswith(HUB):
        check_origin(source, source.removeprefix(HUB).partition("@")[0], ARCHITECTURES[model])
    return _find_hub(source)


def _find_hub(source: str) -> tuple[str, str]:
    """Return what a path or a name of the hub is called for good, and its path."""
    if not source.startswith(HUB):
        return source, source
    name, _, revision = source.removeprefix(HUB).partition("@")
    folder = download_snapshot(name, revision or None)
    return f"{HUB}{name}@{folder.name}", str(folder)
