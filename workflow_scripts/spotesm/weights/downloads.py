"""Weights from the network: fair-esm's address, and the hub of Hugging Face."""

import http.client
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from spotesm.base.durable import publish, read_json, write_json
from spotesm.base.failures import WeightsError
from spotesm.base.locks import hold_lock
from spotesm.weights.files import (
    ADAPTER_CONFIG,
    CONFIG,
    FIRST_RELEASE,
    find_adapter,
    find_model,
    regression_path,
)

log = logging.getLogger(__name__)

ADDRESS = "https://dl.fbaipublicfiles.com/fair-esm/{folder}/{file}"
BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
TRIES = 3  # a server that breaks off is asked for the rest, as long as it sends some
SECONDS_BETWEEN_LINES = 30


def hub_folder() -> Path:
    """Return torch's hub folder, as `torch.hub` finds it, and fair-esm with it.

    Raises:
        WeightsError: nobody says where the user is at home.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    try:
        return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub"
    except RuntimeError as error:
        raise WeightsError(
            "HOME is not set, and this user has none: set TORCH_HOME to a folder for weights"
        ) from error


# -- fair-esm's address ----------------------------------------------------------------------------


def download_pretrained(model: str, regression: bool) -> Path:
    """Return the file of a published model in torch's hub folder; downloads what is not there.

    Args:
        regression: whether its contact regression must be beside it.

    Raises:
        WeightsError: it cannot be had.
    """
    path = hub_folder() / "checkpoints" / f"{model}.pt"
    wanted = [("regression", regression_path(path))] if regression else []
    for folder, file in (*wanted, ("models", path)):
        if not file.exists():
            download(ADDRESS.format(folder=folder, file=file.name), file)
    return path


def download(url: str, path: Path) -> None:
    """Download a file whole; what an earlier process, killed in the middle, got is not asked again.

    It has its name when it has all its bytes, and not before.

    Raises:
        WeightsError: it cannot be had.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(path.with_name(f".{path.name}.lock"), "TORCH_HOME"):
            if not path.exists():  # else another process got it meanwhile
                log.info("downloading %s to %s", url, path)
                _download_rest(url, path)
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            f"cannot download {url} ({error}); fetch it elsewhere and put it at {path}, "
            "or set model: weights: to the path of a copy"
        ) from error


def _download_rest(url: str, path: Path) -> None:
    part, facts = Path(f"{path}.part"), Path(f"{path}.part.json")
    tries = TRIES
    while True:
        before = _size(part)
        try:
            if _append(url, part, facts):
                break
        except (TimeoutError, ConnectionError, http.client.IncompleteRead):
            pass
        tries = TRIES if _size(part) > before else tries - 1
        if not tries:
            raise ConnectionError(f"it breaks off after {_size(part)} bytes")
    publish(part, path)
    facts.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(url: str, part: Path, facts: Path) -> bool:
    """Ask for what is missing, and append it; whether the file is whole then."""
    known = read_json(facts) if facts.exists() else {}
    have = _size(part) if known.get("url") == url and known.get("version") else 0
    headers = {"Range": f"bytes={have}-", "If-Range": known["version"]} if have else {}
    if have and have == known.get("bytes"):
        return True
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS
    ) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server has another version now, or gives no parts
        length = response.headers.get("Content-Length")
        if length is None:
            raise ConnectionError("the server does not say how long the file is")
        total = have + int(length)
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if not have:
            part.unlink(missing_ok=True)
            write_json(facts, {"url": url, "version": version, "bytes": total})
        with open(part, "ab") as file:
            for block in _shown(response, part.stem, have, total):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    return _size(part) == total


def _shown(response: http.client.HTTPResponse, name: str, have: int, total: int) -> Iterator[bytes]:
    """Yield blocks; show how far it is by a bar on a terminal, and now and then by a line."""
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task(name, total=total, completed=have)
        said = time.monotonic()
        while block := response.read(BLOCK_BYTES):
            yield block
            have += len(block)
            progress.update(bar, completed=have)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                log.info("%s: %d of %d MB", name, have >> 20, total >> 20)


# -- the hub ---------------------------------------------------------------------------------------

_SAID = [CONFIG, "vocab.txt", ADAPTER_CONFIG]
_SAFE = [*_SAID, "model*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"]
_OLDER = [
    *_SAID,
    *("pytorch_model*.bin", "pytorch_model.bin.index.json", "adapter_model.bin"),
    FIRST_RELEASE,
]


def download_snapshot(name: str, revision: str | None) -> Path:
    """Return the folder of a model of the hub, named by its commit; downloads what is not there.

    `HF_HOME`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN` mean what they mean to every tool.

    Raises:
        WeightsError: it cannot be had, or huggingface_hub is not installed.
    """
    try:
        import huggingface_hub as hub  # not everybody needs it
    except ImportError as error:
        raise WeightsError(
            f"hf:{name}: needs huggingface_hub (pip install huggingface_hub); or give the path of "
            "a folder"
        ) from error
    try:
        if revision and (folder := _already_there(hub, name, revision)):
            return folder
        folder = Path(hub.snapshot_download(name, revision=revision, allow_patterns=_SAFE))
        if not any(folder.glob("*.safetensors")):
            hub.snapshot_download(name, revision=folder.name, allow_patterns=_OLDER)
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"hf:{name}: cannot be had from the hub ({reason}); check name, revision and network, "
            "or fetch it elsewhere and give the path of the folder"
        ) from error
    return folder


def _already_there(hub: ModuleType, name: str, revision: str) -> Path | None:
    """Return the folder of a revision that lies whole in the cache; then no request is made."""
    try:
        folder = Path(hub.snapshot_download(name, revision=revision, local_files_only=True))
        (find_adapter if (folder / ADAPTER_CONFIG).exists() else find_model)(folder)
    except (OSError, WeightsError):
        return None
    return folder
