"""Prepared weights: the same bits as without, made once, and never used when they are not right."""

import argparse
import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import esm
import pytest
import torch
from models import CPU, write_fair_esm
from preparing import prepare_slowly
from safetensors import SafetensorError
from safetensors.torch import load_file
from source_contract import TINY
from spotesm.base.failures import WeightsError
from spotesm.model.engines import start_packed
from spotesm.model.packed import PackedModel
from spotesm.model.reference import fair_esm_model
from spotesm.request.outputs import Outputs
from spotesm.sequences.alphabet import tokenise
from spotesm.weights import prepared
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.layout import pair_halves
from spotesm.weights.manifest import Weights
from spotesm.weights.prepared import Prepared

ALL = Outputs(("residues", "logits", "contacts"), (0, 1, 2))
PRECISIONS = ("float32", "bfloat16", "float16")
WAIT_SECONDS = 120


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    monkeypatch.setitem(ARCHITECTURES, "esm2_tiny", TINY)
    write_fair_esm(TINY, tmp_path / "esm2_tiny.pt")
    fetch_weights("esm2_tiny", str(tmp_path / "esm2_tiny.pt"), tmp_path / "manifest.json")
    return Weights.read(tmp_path / "manifest.json")


def forward(model: PackedModel) -> list[torch.Tensor]:
    tokens = [torch.from_numpy(tokenise(s)).long() for s in (b"MKTAYIAKQR", b"MKV", b"M")]
    out = model(torch.cat(tokens), [len(t) for t in tokens], ALL)
    return [*out.hidden.values(), out.logits, *out.contacts]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_bits_as_fair_esms_loader_converted(
    weights: Weights, tmp_path: Path, precision: str
) -> None:
    """The layout, made by hand from what fair-esm itself loads."""
    dtype = getattr(torch, precision)
    with torch.serialization.safe_globals([argparse.Namespace]):
        model, _ = esm.pretrained.load_model_and_alphabet(weights.path)
    tensors = Prepared(weights, dtype, tmp_path / "p").open(CPU)
    expected = {
        "embedding": model.embed_tokens.weight * (1 - 0.15 * 0.8),
        "rotation": model.layers[0].self_attn.rot_emb.inv_freq,
        "final_norm.weight": model.emb_layer_norm_after.weight,
        "final_norm.bias": model.emb_layer_norm_after.bias,
    }
    for kind in ("weight", "bias"):
        expected[f"logits_head.{kind}"] = getattr(model.lm_head, kind)
        for part in ("dense", "layer_norm"):
            expected[f"logits_head.{part}.{kind}"] = getattr(getattr(model.lm_head, part), kind)
        expected[f"contact_head.regression.{kind}"] = getattr(model.contact_head.regression, kind)
        for number, layer in enumerate(model.layers):
            at, prefix = layer.self_attn, f"layers.{number}."
            rows = pair_halves(16, 2)
            q, k, v = (getattr(x, kind) for x in (at.q_proj, at.k_proj, at.v_proj))
            expected[f"{prefix}qkv_{kind}"] = torch.cat([q[rows], k[rows], v]).to(dtype)
            for ours, theirs in (
                ("attention_out", at.out_proj),
                ("expand", layer.fc1),
                ("contract", layer.fc2),
            ):
                expected[f"{prefix}{ours}.{kind}"] = getattr(theirs, kind).to(dtype)
            norms = (layer.self_attn_layer_norm, layer.final_layer_norm)
            for ours, theirs in zip(("attention_norm", "feed_forward_norm"), norms, strict=True):
                expected[f"{prefix}{ours}.{kind}"] = getattr(theirs, kind)
    assert tensors.keys() == expected.keys()
    for name, wanted in expected.items():
        assert tensors[name].dtype == wanted.dtype, name
        assert torch.equal(tensors[name], wanted), name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_prepared_engine_gives_the_bits_of_one_made_in_memory(
    weights: Weights, tmp_path: Path, precision: str
) -> None:
    dtype = getattr(torch, precision)
    plain = PackedModel.of_source(weights.open(), CPU, dtype)
    for _ in range(2):  # made, then found
        ready = start_packed(weights, CPU, dtype, tmp_path / "p")
        for a, b in zip(forward(plain), forward(ready), strict=True):
            assert torch.equal(a, b)


def test_opening_reads_no_source(weights: Weights, tmp_path: Path) -> None:
    Prepared(weights, torch.float32, tmp_path / "p").make()
    os.unlink(weights.path)
    assert Prepared(weights, torch.float32, tmp_path / "p").open(CPU)
    with pytest.raises(WeightsError, match="is gone, or has changed"):
        Prepared(weights, torch.bfloat16, tmp_path / "p").open(CPU)


def test_precisions_and_weights_have_folders_of_their_own(weights: Weights, tmp_path: Path) -> None:
    ready = [Prepared(weights, getattr(torch, p), tmp_path / "p") for p in PRECISIONS]
    for one in ready:
        one.make()
    folders = {one.folder for one in ready}
    assert len(folders) == 3
    assert {path for path in (tmp_path / "p").iterdir() if path.is_dir()} == folders
    other = Weights(**{**vars(weights), "sha256": "0" * 64})
    assert Prepared(other, torch.float32, tmp_path / "p").folder not in folders
    other = Weights(**{**vars(weights), "regression_sha256": "0" * 64})
    assert Prepared(other, torch.float32, tmp_path / "p").folder not in folders


@pytest.mark.parametrize("changed", ["model", "sha256", "regression_sha256"])
def test_what_was_made_from_other_weights_is_never_taken(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "esm2_other", TINY)
    values = {"model": "esm2_other"}
    other = Weights(**{**vars(weights), changed: values.get(changed, "0" * 64)})
    ready, wanted = (Prepared(w, torch.float32, tmp_path / "p") for w in (weights, other))
    ready.make()
    ready.folder.rename(wanted.folder)
    assert not wanted.is_right()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_others_may_read_what_the_umask_lets_them(
    weights: Weights, tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        ready = Prepared(weights, torch.float32, tmp_path / "p")
        ready.make()
    finally:
        os.umask(before)
    assert ready.folder.stat().st_mode & 0o777 == 0o777 & ~umask
    for path in ready.folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path.name


def layers(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero_the_middle(path: Path) -> None:
    """Whole in size; the date tells."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :][:64] = bytes(64)
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)


def zero_it_with_its_old_date(path: Path) -> None:
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def change_a_header_with_its_old_date(path: Path) -> None:
    stat = path.stat()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"bias", b"bios", 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def leave_it_out_of_the_record(path: Path) -> None:
    record = path.with_name("prepared.json")
    content = json.loads(record.read_text())
    del content["files"][path.name]
    record.write_text(json.dumps(content))


DAMAGES = (
    truncate,
    zero_the_middle,
    zero_it_with_its_old_date,
    change_a_header_with_its_old_date,
    Path.unlink,
    lambda path: path.write_bytes(b""),
    lambda path: path.with_name("prepared.json").unlink(),
    lambda path: path.with_name("prepared.json").write_text("{"),
    lambda path: path.with_name("prepared.json").write_text("[]"),
    lambda path: path.with_name("prepared.json").write_text('{"files": {"x": {}}}'),
    leave_it_out_of_the_record,
)


@pytest.mark.parametrize("which", [0, 1, -1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_anew(
    weights: Weights, tmp_path: Path, damage: Callable[[Path], None], which: int
) -> None:
    ready = Prepared(weights, torch.float32, tmp_path / "p")
    expected = {name: x.clone() for name, x in ready.open(CPU).items()}
    damage(layers(ready.folder)[which])
    assert not ready.is_right()
    found = ready.open(CPU)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
    assert [path.name for path in (tmp_path / "p").iterdir() if path.is_dir()] == [
        ready.folder.name
    ]


def test_layers_that_changed_places_are_noticed(weights: Weights, tmp_path: Path) -> None:
    ready = Prepared(weights, torch.float32, tmp_path / "p")
    ready.make()
    _, first, second = layers(ready.folder)
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    assert not ready.is_right()


def test_folders_that_changed_places_are_noticed(weights: Weights, tmp_path: Path) -> None:
    one, other = (
        Prepared(weights, dtype, tmp_path / "p") for dtype in (torch.bfloat16, torch.float16)
    )
    one.make()
    other.make()
    one.folder.rename(tmp_path / "x")
    other.folder.rename(one.folder)
    (tmp_path / "x").rename(other.folder)
    for ready in (one, other):
        assert not ready.is_right()
        assert ready.open(CPU)["layers.1.expand.weight"].dtype == ready.dtype


@pytest.mark.parametrize("how", ["touched", "copied"])
def test_what_is_touched_or_copied_is_read_whole_once(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    ready = Prepared(weights, torch.float32, tmp_path / "p")
    ready.make()
    if how == "touched":
        for path in layers(ready.folder):
            os.utime(path, (1, 1))
    else:
        shutil.copytree(ready.folder, tmp_path / "x", copy_function=shutil.copyfile)
        shutil.rmtree(ready.folder)
        (tmp_path / "x").rename(ready.folder)
    read = []
    whole = prepared.sha256_of
    monkeypatch.setattr(prepared, "sha256_of", lambda path: read.append(path) or whole(path))
    assert ready.is_right()
    assert len(read) == 3
    assert ready.is_right()
    assert len(read) == 3  # the new dates are known


def flip_with_its_old_date(path: Path, place: int) -> None:
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_small_files_are_looked_at_whole(weights: Weights, tmp_path: Path, share: float) -> None:
    ready = Prepared(weights, torch.float32, tmp_path / "p")
    ready.make()
    for path in layers(ready.folder):
        place = int(share * (path.stat().st_size - 1))
        flip_with_its_old_date(path, place)
        assert not ready.is_right()
        flip_with_its_old_date(path, place)
        assert ready.is_right()


@pytest.mark.parametrize("sample", range(4))
def test_a_quick_look_sees_the_ends_and_two_places_between(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: int
) -> None:
    monkeypatch.setattr(prepared, "SAMPLE_BYTES", 16)
    ready = Prepared(weights, torch.float32, tmp_path / "p")
    ready.make()
    path = layers(ready.folder)[-1]
    start = (path.stat().st_size - 16) * sample // 3
    for place in (start, start + 7, start + 15):
        flip_with_its_old_date(path, place)
        assert not ready.is_right()
        flip_with_its_old_date(path, place)
    assert ready.is_right()


def test_a_flipped_bit_that_a_quick_look_misses_is_found_by_a_full_one(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "SAMPLE_BYTES", 16)
    ready = Prepared(weights, torch.float32, tmp_path / "p")
    ready.make()
    path = layers(ready.folder)[1]
    flip_with_its_old_date(path, path.stat().st_size * 3 // 5)
    assert ready.is_right()
    assert not ready.is_right(fully=True)


def test_where_nothing_can_be_kept_it_is_made_in_memory(
    weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    model = start_packed(weights, CPU, torch.float32, tmp_path / "file" / "p")
    plain = PackedModel.of_source(weights.open(), CPU, torch.float32)
    assert all(map(torch.equal, forward(model), forward(plain)))
    assert "made in memory" in caplog.text


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_disk_that_fills_up_is_no_end(
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    after: int,
) -> None:
    """Neither of fetching nor of a job; as safetensors says it, at each file."""
    save, written = prepared.save_file, []

    def fill_up(tensors: dict, path: Path) -> None:
        if len(written) == after:
            raise SafetensorError("Error while serializing: I/O error: No space (os error 28)")
        written.append(path)
        save(tensors, path)

    monkeypatch.setattr(prepared, "save_file", fill_up)
    manifest = tmp_path / "again.json"
    fetch_weights("esm2_tiny", weights.path, manifest, precision="float32", prepared=tmp_path / "p")
    written.clear()
    model = start_packed(Weights.read(manifest), CPU, torch.float32, tmp_path / "p")
    plain = PackedModel.of_source(weights.open(), CPU, torch.float32)
    assert all(map(torch.equal, forward(model), forward(plain)))
    said = f"cannot be kept in {tmp_path / 'p'} (No space left on device)"
    assert caplog.text.count(said) == 2
    assert not [path for path in (tmp_path / "p").iterdir() if path.is_dir()]


@pytest.mark.parametrize("touched", [False, True])
def test_what_is_right_is_used_where_nobody_may_write(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, touched: bool
) -> None:
    ready = Prepared(weights, torch.float32, tmp_path / "p")
    ready.make()
    if touched:
        os.utime(layers(ready.folder)[1], (1, 1))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(prepared, "hold_lock", refuse)
    monkeypatch.setattr(prepared, "write_json", refuse)
    os.unlink(weights.path)  # which is not needed
    assert ready.open(CPU).keys()
    truncate(layers(ready.folder)[1])
    with pytest.raises(PermissionError):
        ready.open(CPU)


def test_without_locks_each_job_makes_its_own_in_memory(
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A lock by mere presence would outlive a process that is killed on another machine."""
    (tmp_path / "p").mkdir()

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    model = start_packed(weights, CPU, torch.float32, tmp_path / "p")
    plain = PackedModel.of_source(weights.open(), CPU, torch.float32)
    assert all(map(torch.equal, forward(model), forward(plain)))
    assert "its file system has no locks" in caplog.text
    assert "made in memory, by each job anew" in caplog.text
    assert not [path for path in (tmp_path / "p").iterdir() if path.is_dir()]


def test_a_model_without_heads_is_prepared_without(weights: Weights, tmp_path: Path) -> None:
    source = weights.open()
    kept = {n: r for n, r in source.tensors.items() if "head" not in n}
    assert fair_esm_model(source).layers
    tensors = {
        name: tensor
        for _, group in prepared.arrange(type(source)("x", TINY, kept), torch.float32)
        for name, tensor in group.items()
    }
    model = PackedModel(tensors, TINY, CPU, torch.float32)
    tokens = torch.from_numpy(tokenise(b"MKTAYI")).long()
    hidden = model(tokens, [8], Outputs(("mean",), (2,))).hidden[2]
    full = PackedModel.of_source(source, CPU, torch.float32)
    assert torch.equal(hidden, full(tokens, [8], Outputs(("mean",), (2,))).hidden[2])


# -- processes -------------------------------------------------------------------------------------


def start(manifest: Path, tmp_path: Path) -> multiprocessing.Process:
    process = multiprocessing.get_context("forkserver").Process(
        target=prepare_slowly, args=(manifest, tmp_path / "p", tmp_path / "log")
    )
    process.start()
    return process


def test_of_jobs_at_once_one_prepares(weights: Weights, tmp_path: Path) -> None:
    processes = [start(tmp_path / "manifest.json", tmp_path) for _ in range(3)]
    for process in processes:
        process.join(WAIT_SECONDS)
        assert process.exitcode == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 1 + TINY.layers
    assert len({line.split()[0] for line in lines}) == 1


def test_a_kill_leaves_nothing_that_is_taken_for_whole(weights: Weights, tmp_path: Path) -> None:
    ready = Prepared(weights, torch.float32, tmp_path / "p")
    for count in range(1, 2 + TINY.layers):
        log = tmp_path / "log"
        log.write_text("")
        process = start(tmp_path / "manifest.json", tmp_path)
        deadline = time.monotonic() + WAIT_SECONDS
        while len(log.read_text().splitlines()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
        process.join(WAIT_SECONDS)
        if ready.folder.exists():  # it was quicker than the kill
            assert ready.is_right(fully=True)
            shutil.rmtree(ready.folder)
    ready.make()
    assert [path.name for path in ready.root.iterdir() if path.is_dir()] == [ready.folder.name]
    loaded = load_file(ready.folder / "layer-01.safetensors")
    assert torch.equal(loaded["layers.1.expand.weight"], weights.open().get("layers.1.fc1.weight"))


class Copies:
    """Copies that do not wait are done when an event after them is waited for, as CUDA's are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pending: list[Callable[[], object]] = []
        copy, empty = torch.Tensor.copy_, torch.empty

        def later(self_: torch.Tensor, other: torch.Tensor, non_blocking: bool = False) -> None:
            if non_blocking:
                self.pending.append(lambda: copy(self_, other))
            else:
                copy(self_, other)

        def unpinned(*shape: object, pin_memory: bool = False, **options: object) -> torch.Tensor:
            return empty(*shape, **options)

        monkeypatch.setattr(torch.Tensor, "copy_", later)
        monkeypatch.setattr(torch, "empty", unpinned)
        monkeypatch.setattr(torch.cuda, "Event", lambda: CopyEvent(self))


class CopyEvent:
    def __init__(self, copies: Copies) -> None:
        self.copies, self.before = copies, []

    def record(self) -> None:
        self.before, self.copies.pending = self.copies.pending, []

    def synchronize(self) -> None:
        for copy in self.before:
            copy()
        self.before = []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [64, prepared.PINNED_BYTES])
def test_a_gpu_gets_every_byte_through_two_buffers(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, size: int
) -> None:
    """No buffer is filled anew before it was copied; here without a GPU."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(7,), (64,), (16, 3), (33, 9), (1, 1), (128,)]
    given = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    monkeypatch.setattr(prepared, "PINNED_BYTES", size)
    copies = Copies(monkeypatch)
    move = prepared._Mover(CPU)
    taken = [move(tensor) for tensor in given]
    for event in move.free:
        event.synchronize()
    assert not copies.pending
    for tensor, moved in zip(given, taken, strict=True):
        assert moved.dtype == dtype
        assert torch.equal(moved, tensor)
