"""What databases call a record, inside its id."""

import pytest
from spotesm.sequences.accessions import accession_of, without_version


@pytest.mark.parametrize(
    ("identifier", "accession"),
    [
        ("sp|P12345|NAME_ORG", "P12345"),
        ("tr|A0A000|", "A0A000"),
        ("gb|AAA1.1", "AAA1.1"),
        ("ref|NP_268346.1|", "NP_268346.1"),
        ("gi|15674171|ref|NP_268346.1|", "NP_268346.1"),
        ("gi|15674171", "15674171"),
        ("gi|15674171|", "15674171"),
        ("gi|123|pir||S12345", "S12345"),
        ("pir||S12345", "S12345"),
        ("gnl|extdb|pgaptmp_1", "pgaptmp_1"),
        ("gnl|pgaptmp_1", "pgaptmp_1"),
        ("gi|123|gnl|extdb|pgaptmp_1", "pgaptmp_1"),
        ("lcl|mine", "mine"),
        ("AF-P12345-F1", "P12345"),
        ("AF-A0A009IHW8-F12-model_v4", "A0A009IHW8"),
        ("AFDB:AF-P12345-F1", "P12345"),
        ("UniRef90_P12345", "P12345"),
        ("UniRef50_UPI0000000001", "UPI0000000001"),
        ("UniRef100_P12345-2", "P12345-2"),
        ("MGYP000000000001", "MGYP000000000001"),
        ("MGYP000000000001.pdb.gz", "MGYP000000000001"),
        ("NP_268346.1", "NP_268346.1"),
        ("WP_000000123.12", "WP_000000123.12"),
        ("AAA12345.1", "AAA12345.1"),
        ("ENSP00000493376.2", "ENSP00000493376.2"),
        ("ENSMUSP00000000001.5", "ENSMUSP00000000001.5"),
        ("P12345", None),
        ("a|b", None),
        ("contig1|frame+1|3-50", None),
        ("NP_268346.1|frame+1|3-50", None),
        ("sp||NAME", None),
        ("gnl|extdb|", None),
        ("gene1.2", None),
        ("NODE_1.1", None),
        ("AF-P12345", None),
        ("UniRef90_", None),
        ("xNP_268346.1", None),
        ("", None),
        ("|", None),
    ],
)
def test_accessions(identifier: str, accession: str | None) -> None:
    assert accession_of(identifier) == accession


@pytest.mark.parametrize(
    ("accession", "plain"),
    [("NP_268346.1", "NP_268346"), ("AAA1.12", "AAA1"), ("P12345", "P12345"), ("a.b", "a.b")],
)
def test_versions(accession: str, plain: str) -> None:
    assert without_version(accession) == plain
