"""Accessions: what databases call a record, inside the ids that their FASTA files have."""

import re

# NCBI's and UniProt's form, `sp|P12345|NAME_ORG`; the first word is the database.
_DATABASE = re.compile(r"[A-Za-z]{2,4}")
_WITHOUT_ACCESSION = ("pir", "prf")  # which have a name alone, in the third place
_VERSION = re.compile(r"\.\d+$")
# What says by its form what it is: the accession is the group.
_FORMS = re.compile(
    "|".join(
        (
            r"(?:AFDB:)?AF-([A-Z0-9]+)-F\d+(?:-model_v\d+)?",  # AlphaFold DB
            r"UniRef(?:50|90|100)_([A-Z0-9-]+)",
            r"(MGYP\d{9,})(?:\W.*)?",  # MGnify
            r"([A-Z]{2}_\d{6,}\.\d+)",  # RefSeq
            r"([A-Z]{3}(?:\d{5}|\d{7})\.\d+)",  # GenBank, EMBL and DDBJ
            r"(ENS[A-Z]*\d{11}\.\d+)",  # Ensembl
        )
    )
)


def accession_of(identifier: str) -> str | None:
    """Return the accession in an id, `sp|P12345|NAME` -> `P12345`; None if it has none.

    Of NCBI's lists of several (`gi|15674171|ref|NP_268346.1|`) it is the second database's, and of
    databases without a name of their own (`gnl|extdb|pgaptmp_1`) what they call it.
    """
    if "|" not in identifier:
        found = _FORMS.fullmatch(identifier)
        return found[found.lastindex] if found else None
    database, *fields = identifier.split("|")
    if database == "gi" and len(fields) > 2:
        database, *fields = fields[1:]
    if not _DATABASE.fullmatch(database):
        return None
    third = database == "gnl" or (database in _WITHOUT_ACCESSION and not fields[0])
    place = 1 if third and len(fields) > 1 else 0
    return fields[place] or None


def without_version(accession: str) -> str:
    """Return an accession without its version, `NP_268346.1` -> `NP_268346`."""
    return _VERSION.sub("", accession)
