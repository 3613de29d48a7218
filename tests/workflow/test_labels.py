"""The user's labels, from the config to the page."""

import json
import os
import re
from pathlib import Path

from snakemake_runs import snakemake, write_config

FASTA = """\
>sp|P00001|ONE_TEST first
MKTAYIAKQRQISFVKSHFS
>sp|P00002|TWO_TEST second
MALWMRLLPLLALLALWGPD
>p3
GGGGSGGGGSAAAWWWK
>p4
MKKLLVVGG
>broken
MK*V
"""
LABELS = 'id\tfamily\nP00001\t"A\nsp|P00002|TWO_TEST\t<b>B</b>\np3\t"A\nnobody\tC\nbroken\tC\n\n'


def test_labels_reach_the_page(folder: Path) -> None:
    (folder / "in.fasta").write_text(FASTA)
    (folder / "labels.tsv").write_text(LABELS)
    keys = {"datasets": {"d": "in.fasta"}, "max_rejected": 0.5, "shards": 1}
    config = write_config(folder, **keys, report={"labels": "labels.tsv"})
    run = snakemake(folder, "--configfile", str(config), "--cores", "2")
    assert run.returncode == 0, run.stdout

    page = (folder / "results/d/report.html").read_text()
    points = json.loads(re.search(r'id="points">(.*?)</script>', page, re.DOTALL)[1])
    assert points["ids"] == ["sp|P00001|ONE_TEST", "sp|P00002|TWO_TEST", "p3", "p4"]
    assert points["labels"] == ['"A', "<b>B</b>", '"A', ""]
    assert points["colours"] == [0, 1, 0, None]
    assert "<b>B</b>" not in page
    assert "3 proteins have a label." in page
    for note in ("1 id is of no record (&#39;nobody&#39;)", "1 id is of rejected records"):
        assert note in page
    assert "labels.tsv: 1 id is of no record ('nobody')" in run.stdout

    # A wrong file is noticed before anything starts, and the page stays.
    (folder / "labels.tsv").write_text("id\tfamily\np4\tA\np3\tB\textra\n")
    run = snakemake(folder, "--configfile", str(config), "--cores", "2")
    assert run.returncode != 0
    assert "labels.tsv, line 3: columns, separated by tabs, must be two" in run.stdout
    assert "Traceback" not in run.stdout
    assert (folder / "results/d/report.html").read_text() == page

    # Labels of no record end in a line; whatever their date, they make the page anew, and no more.
    (folder / "labels.tsv").write_text("id\tfamily\np5\tA\n")
    os.utime(folder / "labels.tsv", (0, 0))
    run = snakemake(folder, "--configfile", str(config), "--cores", "2", "--retries", "0")
    assert run.returncode != 0
    assert "none of its 1 ids, such as 'p5', is of a record of d" in run.stdout
    assert "Traceback" not in run.stdout
    assert re.search(r"^report_dataset +1$", run.stdout, re.MULTILINE), run.stdout
    assert "embed_shard" not in run.stdout
