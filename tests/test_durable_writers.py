"""Every file that must outlive a power cut: the order of its writing, and what if that fails.

A new writer gets all of it by one subclass of `WriterTests`.
"""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from disk import Disk, fail_at, images_of_a_power_cut, lay_out
from shards import WORK, make_merge, make_request
from spotesm.base.durable import read_json, replacing, write_json
from spotesm.base.failures import explain_host_fault
from spotesm.base.journal import Journal
from spotesm.base.paths import DatasetPaths
from spotesm.hdf5.writing import WrittenFile
from spotesm.merged.merge import merge_shards
from spotesm.request.inputs import know_by_content
from spotesm.request.results import Results
from spotesm.sequences.rejected import read_rejected
from spotesm.sequences.sharding import Shard, split_fasta
from spotesm.sequences.translation import translate_contigs
from spotesm.shards.check import check_shard
from spotesm.shards.checkpoints import Checkpoints, Thresholds, open_checkpoints
from spotesm.shards.shard_file import ShardFile
from spotesm.shards.shard_writer import ShardWriter
from spotesm.weights.architectures import ARCHITECTURES, Architecture
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights
from spotesm.weights.prepared import RECORD, Prepared

DIM = 4
NEVER = Thresholds(sequences=1 << 40, seconds=1e9, bytes=1 << 60)
PROTEINS = "".join(f">p{i}\n{'MKV' * (i + 1)}\n" for i in range(7)) + ">bad\nM!\n"
REQUEST = make_request(layers=(6,), precision="float32")
SETTINGS = REQUEST.fingerprint("x")


def split(folder: Path, text: str = PROTEINS) -> None:
    (folder / "in.fasta").write_text(text)
    names = ("1-of-1.fasta", "rejected.tsv", "split.json")
    shard, rejected, summary = (folder / name for name in names)
    split_fasta([folder / "in.fasta"], [shard], rejected, summary, max_rejected=1)


def results_of(shard: Shard) -> Results:
    rows = np.arange(len(shard.digests) * DIM, dtype=np.float32).reshape(-1, DIM)
    return Results(
        shard.digests, [None] * len(rows), np.ones(len(rows), np.int32), {"mean/6": rows}
    )


def write_shard(folder: Path) -> None:
    shard = Shard.index(folder / "1-of-1.fasta")
    with replacing(folder / "1-of-1.h5") as temporary:
        with WrittenFile(temporary) as file:
            writer = ShardWriter(file, shard, REQUEST, DIM)
            writer.add(results_of(shard))
            facts = {"weights": "x", "embedding_dim": DIM, **dict.fromkeys(WORK, 1)}
            writer.finish(SETTINGS, {**facts, "attempts": 1, "seconds": 1.0})
        check_shard(temporary, shard, SETTINGS)


def values_of_shard(path: Path) -> list[list[float]]:
    with ShardFile(path) as file:
        results = file.read(np.arange(file.n_sequences), ["mean/6"])
        return [row for block in results for row in block.rows["mean/6"].tolist()]


@contextlib.contextmanager
def checkpoints(folder: Path) -> Iterator[Checkpoints]:
    with open_checkpoints(folder / "parts", SETTINGS, NEVER) as opened:
        yield opened


class WriterTests:
    """What every durable writer keeps.

    A subclass says how the folder looks before (`prepare`), what is written (`write`), which
    files that are (`names`, patterns), and how a reader sees each of them (`read`).
    """

    names: tuple[str, ...]

    def prepare(self, folder: Path) -> None:
        raise NotImplementedError

    def write(self, folder: Path) -> None:
        raise NotImplementedError

    def read(self, path: Path) -> object:
        raise NotImplementedError

    def state(self, folder: Path) -> dict[str, object]:
        """What a reader finds under each name."""
        return {
            str(path.relative_to(folder)): self.read(path)
            for pattern in self.names
            for path in sorted(folder.glob(pattern))
        }

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "watched"
        folder.mkdir()
        self.prepare(folder)
        return folder

    @pytest.fixture
    def disk(self, folder: Path) -> Iterator[Disk]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            yield Disk(folder, monkeypatch)

    def test_bytes_then_name_then_directory(self, folder: Path, disk: Disk) -> None:
        before = self.state(folder)
        disk.events.clear()
        self.write(folder)
        events, after = disk.events, self.state(folder)
        written = [name for name in after if before.get(name) != after[name]]
        assert written
        for name in written:
            place = max(
                (i for i, (call, new) in enumerate(events) if call != "open" and new == name),
            )
            call = events[place][0]
            directory = f"{Path(name).parent}/".removeprefix("./") or "."
            if call == "fsync":  # appended to, not renamed
                assert "write" in [c for c, n in events[:place] if n == name]
                continue
            assert call in ("replace", "link")
            if call == "replace":
                assert events[place - 1][0] == "fsync"
            assert ("fsync", directory) in events[place:]

    def test_a_power_cut_leaves_the_old_or_the_new(
        self, folder: Path, disk: Disk, tmp_path: Path
    ) -> None:
        before = self.state(folder)
        images_of = images_of_a_power_cut(disk)
        self.write(folder)
        (images, last), after = images_of(), self.state(folder)
        assert len(images) > 1
        for place, image in enumerate(images):
            cut = tmp_path / str(place)
            cut.mkdir()
            lay_out(image, cut)
            self.check_state(self.state(cut), before, after)
        lay_out(last, tmp_path / "last")
        assert self.state(tmp_path / "last") == after

    def check_state(self, found: dict, before: dict, after: dict) -> None:
        for name in found.keys() | before.keys():
            allowed = [state.get(name) for state in (before, after)]
            assert found.get(name) in allowed, name

    @pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
    def test_each_operation_fails_once(
        self, folder: Path, disk: Disk, number: int, tmp_path: Path
    ) -> None:
        before = self.state(folder)
        start = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        folders = {p for p in folder.rglob("*") if p.is_dir()}
        self.write(folder)
        after = self.state(folder)
        for n in range(1, 200):
            self._restore(folder, start, folders)
            failed = fail_at(disk, n, number)
            error = None
            try:
                self.write(folder)
            except Exception as raised:
                error = raised
            disk.before = lambda call, name: None
            if not failed():
                break
            if error is not None:
                assert explain_host_fault(error) is not None or self.explains(error), error
            self.check_state(self.state(folder), before, after)
            leftovers = [path.name for path in folder.rglob("*.tmp")]
            assert leftovers == []
            self.write(folder)
            self.check_again(self.state(folder), after)
        else:
            pytest.fail("it met faults for ever")
        assert n > 3

    def explains(self, error: Exception) -> bool:
        return False

    def check_again(self, found: dict, after: dict) -> None:
        assert found == after

    @staticmethod
    def _restore(folder: Path, start: dict[Path, bytes], folders: set[Path]) -> None:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and path not in folders:
                path.rmdir()
            elif path.is_file():
                path.unlink()
        for path, content in start.items():
            path.write_bytes(content)


class TestJson(WriterTests):
    names = ("x.json",)

    def prepare(self, folder: Path) -> None:
        write_json(folder / "x.json", {"old": 1})

    def write(self, folder: Path) -> None:
        write_json(folder / "x.json", {"new": 2})

    def read(self, path: Path) -> object:
        return read_json(path)


class TestJournal(WriterTests):
    names = ("journal.jsonl",)

    def prepare(self, folder: Path) -> None:
        Journal(folder / "journal.jsonl").record("start", attempt=1)

    def write(self, folder: Path) -> None:
        Journal(folder / "journal.jsonl").record("completed", attempt=1)

    def read(self, path: Path) -> object:
        return [entry["event"] for entry in Journal(path).read()]

    def check_again(self, found: dict, after: dict) -> None:
        """A line whose flush failed may be there twice."""
        (events,) = found.values()
        assert events[:2] == after["journal.jsonl"]
        assert set(events[2:]) <= {"completed"}


class TestNoteOfCheckpoints(WriterTests):
    names = ("results/d/checkpoints.json",)

    def prepare(self, folder: Path) -> None:
        DatasetPaths.of("d", folder / "results").note_checkpoints(Path("old"))

    def write(self, folder: Path) -> None:
        DatasetPaths.of("d", folder / "results").note_checkpoints(Path("new"))

    def read(self, path: Path) -> object:
        return read_json(path)


class TestInputsByContent(WriterTests):
    names = ("known.json",)

    def prepare(self, folder: Path) -> None:
        (folder / "in.fasta").write_text(">a\nMKV\n")

    def write(self, folder: Path) -> None:
        know_by_content([str(folder / "in.fasta")], folder / "known.json")

    def read(self, path: Path) -> object:
        return [fact[-1] for fact in read_json(path).values()]

    def explains(self, error: Exception) -> bool:
        return "in.fasta: cannot be read" in str(error)


class TestSplit(WriterTests):
    names = ("1-of-1.fasta", "rejected.tsv", "split.json")

    def prepare(self, folder: Path) -> None:
        split(folder, ">old\nMKV\n")
        (folder / "in.fasta").write_text(PROTEINS)

    def write(self, folder: Path) -> None:
        names = ("1-of-1.fasta", "rejected.tsv", "split.json")
        shard, rejected, summary = (folder / name for name in names)
        split_fasta([folder / "in.fasta"], [shard], rejected, summary, max_rejected=1)

    def read(self, path: Path) -> object:
        return path.read_text()


class TestTranslation(WriterTests):
    names = ("orfs.fasta", "rejected.tsv", "counts.json")

    def prepare(self, folder: Path) -> None:
        (folder / "in.fna").write_text(f">c\n{'ATGAAAGTT' * 9}\n>odd\nATGEFQ\n")

    def write(self, folder: Path) -> None:
        names = ("orfs.fasta", "rejected.tsv", "counts.json")
        output, rejected, summary = (folder / name for name in names)
        translate_contigs(
            [folder / "in.fna"], output, rejected, summary, 11, 5, 1, folder / "kept.tsv"
        )

    def read(self, path: Path) -> object:
        return path.read_text()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "esm2_tiny", Architecture(2, 16, 2))


@pytest.mark.usefixtures("tiny")
class TestManifest(WriterTests):
    names = ("manifest.json",)

    def prepare(self, folder: Path) -> None:
        write_json(folder / "manifest.json", {"old": 1})

    def write(self, folder: Path) -> None:
        fetch_weights("esm2_tiny", "untrained", folder / "manifest.json")

    def read(self, path: Path) -> object:
        return read_json(path)


@pytest.mark.usefixtures("tiny")
class TestPrepared(WriterTests):
    """A folder that gets its name when it is whole; damaged before, so that it is made anew."""

    names = (f"*-float32-*/{RECORD}",)

    def prepare(self, folder: Path) -> None:
        self.write(folder)
        for path in folder.glob("*/ends.safetensors"):
            path.write_bytes(path.read_bytes()[:-1])

    @staticmethod
    def weights_in(folder: Path) -> Prepared:
        fetch_weights("esm2_tiny", "untrained", folder.parent / "manifest.json")
        return Prepared(Weights.read(folder.parent / "manifest.json"), torch.float32, folder)

    def write(self, folder: Path) -> None:
        self.weights_in(folder).make()

    def read(self, path: Path) -> object:
        return self.weights_in(path.parent.parent).is_right(fully=True)

    def state(self, folder: Path) -> dict[str, object]:
        """Right, or as good as not there."""
        return {name: right for name, right in super().state(folder).items() if right}

    def test_bytes_then_name_then_directory(self, folder: Path, disk: Disk) -> None:
        self.write(folder)
        ((place, name),) = [
            (i, n) for i, (call, n) in enumerate(disk.events) if call == "rename" and "old" not in n
        ]
        assert list(self.state(folder)) == [f"{name}/{RECORD}"]
        made = [n for call, n in disk.events[:place] if call == "replace"]
        assert len(made) == len(list((folder / name).iterdir()))
        for file in made:
            end = max(i for i, event in enumerate(disk.events) if event == ("replace", file))
            assert disk.events[end - 1][0] == "fsync"
            assert ("fsync", f"{Path(file).parent}/") in disk.events[end:place]
        assert ("fsync", ".") in disk.events[place:]


class TestShardFile(WriterTests):
    names = ("1-of-1.h5",)

    def prepare(self, folder: Path) -> None:
        split(folder)

    def write(self, folder: Path) -> None:
        write_shard(folder)

    def read(self, path: Path) -> object:
        return values_of_shard(path)


class TestPart(WriterTests):
    names = ("parts/part-*.pt", "parts/fingerprint.json", "parts/plan.json")

    def prepare(self, folder: Path) -> None:
        split(folder)

    def write(self, folder: Path) -> None:
        with checkpoints(folder) as opened:
            opened.fix_token_budget(0, lambda: 100)
            if not list(opened.read_parts()):
                opened.add(results_of(Shard.index(folder / "1-of-1.fasta")))
            opened.flush()

    def read(self, path: Path) -> object:
        if path.suffix == ".json":
            return read_json(path)
        copy = path.parent.parent / "copy/parts"
        copy.mkdir(parents=True)
        try:
            write_json(copy / "fingerprint.json", SETTINGS)
            (copy / path.name).write_bytes(path.read_bytes())
            with checkpoints(copy.parent) as opened:
                return [r.rows["mean/6"].tolist() for r in opened.read_parts()]
        finally:
            for left in sorted(copy.parent.rglob("*"), reverse=True):
                left.rmdir() if left.is_dir() else left.unlink()
            copy.parent.rmdir()


class TestFinishedShard(WriterTests):
    names = ("parts/finished.*.h5",)

    def prepare(self, folder: Path) -> None:
        split(folder)
        write_shard(folder)
        with checkpoints(folder):
            pass

    def write(self, folder: Path) -> None:
        with checkpoints(folder) as opened:
            opened.keep_finished(folder / "1-of-1.h5")

    def read(self, path: Path) -> object:
        return values_of_shard(path)


class TestMerge(WriterTests):
    names = ("embeddings.h5", "merged.tsv", "summary.json")

    def prepare(self, folder: Path) -> None:
        split(folder)
        write_shard(folder)

    def write(self, folder: Path) -> None:
        merge_shards(make_merge([folder / "1-of-1.h5"], folder, folder))

    def read(self, path: Path) -> object:
        if path.suffix == ".tsv":
            return list(read_rejected(path))
        if path.suffix == ".json":
            return read_json(path)
        with h5py.File(path) as file:
            return file["mean/6"][:].tolist()
