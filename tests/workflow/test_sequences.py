"""Inputs as they come: what is used, refused, counted; through the whole workflow."""

import bz2
import gzip
import json
import lzma
import re
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from snakemake_runs import WAIT_SECONDS, link_weights, start_snakemake, write_config
from spotesm import Embeddings
from spotesm.sequences.compression import zstd
from spotesm.sequences.rejected import read_rejected

RUN = ("--cores", "2", "--resources", "gpu=2", "--set-threads", "embed_shard=1", "--retries", "0")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
P1, P2, P3 = "MKTAYIAKQRQISFVKSHFS", "MALWMRLLPLLALLALWGPD", "MSTNPKPQRKTKRNTNRRPQ"
DNA = "ATGGCGTACGATCGATCGATCGATCGATTAGCTAGCTAGCATCGATCGAT"
LONG = "y" * 140_000
PROTEINS = {
    "dot.fasta": f">t1 gffread\n{P1[:10]}.{P1[10:]}.\n>t2\n{P1}.\n".encode(),
    "nbsp.fasta": f">a\u00a0b in the id\n{P2}\n".encode(),
    "long.fasta": f">{LONG}\nMKT*AYI\n>{LONG}ok\n{P3}\n".encode(),
    "unicode.fasta": f'>Þ\u00e4"ï\u2028\nMKT*AYI\n>p|"ü\n{P1}\n'.encode(),
    "empty.fasta": b"",
    "latin1.fasta": f">p1 Universit\xe9\n{P2}\n".encode("latin-1"),
    "comments.fasta": f"; old\n# new\r\n>c1\r\n{P3[:10]}\r\n{P3[10:]}\r\n".encode(),
    "cr.fasta": f">c2\r{P3[:4]}-{P3[4:]}\r>\r{P1}\r".encode(),
    "no-suffix": gzip.compress(f">gz\n{P2}\n".encode()) + gzip.compress(f">gz2\n{P1}\n".encode()),
    "x.fasta.bz2": bz2.compress(f">bz2\n{P2}\n".encode()),
    "x.fasta.xz": lzma.compress(f">xz\n{P2}\n".encode()),
    "x.fasta.zst": zstd.compress(f">zst\n{P2}\n".encode()),
    "unknown.fasta": b">unknown\nXXXXXX\n",
    "dna.fasta": f">few\n{DNA}\n".encode(),
}
# Of every record of these, in order: its id and its sequence; None of a rejected one.
EXPECTED = [
    ("t1", None),
    ("t2", P1),
    ("a\u00a0b", P2),
    (LONG, None),
    (f"{LONG}ok", P3),
    ('Þä"ï\u2028', None),
    ('p|"ü', P1),
    ("p1", P2),
    ("c1", P3),
    ("c2", P3),
    ("", P1),
    *(("gz", P2), ("gz2", P1), ("bz2", P2), ("xz", P2), ("zst", P2)),
    ("unknown", "X" * 6),
    ("few", DNA),
]
ROWS = [(name, sequence) for name, sequence in EXPECTED if sequence]
LEFT, RIGHT = "ATGGCTGCAGCCGAA", "GCTGCAGCAGAAATG"
CONTIGS = {
    "runs.fna": ">nothing\n" + "N" * 300 + f"\n>gap in the middle\n{LEFT}{'N' * 120}{RIGHT}\n",
    "mixed.fna": f">protein\n{P1}\n>good\n{LEFT}\n>dashes\n{LEFT}---{RIGHT}\n"
    f">empty\n>last\n{RIGHT}\n",
}


def run_snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run it to its end, in a locale that has ASCII alone."""
    process = start_snakemake(folder, "--configfile", "my.yaml", *RUN, *arguments, **ASCII)
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, weights_manifest: Path) -> Path:
    """The folder of a run over all of it."""
    folder = tmp_path_factory.mktemp("inputs")
    link_weights(folder, weights_manifest)
    for name, content in PROTEINS.items():
        (folder / name).write_bytes(content)
    for name, text in CONTIGS.items():
        (folder / name).write_text(text)
    (folder / "insisted.fasta").write_text(f">a\n{DNA}\n")
    (folder / "rejected.fasta").write_text(">a\nM*K\n>b\n")
    datasets = {
        "proteins": list(PROTEINS),
        "contigs": {"fasta": list(CONTIGS), "alphabet": "nucleotide", "min_orf": 5},
        "insisted": {"fasta": "insisted.fasta", "alphabet": "protein"},
        "rejected": "rejected.fasta",
    }
    write_config(folder, datasets=datasets, shards=1, max_rejected=1)
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    return folder


def summary_of(folder: Path, dataset: str) -> dict:
    return json.loads((folder / f"results/{dataset}/summary.json").read_text())


def test_every_record_is_a_row_or_a_line(finished: Path) -> None:
    with h5py.File(finished / "results/proteins/embeddings.h5") as file:
        assert file["sequence_ids"].asstr()[:].tolist() == [name for name, _ in ROWS]
        assert file["lengths"][:].tolist() == [len(sequence) for _, sequence in ROWS]
    lines = list(read_rejected(finished / "results/proteins/rejected.tsv"))
    assert [(line.ordinal, line.id[:9], line.reason, line.detail) for line in lines] == [
        (0, "t1", "invalid_character", "'.' at residue 11"),
        (3, LONG[:9], "invalid_character", "'*' at residue 4"),
        (5, 'Þä"ï\u2028', "invalid_character", "'*' at residue 4"),
    ]


def test_equal_sequences_have_equal_values_and_they_are_fair_esms(
    finished: Path, reference_residues: object
) -> None:
    with h5py.File(finished / "results/proteins/embeddings.h5") as file:
        values = file["embeddings"][:]
    for sequence in (P1, P2, P3, DNA):
        rows = [row for row, (_, own) in enumerate(ROWS) if own == sequence]
        expected = reference_residues(sequence).mean(0)
        assert len({values[row].tobytes() for row in rows}) == 1
        np.testing.assert_allclose(values[rows[0]], expected, rtol=0, atol=1e-5)


def test_what_was_deleted_replaced_or_odd_is_counted_and_said(finished: Path) -> None:
    summary = summary_of(finished, "proteins")
    wanted = {"n_records": 18, "n_rejected": 3, "n_removed_characters": 1}
    wanted |= {"n_unknown_proteins": 1, "n_like_nucleotides": 1, "n_repeated_ids": 0}
    assert {key: summary[key] for key in wanted} == wanted
    log = (finished / "results/proteins/logs/split_fasta.log").read_text()
    assert "1 gaps and blanks inside sequences were removed" in log
    assert "1 proteins are of X alone" in log
    assert "empty.fasta: the file is empty" in log


def test_contigs_that_are_none_are_lines_and_gaps_end_frames(finished: Path) -> None:
    lines = list(read_rejected(finished / "results/contigs/rejected.tsv"))
    assert [tuple(line) for line in lines] == [
        (2, "protein", "translate", "invalid_character", "'I' at base 6 is no nucleotide"),
        (4, "dashes", "translate", "invalid_character", "'-' at base 16 is no nucleotide"),
        (5, "empty", "translate", "empty", "no bases"),
    ]
    summary = summary_of(finished, "contigs")
    assert (summary["n_contigs"], summary["n_rejected_contigs"]) == (7, 3)
    assert summary["n_rejected"] == summary["n_unknown_proteins"] == 0
    assert summary["n_records"] == summary["n_embedded"]
    assert summary["n_unknown_codons"] >= 6 * 99 + 6 * 39
    with h5py.File(finished / "results/contigs/embeddings.h5") as file:
        assert file.attrs["n_rejected"] == 0
        ids = file["sequence_ids"].asstr()[:].tolist()
        assert {name.decode() for name in file["orfs/contigs"]} == {"gap", "good", "last"}
    assert [i for i in ids if i.startswith("gap|frame+1")] == [
        "gap|frame+1|1-15",
        "gap|frame+1|136-150",
    ]


def test_proteins_may_be_insisted_on(finished: Path) -> None:
    assert summary_of(finished, "insisted")["n_embedded"] == 1


def test_a_dataset_of_rejected_records_alone(finished: Path) -> None:
    with Embeddings(finished / "results/rejected/embeddings.h5") as embeddings:
        assert len(embeddings) == 0
        assert embeddings.file["embeddings"].shape == (0, 320)
    assert "2 records have no row" in (finished / "results/rejected/report.html").read_text()


FAILING = {
    "many": ("".join(f">p{i}\nMK*V\n" for i in range(5)) + f">ok\n{P1}\n", None),
    "dna": (
        f">c1\n{DNA}\n>c2\n{DNA[::-1]}\n",
        r"dna: 2 of 2 sequences .* is this nucleotide\? Then embed it with --nucleotide",
    ),
    "rna": (f">c1\n{DNA.replace('T', 'U')}\n", r"rna: 1 of 1 sequences .* is this nucleotide\?"),
    "tabs": (
        f">p1\t{P1}\n>p2\t{P2}\n",
        r"0 'p1' \(empty: no residues; the sequence seems to stand",
    ),
    "chains": (f">c1\n{P1}:{P2}\n", r"':' at residue 21; each chain needs a record of its own"),
    "zip": ("PK\x03\x04rest", r"zip: a zip archive; unpack it"),
    "utf16": (f"\ufeff>a\n{P1}\n".encode("utf-16-le"), r"utf16: UTF-16 text; convert it"),
    "cut": (gzip.compress(PROTEINS["dot.fasta"])[:-9], r"cut: damaged or truncated .*fetch"),
    "none": ("\n", r"none: the file is empty; expected FASTA records"),
    "fastq": ("@r\nACGT\n+\nIIII\n", r"fastq, line 1: not FASTA \(it looks like FASTQ\)"),
}


def test_what_is_wrong_ends_the_run_at_the_split(folder: Path) -> None:
    datasets: dict[str, object] = {}
    for name, (content, _) in FAILING.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        datasets[name] = name
    (folder / "genes.fna").write_text(CONTIGS["mixed.fna"])
    datasets["genes"] = {"fasta": "genes.fna", "alphabet": "nucleotide", "min_orf": 5}
    write_config(folder, datasets=datasets, shards=1)
    run = run_snakemake(folder, "--keep-going")
    assert run.returncode != 0
    assert "Traceback" not in run.stdout
    assert not list(folder.glob("results/*/shards/*.h5"))
    block = run.stdout[run.stdout.index("spotESM could not finish:") :]
    for name, (_, said) in FAILING.items():
        if said:
            (line,) = [line for line in block.splitlines() if re.search(said, line)]
            assert block.index(line) < block.index(f"in split_fasta of {name}\n")
    assert (
        "  5 of 6 records were rejected (5 invalid_character), more than max_rejected: 0.01 allows."
        " results/many/rejected.tsv lists them; the first: "
        + "; ".join(f"{i} 'p{i}' (invalid_character: '*' at residue 3)" for i in range(3))
        + ". Mend the input, or raise max_rejected and run again\n    in split_fasta of many\n"
    ) in block
    assert "3 of 5 contigs were rejected" in block
    lists = {"many": range(5), "tabs": range(2), "chains": [0], "genes": [0, 2, 3]}
    for name, ordinals in lists.items():
        lines = read_rejected(folder / f"results/{name}/rejected.tsv")
        assert [line.ordinal for line in lines] == list(ordinals)
