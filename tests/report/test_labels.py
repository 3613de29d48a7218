"""Labels of the user's own: each line is used, or its effect is named; nothing else breaks."""

import logging
from pathlib import Path

import numpy as np
import pytest
from spotesm.base.failures import InputError
from spotesm.report.labels import match_labels
from spotesm.request.labels import read_labels

RECORDS = ["sp|P00001|ONE_TEST", "sp|P00002|TWO_TEST", "p3", "a|b", "tr|P00004|X", "sp|P00004|Y"]
HEADER = "id\tlabel\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.tsv"


def match(path: Path, content: str | bytes, records: list[str] = RECORDS, rejected: tuple = ()):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return match_labels(read_labels(path), records, rejected, "d")


def labels_of(labels, records: list[str] = RECORDS) -> list[str]:
    return [labels.of.get(identifier, "") for identifier in records]


@pytest.mark.parametrize(
    "content",
    [
        "id\tlabel\nP00001\tA\np3\tC\n",
        "id\tlabel\np3\tC\nP00001\tA",  # no line end
        "id\tlabel\r\nP00001\tA\r\np3\tC\r\n",
        "id\tlabel\rP00001\tA\rp3\tC\r",
        "\ufeffid\tlabel\nP00001\tA\np3\tC\n",
        "\n\nid\tlabel\n\nP00001\tA\n \t \np3\tC\n\n\n",
        "id\tlabel\t\t\nP00001\tA\t\np3\tC\t\t\n",  # as spreadsheets leave them
        "id\tlabel\n P00001 \t A \np3\tC\n",
        "anything\tat all\nsp|P00001|ONE_TEST\tA\np3\tC\n",
    ],
)
def test_every_way_to_write_the_same(path: Path, content: str) -> None:
    labels = match(path, content)
    assert labels_of(labels) == ["A", "", "C", "", "", ""]
    assert labels.rows.tolist() == [0, 2]
    assert labels.notes == []


def test_quotes_are_text(path: Path) -> None:
    labels = match(path, HEADER + 'P00001\t"A\nP00002\tB\np3\t"C"\n')
    assert labels_of(labels)[:3] == ['"A', "B", '"C"']
    labels = match(path, HEADER + '"p3\t1\np"\t2\nP00001\t3\n')
    assert labels_of(labels)[:3] == ["3", "", ""]
    assert labels.notes == ["2 ids are of no record ('\"p3', ...)"]


def test_only_line_ends_end_lines(path: Path) -> None:
    """Python would split at these, too."""
    label = "a\x0bb\x0c\x1c\x85\u2028c"
    assert labels_of(match(path, f"{HEADER}p3\t{label}\n"))[2] == label


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("id\nP00001\n", r"labels.tsv, line 1: columns.*must be two.*here are 1"),
        ("id,label\nP00001,A\n", r"line 1: .*here are 1"),
        (HEADER + "P00001\tA\nP00002\np3\tC\n", r"line 3: .*here are 1"),
        (HEADER + "\nP00001\tA\nP00002\tB\tC\n", r"line 4: .*here are 3"),
        ("id\tlabel\tsource\nP00001\tA\tx\n", r"line 1: .*here are 3"),
        (HEADER + "P00001\tA\n\tB\n", r"line 3: has no id"),
        ((HEADER + "P00001\tA\np3\tMüller\n").encode("latin1"), r"line 3: not UTF-8; save it"),
        ("\ufeffid\tlabel\r\nP00001\té\r\n".encode("utf-16-le"), r"line 1: not UTF-8"),
        (b"\x1f\x8b\x08\x00", r"line 1: not UTF-8"),
        ("", r"labels.tsv: holds no labels"),
        ("\n\n", r"labels.tsv: holds no labels"),
        (HEADER, r"labels.tsv: holds no labels"),
        (HEADER + "q1\tA\nq2\tB\n", r"none of its 2 ids, such as 'q1', is of a record of d"),
        ("label\tid\nA\tP00001\n", r"none of its 1 ids, such as 'A'"),
        ("P00001\tA\nP00002\tB\n", r"its first line, 'P00001', is of a record; put a header"),
    ],
)
def test_what_cannot_be_used_is_refused_by_line(path: Path, content: str, line: str) -> None:
    with pytest.raises(InputError, match=line) as caught:
        match(path, content)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(tmp_path)
    with pytest.raises(InputError, match=r"no\.tsv: cannot be read"):
        read_labels(tmp_path / "no.tsv")


def test_what_has_no_effect_is_counted_and_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["nobody\tA", "p3\tC", "bad\tD", "P00004\tE", "p3\tF", "P00001\tG"]
    lines += ["sp|P00001|ONE_TEST\tH", "a|b\t", "B99999\tI", "noone\tJ"]
    rejected = ("bad", "sp|B99999|BAD")
    with caplog.at_level(logging.INFO):
        labels = match(path, HEADER + "\n".join(lines), rejected=rejected)
    assert labels_of(labels) == ["H", "", "C", "", "", ""]
    assert labels.rows.tolist() == [0, 2]
    assert labels.notes == [
        "2 ids are of no record ('nobody', ...)",
        "2 ids are of rejected records, which have no row ('B99999', ...)",
        "1 id is the accession of several records, and used for none ('P00004')",
        "2 ids are given more than once: the first label counts, a whole id's before all "
        "('P00001', ...)",
        "1 id is without a label ('a|b')",
    ]
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        f"{path}: {note}" for note in labels.notes
    ]
    assert f"{path}: 2 of the records have a label" in caplog.text


def test_labels_of_rejected_records_alone_are_no_error(path: Path) -> None:
    labels = match(path, HEADER + "bad\tA\n", rejected=("bad",))
    assert labels.rows.tolist() == []
    assert labels.notes == ["1 id is of rejected records, which have no row ('bad')"]


def test_records_that_share_an_id_share_its_label(path: Path) -> None:
    records = ["x", "twin", "y", "twin"]
    labels = match(path, HEADER + "twin\tA\n", records)
    assert labels_of(labels, records) == ["", "A", "", "A"]
    np.testing.assert_array_equal(labels.rows, [1, 3])


def test_a_whole_id_comes_before_an_accession(path: Path) -> None:
    """The record P1 has this label, not the one whose accession it is."""
    records = ["sp|P1|X", "P1"]
    labels = match(path, HEADER + "P1\tA\n", records)
    assert labels_of(labels, records) == ["", "A"]
    assert labels.notes == []


def test_a_record_may_be_called_like_the_header(path: Path) -> None:
    assert labels_of(match(path, "id\tlabel\nid\tA\n", ["x", "id"]), ["x", "id"]) == ["", "A"]
