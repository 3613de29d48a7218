"""Accessions: what databases call a record, inside the ids that their FASTA files have."""

import re

# NCBI's and UniProt's form, `sp|P12345|NAME_ORG`; the first word is the database.
_DATABASE_ID = re.compile(r"[A-Za-z]{2,4}\|([^|]+)(\||$)")


def accession_of(identifier: str) -> str | None:
    """Return the accession in an id, `sp|P12345|NAME` -> `P12345`; None if it has none."""
    found = _DATABASE_ID.match(identifier)
    return found[1] if found else None
