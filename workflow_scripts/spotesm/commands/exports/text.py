"""`csv` and `tsv`: plain text, for R and spreadsheets."""

import csv
from functools import partial
from pathlib import Path

from spotesm.base.durable import replacing
from spotesm.commands.exports.format import Format, rows
from spotesm.commands.exports.records import Records

NUMBER = "{:.9g}".format  # digits that give each float32 back exactly


def write_text(records: Records, output: Path, delimiter: str) -> None:
    """Write a line a record: `id`, `length`, and the numbers `d0`, `d1`, ..."""
    with (
        replacing(output) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as text,
    ):
        lines = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        lines.writerow(["id", "length", *(f"d{i}" for i in range(records.values.shape[1]))])
        for block in records.blocks():
            for identifier, length, values in zip(
                block.ids, block.lengths, block.values, strict=True
            ):
                lines.writerow([records.name(identifier), length, *map(NUMBER, values.tolist())])


def _format(name: str, delimiter: str, separated: str) -> Format:
    about = f"{separated}-separated text of id, length and the numbers"
    return Format(name, about, partial(write_text, delimiter=delimiter), takes=rows)


CSV, TSV = _format("csv", ",", "comma"), _format("tsv", "\t", "tab")
