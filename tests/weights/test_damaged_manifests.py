"""The manifest of weights and that of prepared ones, with one thing changed in turn.

What is not noticed is named as harmless here, with the reason.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from damage import changes_of
from models import CPU, write_fair_esm
from sequences import write_fasta
from shards import make_job
from source_contract import TINY
from spotesm.base.durable import read_json
from spotesm.base.failures import WeightsError
from spotesm.commands.verify import read_weights
from spotesm.embed.worker import embed_shard
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights
from spotesm.weights.prepared import RECORD, Prepared

MODEL = "esm2_tiny"
HARMLESS_IN_THE_MANIFEST = {("digest", "gone"): "those of older versions have none"}
HARMLESS_IN_THE_RECORD = {
    "mtime_ns": "the file is read whole, and its new date is written down",
    "sha256": "compared when the date is another, and then it is made anew",
}


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(ARCHITECTURES, MODEL, TINY)
    write_fair_esm(TINY, tmp_path / f"{MODEL}.pt")
    path = tmp_path / "manifest.json"
    fetch_weights(MODEL, str(tmp_path / f"{MODEL}.pt"), path, contacts=True)
    return path


def damaged(path: Path) -> Iterator[tuple[str, str]]:
    """Apply each change to a file of JSON in turn, and cut it in many places."""
    whole = path.read_text()
    for where, how, changed in changes_of(json.loads(whole)):
        path.write_text(json.dumps(changed))
        yield where, how
    for size in range(0, len(whole.rstrip()), 7):
        path.write_text(whole[:size])
        yield "", f"cut after {size} bytes"
    for other in ("[]", "7", '"text"', "null"):
        path.write_text(other)
        yield "", other
    path.write_text(whole)


def test_a_changed_manifest_is_noticed_by_the_job_and_by_verify(
    manifest: Path, tmp_path: Path
) -> None:
    fasta = write_fasta(tmp_path / "in.fasta", [("a", "MKV"), ("b", "MKLV")])
    job = make_job(tmp_path, fasta, manifest, model=MODEL, prepared=tmp_path / "prepared")
    embed_shard(job)
    job.output.unlink()
    for where, how in damaged(manifest):
        if (where, how) in HARMLESS_IN_THE_MANIFEST:
            assert read_weights(manifest) == Weights.read(manifest)
            continue
        with pytest.raises(WeightsError, match="forcerun fetch_weights") as caught:
            embed_shard(job)
        assert str(caught.value).startswith(f"{manifest}: "), (where, how)
        assert not job.output.exists()
        with pytest.raises(WeightsError, match="no manifest of weights"):
            read_weights(manifest)
    embed_shard(job)
    assert job.output.exists()


def test_a_changed_record_of_prepared_weights_is_noticed(manifest: Path, tmp_path: Path) -> None:
    """They are made anew, and then are what they were."""
    ready = Prepared(Weights.read(manifest), torch.float32, tmp_path / "p")
    expected = {name: tensor.clone() for name, tensor in ready.open(CPU).items()}
    record = ready.folder / RECORD
    whole = read_json(record)
    for where, how in damaged(record):
        last = where.rpartition(".")[2]
        harmless = last in HARMLESS_IN_THE_RECORD and how != "gone"
        assert ready.is_right() == harmless, (where, how)
        if last == "mtime_ns" and harmless:
            assert read_json(record) == whole
    for file, how in itertools.product(list(whole["files"])[:: TINY.layers], ("x", 7, None)):
        changed = read_json(record)
        changed["files"][file] |= {"sha256": how, "mtime_ns": 1}
        record.write_text(json.dumps(changed))
        assert not ready.is_right()
    found = ready.open(CPU)
    assert ready.is_right(fully=True)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
