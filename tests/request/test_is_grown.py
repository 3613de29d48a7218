"""Have FASTA files grown by whole records? Known from their bytes alone."""

from pathlib import Path

import pytest
from spotesm.request.inputs import is_grown, know_by_content

A, B = b">a\nMKV\n>b\nMKL\n", b">c\nMKY\n"


@pytest.mark.parametrize(
    ("before", "now", "grown"),
    [
        ([A], [A], True),
        ([A], [A + B], True),
        ([A[:-1]], [A + B], True),  # without the end of its last line
        ([A[:-1]], [A[:-1] + b"V\n" + B], False),  # whose last record has grown
        ([A], [A + b"V\n" + B], False),
        ([A], [A[:-2] + b"V\n" + B], False),
        ([A], [b">z" + A[2:] + B], False),
        ([A], [A[:-3]], False),
        ([A, B], [B + A, A], True),
        ([A, B], [B, A], True),
        ([A, B], [A + B, B + A], True),
        ([A, A], [A, B], False),  # one file is not two
        ([A, A], [A + B, A], True),
    ],
)
def test_what_was_there_is_there(
    tmp_path: Path, before: list[bytes], now: list[bytes], grown: bool
) -> None:
    memory = tmp_path / "memory.json"
    paths = [tmp_path / f"{i}.fasta" for i in range(max(len(before), len(now)))]

    def write(contents: list[bytes]) -> list[str]:
        for path, content in zip(paths, contents, strict=False):
            path.write_bytes(content)
        return [str(path) for path in paths[: len(contents)]]

    earlier = know_by_content(write(before), memory)
    files = write(now)
    assert is_grown(earlier, files, know_by_content(files, memory)) == grown


@pytest.mark.parametrize("fact", [5, None, {}, [], [1, 2], ["x"] * 5, [[1]] * 5])
def test_a_damaged_memory_is_read_again(tmp_path: Path, fact: object) -> None:
    path, memory = tmp_path / "x.fasta", tmp_path / "memory.json"
    path.write_bytes(A)
    known = know_by_content([str(path)], memory)
    for text in (
        f'{{"{path}": {str(fact).replace("None", "null").replace(chr(39), chr(34))}}}',
        "[",
    ):
        memory.write_text(text)
        assert know_by_content([str(path)], memory) == known
