import csv
import io
from pathlib import Path

import pytest
from spotesm.base.failures import TooManyRejectedError
from spotesm.sequences.reasons import Reason
from spotesm.sequences.rejected import (
    MOST_CHARACTERS,
    SPLIT,
    Rejected,
    read_rejected,
    writing_rejected,
)

ODD_IDS = [
    "",
    'a"b',
    '"',
    "ö\u00a0\u2028x",
    "a\x0b\x1c\x85b",
    "'",
    "#",
    "=1+1",
    "y" * MOST_CHARACTERS,
]


def test_lines_come_back(tmp_path: Path) -> None:
    path = tmp_path / "rejected.tsv"
    with writing_rejected(path) as rejects:
        for ordinal, identifier in enumerate(ODD_IDS):
            rejects.add(ordinal, identifier, SPLIT, Reason("empty", identifier))
    assert list(read_rejected(path)) == [
        Rejected(ordinal, identifier, SPLIT, "empty", identifier)
        for ordinal, identifier in enumerate(ODD_IDS)
    ]


def test_what_goes_into_a_line_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "rejected.tsv"
    with writing_rejected(path) as rejects:
        rejects.add(0, "y" * 140_000, SPLIT, Reason("empty", "z" * 140_000))
    with open(path, newline="", encoding="utf-8") as file:
        ((_, identifier, *_, detail),) = list(csv.reader(file, delimiter="\t"))[1:]
    assert identifier == "y" * MOST_CHARACTERS + "..."
    assert detail == "z" * MOST_CHARACTERS + "..."


def test_unbounded_lines_of_earlier_versions_are_read(tmp_path: Path) -> None:
    text = io.StringIO(newline="")
    lines = csv.writer(text, delimiter="\t", lineterminator="\n")
    lines.writerow(("ordinal", "id", "stage", "reason", "detail"))
    lines.writerow((7, "y" * 140_000, "split", "empty", "no residues"))
    path = tmp_path / "rejected.tsv"
    path.write_text(text.getvalue(), encoding="utf-8")
    assert [(line.ordinal, len(line.id)) for line in read_rejected(path)] == [(7, 140_000)]


@pytest.mark.parametrize(
    ("n", "limit", "passes"), [(40, 0.1, True), (39, 0.1, False), (4, 1, True)]
)
def test_the_limit(tmp_path: Path, n: int, limit: float, passes: bool) -> None:
    path, kept = tmp_path / "shards" / "rejected.tsv", tmp_path / "rejected.tsv"

    def write() -> None:
        with writing_rejected(path) as rejects:
            for ordinal in range(4):
                keyword = "empty" if ordinal else "too_long"
                rejects.add(ordinal, f"p{ordinal}" + "y" * 99, SPLIT, Reason(keyword, "detail"))
            rejects.check(n, limit, kept, "Do this")

    if passes:
        write()
        assert not kept.exists()
        return
    with pytest.raises(TooManyRejectedError) as caught:
        write()
    shown = "y" * 38 + "..."
    assert str(caught.value) == (
        f"4 of {n} records were rejected (3 empty, 1 too_long), more than max_rejected: 0.1 "
        f"allows. {kept} lists them; the first: 0 'p0{shown}' (too_long: detail); "
        f"1 'p1{shown}' (empty: detail); 2 'p2{shown}' (empty: detail). Do this"
    )
    assert [line.ordinal for line in read_rejected(kept)] == [0, 1, 2, 3]
    assert not list(path.parent.iterdir())
