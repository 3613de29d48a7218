"""Whatever bytes a disk or a user comes up with."""

import hashlib
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from spotesm.base.failures import InputError
from spotesm.request.results import Results
from spotesm.sequences.digests import digests_of
from spotesm.sequences.fasta import Record, RejectedSequence, normalise, read_fasta
from spotesm.sequences.reasons import Reason
from spotesm.shards.checkpoints import Thresholds, open_checkpoints

SETTINGS = {"weights_sha256": "abc"}
NEVER = Thresholds(sequences=1 << 40, seconds=1e9, bytes=1 << 60)
SEQUENCE = st.text("ACDEFGHIKLMNPQRSTVWY", min_size=1, max_size=30)
HEADER = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Z"]), min_size=1)


def read(content: bytes) -> list[Record]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return list(read_fasta([Path(file.name)]))


@given(st.one_of(st.binary(), st.binary().map(lambda b: b">a\n" + b), st.text().map(str.encode)))
def test_any_bytes_are_read_or_refused_in_one_line(content: bytes) -> None:
    try:
        records = read(content)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert len(records) >= 1
    for record in records:
        try:
            sequence = normalise(record).sequence
        except RejectedSequence:
            continue
        assert set(sequence) <= set(b"ABCDEFGHIKLMNOPQRSTUVWXYZ")


@given(
    st.lists(st.tuples(HEADER, SEQUENCE, st.integers(1, 40)), min_size=1, max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\n", "\n\n"]),
    st.booleans(),
)
def test_valid_records_come_back_however_they_are_laid_out(
    records: list[tuple[str, str, int]], newline: str, between: str, ends: bool
) -> None:
    text = "".join(
        f">{name} rest\n"
        + "".join(f"{sequence[i : i + width]}\n" for i in range(0, len(sequence), width))
        + between
        for name, sequence, width in records
    )
    text = text if ends else text.rstrip("\n")
    expected = [(name.encode(), sequence.encode(), b"rest") for name, sequence, _ in records]
    read_back = read(text.replace("\n", newline).encode())
    assert [(record.name, record.raw, record.description) for record in read_back] == expected


def write_part(directory: Path) -> Path:
    """A valid part of three sequences."""
    mean = np.arange(6, dtype=np.float32).reshape(3, 2)
    windows = np.ones(3, np.int32)
    reasons = [None, None, Reason("not_finite", "NaN")]
    digests = digests_of(b"%d" % i for i in range(3))
    results = Results(digests, reasons, windows, {"mean/6": mean})
    with open_checkpoints(directory, SETTINGS, NEVER) as checkpoints:
        checkpoints.add(results)
        checkpoints.flush()
    (part,) = directory.glob("part-*.pt")
    return part


def load_all(directory: Path) -> list[Results]:
    with open_checkpoints(directory, SETTINGS, NEVER) as checkpoints:
        return list(checkpoints.read_parts())


@given(st.data())
def test_a_changed_part_is_never_loaded(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        part = write_part(Path(folder))
        content = part.read_bytes()
        place = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.binary(min_size=1, max_size=20))
        changed = content[:place] + change + content[place + data.draw(st.integers(0, 20)) :]
        part.write_bytes(changed)
        assert len(load_all(Path(folder))) == (changed == content)
        assert (Path(folder) / "set-aside" / part.name).exists() == (changed != content)


def save(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@given(
    st.one_of(
        st.binary(max_size=200),
        st.just(save({"digests": torch.zeros(1, 16, dtype=torch.uint8)})),
        st.just(save([1, 2, 3])),
        st.just(save({"fingerprint": "x", "batches": [1, 2]})),
    )
)
def test_foreign_bytes_with_a_right_checksum_are_never_loaded(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_part(Path(folder))
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        (Path(folder) / f"part-00007.{digest}.pt").write_bytes(content)
        (part,) = load_all(Path(folder))
        assert part.rows["mean/6"].tolist() == [[0, 1], [2, 3], [4, 5]]
        assert (Path(folder) / "set-aside").is_dir()
