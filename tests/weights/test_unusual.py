"""What few people have: odd settings and headers, old models, old kernels."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub import esm_config
from models import TINY_ESM1, write_fair_esm
from safetensors import SafetensorError
from safetensors.torch import save_file
from source_contract import TINY
from spotesm.base.failures import WeightsError
from spotesm.weights import downloads, prepared
from spotesm.weights.architectures import REGRESSION
from spotesm.weights.files import Kind, find_model, read_settings, tell_kind
from spotesm.weights.sources import open_source


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "no JSON, or cut off"),
        (b"\xff\xfe", "no JSON, or cut off"),
        (b"[1, 2]", "not the settings of a model"),
        (b"3", "not the settings of a model"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"config\.json: {said}"):
        read_settings(tmp_path / "config.json")


@pytest.mark.parametrize(
    "header",
    [
        b"{not json}",
        b'{"a": 3}',
        b'{"a": {}}',
        b'{"a": {"data_offsets": [0]}}',
        b'{"a": {"data_offsets": [0, 4]}',
    ],
)
@pytest.mark.parametrize("length", [0, 1000])
def test_a_safetensors_header_that_is_damaged(tmp_path: Path, header: bytes, length: int) -> None:
    """Or that says that it is longer than the file."""
    path = tmp_path / "model.safetensors"
    path.write_bytes((length or len(header)).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="its header is damaged, or half a download"):
        tell_kind(path)


def test_safetensors_that_the_library_refuses(tmp_path: Path) -> None:
    """The header is JSON of the right length; only its own reader knows of this type."""
    header = b'{"a": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(WeightsError, match=r"m\.safetensors: damaged, or no safetensors file"):
        open_source(tmp_path / "m.safetensors", TINY)


@pytest.mark.parametrize(
    ("head", "said"),
    [(b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (b"GGUF" + bytes(9), "a GGUF file")],
)
def test_files_of_other_programs(tmp_path: Path, head: bytes, said: str) -> None:
    (tmp_path / "x").write_bytes(head)
    with pytest.raises(WeightsError, match=said):
        tell_kind(tmp_path / "x")


def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    for name in "config.json", "notes.txt":
        (tmp_path / name).write_text("{}")
    with pytest.raises(WeightsError, match=r"holds none of .*; it holds config\.json, notes\.txt"):
        find_model(tmp_path, with_adapter=False)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_header_as_long_as_a_pickle_begins(tmp_path: Path, protocol: int) -> None:
    path, tensors = tmp_path / "model.safetensors", {"a": torch.arange(3.0)}
    for filled in range(0, 2000, 8):
        save_file(tensors, path, metadata={"filler": "x" * filled})
        if path.read_bytes()[:2] == bytes([0x80, protocol]):
            break
    assert path.read_bytes()[:2] == bytes([0x80, protocol])
    assert tell_kind(path) == Kind.SAFETENSORS


def test_an_esm1_of_before_esm1b(tmp_path: Path) -> None:
    write_fair_esm(TINY_ESM1, tmp_path / "esm1.pt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(tmp_path / "esm1.pt", weights_only=True)
    content["args"].arch = "protein_bert_base"
    torch.save(content, tmp_path / "esm1.pt")
    with pytest.raises(WeightsError, match=r"esm1\.pt: an ESM-1 of before ESM-1b"):
        open_source(tmp_path / "esm1.pt", TINY_ESM1)


def test_a_regression_that_was_never_trained_is_left_out(tmp_path: Path) -> None:
    """As of ESM-1v: transformers writes one of random numbers."""
    transformers = pytest.importorskip("transformers")
    transformers.EsmForMaskedLM(esm_config(TINY)).save_pretrained(tmp_path)
    kept = open_source(tmp_path, TINY)
    without = open_source(tmp_path, replace(TINY, has_regression=False))
    assert kept.names - without.names == set(REGRESSION)


@pytest.mark.parametrize("error", [OSError(22, "Invalid argument"), AttributeError("populate")])
def test_files_are_read_ahead_without_the_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Older kernels have none."""
    read = 0

    class Pages:
        def __enter__(self) -> "Pages":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def madvise(self, _: int) -> None:
            raise error

    class Buffer(bytearray):
        pass

    def count(size: int) -> bytearray:
        nonlocal read
        read += 1
        return Buffer(size)

    (tmp_path / "x").write_bytes(bytes(2500))
    monkeypatch.setattr(prepared.mmap, "mmap", lambda *_, **__: Pages())
    monkeypatch.setattr(prepared, "bytearray", count, raising=False)
    prepared.read_ahead(tmp_path / "x")
    assert read == 1


def test_a_fault_of_safetensors_that_is_no_full_disk_is_our_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise SafetensorError("it cannot be written")

    monkeypatch.setattr(prepared, "save_file", fail)
    with pytest.raises(SafetensorError):
        prepared._save({"x": torch.zeros(1)}, tmp_path / "x.safetensors")


def test_a_long_download_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Response:
        blocks: list[bytes] = [bytes(1 << 20)] * 4

        def read(self, _: int) -> bytes:
            return self.blocks.pop() if self.blocks else b""

    seconds = iter([0.0, 29.0, 31.0, 31.0, 60.0, 62.0, 62.0])
    monkeypatch.setattr(downloads.time, "monotonic", lambda: next(seconds, 62.0))
    caplog.set_level("INFO")
    total = 4 << 20
    assert len(list(downloads._shown(Response(), "model", 0, total))) == 4
    assert caplog.messages == ["model: 2 of 4 MB", "model: 4 of 4 MB"]
