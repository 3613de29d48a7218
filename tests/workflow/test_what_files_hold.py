"""FASTA as others write it, through `spotesm embed` and `spotesm verify`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from snakemake_runs import REPOSITORY, WAIT_SECONDS, _environment, spotesm
from spotesm import Embeddings
from spotesm.sequences.rejected import read_rejected

UNTRAINED = ("--model", "esm2_t6_8M_UR50D", "--weights", "untrained")
P1, P2, P3 = "MKTAYIAKQRQISFVKSHFSRQ", "MSLLTEVETYVLSIVPSGPLKAEIAQ", "MKVLAAGIVGLCAKAYGEHTRR"
TEXT = f"""\
>a1 first
{P1}
>a2 soft-masked
{P2[:9]}{P2[9:17].lower()}{P2[17:]}
>message
{P1}
Supplied id parameter is empty.
>three
MetLysThrAlaTyrIleAlaLysGlnArgGlnIleSer
>saprot
MdKpTvAlYd
>1bna_A mol:na length:12  DNA
CGCGAATTCGCG
>101M:A:secstr
    HHHHHHHHHHHHHHTTTHHHHHHHHHHHHHHH GGGGGGSTTTTT  SS
>last lower
{P3.lower()}
No entries found
>a3
{P3.lower()}
"""
REJECTED = {
    2: ("message", "words", 7),
    3: ("three", "three-letter codes", 9),
    4: ("saprot", "letters of structure", 11),
    6: ("101M:A:secstr", "secondary structure", 15),
    7: ("last", "words", 18),
}
ROWS = {"a1": P1, "a2": P2, "1bna_A": "CGCGAATTCGCG", "a3": P3}


def spotesm_with_input(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "spotesm", *arguments],
        input=text,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**_environment(folder), "PYTHONPATH": str(REPOSITORY / "workflow_scripts")},
        timeout=WAIT_SECONDS,
    )


def test_what_comes_through_a_pipe_is_embedded_but_for_what_is_no_sequence(
    folder: Path, reference_residues: object
) -> None:
    given = ("embed", "-", "--name", "piped", *UNTRAINED)
    some = spotesm_with_input(folder, TEXT, *given)
    assert some.returncode != 0
    assert "5 of 9 records were rejected (5 not_a_sequence), more than max_rejected" in some.stderr
    run = spotesm_with_input(folder, TEXT, *given, "--", "--config", "max_rejected=0.6")
    assert run.returncode == 0, run.stderr
    results = folder / "results/piped"
    (kept,) = results.glob("input-*.fasta")
    assert kept.read_text() == TEXT
    lines = list(read_rejected(results / "rejected.tsv"))
    assert [line.ordinal for line in lines] == sorted(REJECTED)
    for line in lines:
        identifier, what, number = REJECTED[line.ordinal]
        assert (line.id, line.reason) == (identifier, "not_a_sequence")
        assert line.detail.startswith(f"looks like {what}")
        assert line.detail.endswith(f"({kept.relative_to(folder)}, line {number})")
    with Embeddings(results / "embeddings.h5") as embeddings:
        assert embeddings.ids == list(ROWS)
        for row, sequence in enumerate(ROWS.values()):
            expected = reference_residues(sequence).mean(0)
            np.testing.assert_allclose(embeddings[row], expected, rtol=0, atol=1e-5)
    counts = json.loads((results / "summary.json").read_text())
    assert (counts["n_rejected"], counts["n_like_nucleotides"]) == (5, 1)
    log = (results / "logs/split_fasta.log").read_text()
    assert "1 sequences are made of the letters of nucleotides alone" in log
    checked = spotesm_with_input(folder, TEXT, "verify", "results/piped/embeddings.h5", "-")
    assert checked.returncode == 0, checked.stderr
    assert "every header of the FASTA is one of these rows or of 5 rejected ones" in checked.stdout
    lost = spotesm_with_input(folder, f"{TEXT[:-1]}>b1\n{P1}\n", "verify", *checked.args[4:])
    assert "line 20: a '>' behind residues" in lost.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f">a1\n{P1}\n>a2\n{P2}>b1 second file\n{P3}\n", "line 4: a '>' behind residues"),
        (f">P1;CRAB_ANAPL\nALPHA CRYSTALLIN B CHAIN\n{P1}*\n", "line 1: not FASTA .*like PIR"),
    ],
)
def test_what_cannot_be_read_rightly_ends_the_run(folder: Path, text: str, said: str) -> None:
    (folder / "in.fasta").write_text(text)
    run = spotesm(folder, "embed", "in.fasta", *UNTRAINED)
    assert run.returncode != 0
    assert re.search(rf"in.fasta, {said}", run.stderr), run.stderr
    assert not list(folder.glob("results/*/embeddings.h5"))


def test_folders_are_searched_and_what_is_left_out_is_said(folder: Path) -> None:
    for name in ("GCF_1.2", "GCF_2.1"):
        data = folder / "ncbi_dataset/data" / name
        data.mkdir(parents=True)
        (data / "protein.faa").write_text(f">WP_1\n{P1}\n>{name}\n{P2}\n")
        (data / "README.txt").write_text("of NCBI\n")
    run = spotesm(folder, "embed", "ncbi_dataset", "--each", *UNTRAINED, "--dry-run")
    assert run.returncode == 0, run.stderr
    config = (folder / ".snakemake/spotesm-config.yaml").read_text()
    assert "GCF_1-2: ncbi_dataset/data/GCF_1.2/protein.faa" in config
    assert "GCF_2-1: ncbi_dataset/data/GCF_2.1/protein.faa" in config
    run = spotesm(folder, "embed", "ncbi_dataset", *UNTRAINED)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("left out, as no FASTA by name: ncbi_dataset/data/GCF_1.2/README") == 1
    with Embeddings(folder / "results/ncbi_dataset/embeddings.h5") as embeddings:
        assert embeddings.ids == ["WP_1", "GCF_1.2", "WP_1", "GCF_2.1"]
