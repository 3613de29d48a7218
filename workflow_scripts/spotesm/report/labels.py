"""Labels of records: what a user gave, matched with what there is."""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from spotesm.base.failures import InputError
from spotesm.request.labels import GivenLabels
from spotesm.sequences.accessions import accession_of, without_version

log = logging.getLogger(__name__)

HEADER_IDS = ("id", "ids")
LONGEST_QUOTED = 60

_Found: TypeAlias = dict[str, list[tuple[int, str]]]  # rows and ids by what was looked for


@dataclass(frozen=True)
class Labels:
    """The labels of a dataset's records.

    Attributes:
        title: what they are.
        of: by the whole id of a record; empty or missing where there is none.
        rows: (k,) where the records with a label are, ascending.
        notes: what in the file has no effect, each a sentence.
    """

    title: str
    of: dict[str, str]
    rows: np.ndarray
    notes: list[str]


def match_labels(
    given: GivenLabels, records: Iterable[str], rejected: Iterable[str], dataset: str
) -> Labels:
    """Find the records that labels are for: by whole id, or by an accession that one alone has.

    What in the file has no effect is counted, and said in the log.

    Args:
        records: the ids of all records that have a row, in order.
        rejected: the ids of those that have none.

    Raises:
        InputError: no label is for a record of the dataset, or there is no header.
    """
    names = {*given.of, given.header}
    by_id, by_accession = _find(names, records)
    named = by_id.keys() | by_accession.keys()
    without_row = set().union(*_find(names, rejected)) - named
    _check_match(given, named | without_row, dataset)
    of, shared, repeated = dict(given.of), [], list(given.repeated)
    rows = [row for name, found in by_id.items() if of.get(name) for row, _ in found]
    for accession in by_accession.keys() - by_id.keys():
        (row, identifier), *others = by_accession[accession]
        if others:
            shared.append(accession)
        elif identifier in by_id:
            repeated.append(accession)
        elif of.get(accession):
            of[identifier] = of[accession]
            rows.append(row)
    notes = [
        *_count(given.of.keys() - named - without_row, "of no record"),
        *_count(without_row & given.of.keys(), "of rejected records, which have no row"),
        *_count(shared, "the accession of several records, and used for none"),
        *_count(repeated, "given more than once: the first label counts, a whole id's before all"),
        *_count([name for name, label in given.of.items() if not label], "without a label"),
    ]
    for note in notes:
        log.warning("%s: %s", given.path, note)
    log.info("%s: %s of the records have a label", given.path, f"{len(rows):,}")
    return Labels(given.title, of, np.sort(np.array(rows, np.int64)), notes)


def _find(names: Collection[str], ids: Iterable[str]) -> tuple[_Found, _Found]:
    """Return which records have one of the names as their whole id, and which as accession."""
    by_id: _Found = {}
    by_accession: _Found = {}
    for row, identifier in enumerate(ids):
        if identifier in names:
            by_id.setdefault(identifier, []).append((row, identifier))
        accession = accession_of(identifier)
        if accession and accession not in names:
            accession = without_version(accession)
        if accession in names:
            by_accession.setdefault(accession, []).append((row, identifier))
    return by_id, by_accession


def _check_match(given: GivenLabels, known: Collection[str], dataset: str) -> None:
    if given.header in known and given.header.lower() not in HEADER_IDS:
        raise InputError(
            f"{given.path}: its first line, {_quote(given.header)}, is of a record; put a header "
            "above it, such as id and label"
        )
    if not any(name in known for name in given.of):
        raise InputError(
            f"{given.path}: none of its {len(given.of):,} ids, such as "
            f"{_quote(next(iter(given.of)))}, is of a record of {dataset}; mend report: labels"
        )


def _count(ids: Collection[str], what: str) -> list[str]:
    """Return a sentence on some ids, if there are any."""
    if not ids:
        return []
    how_many = "1 id is" if len(ids) == 1 else f"{len(ids):,} ids are"
    return [f"{how_many} {what} ({_quote(min(ids))}{', ...' if len(ids) > 1 else ''})"]


def _quote(identifier: str) -> str:
    return repr(identifier[:LONGEST_QUOTED])
