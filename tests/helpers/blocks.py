"""How much the library holds at once, made small: an edge must show with a handful of rows."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import spotesm

ROW = 1280  # bytes of a vector of the 8M model
# By module and name, the size in every test; a test of what memory holds sets its own.
SMALL = {
    "commands.exports.npz.BYTES_AT_ONCE": 108,  # three ids of nine characters
    "commands.exports.records.BYTES_AT_ONCE": 3 * ROW,
    "commands.exports.records.ROWS_AT_ONCE": 3,
    "commands.verify.ROWS_AT_ONCE": 3,
    "merged.index.ENTRIES_AT_ONCE": 3,
    "merged.index.LEAST_AROUND": 2,
    "merged.index.ROWS_AT_ONCE": 3,
    "merged.integrity.ROWS_AT_ONCE": 3,
    "merged.merge.BLOCK_BYTES": 3 * ROW,
    "hdf5.pieces.BYTES_AT_ONCE": 3 * ROW,
    "hdf5.table.BYTES_AT_ONCE": 3 * ROW,
    "hdf5.table.DIGESTS_AT_ONCE": 3,
    "merged.shard_rows.BLOCK_BYTES": 3 * ROW,
    "merged.shard_rows.LEAST_BYTES_OF_RECORD": ROW,
    "merged.shard_rows.MORE_THAN_EXPECTED": 1,
    "merged.reader.IDS_AT_ONCE": 3,
    "merged.reader.ROWS_AT_ONCE": 3,
    "merged.merge.CHUNK_BYTES": 3 * ROW,
    "shards.shard_file.ROWS_AT_ONCE": 3,
    "shards.shard_writer.ROWS_AT_ONCE": 3,
    "request.inputs.BYTES_AT_ONCE": 7,
    "runs.identity.ROWS_AT_ONCE": 3,
    "sequences.containment.KEYS_AT_ONCE": 3,
    "sequences.compression.BLOCK_BYTES": 8,  # as many as are looked at before the first is read
    "sequences.fasta.BLOCK_BYTES": 7,
    "sequences.sharding.BYTES_AT_ONCE": 100,
    "sequences.ids.ID_HASHES_AT_ONCE": 3,
    "weights.downloads.BLOCK_BYTES": 1000,
    "weights.prepared.READ_BYTES": 1000,
}
# Large numbers that are no blocks, and why.
NO_BLOCK = {
    **dict.fromkeys(
        [f"model.budget.{name}" for name in ("CPU_LEAST", "CPU_MOST", "GPU_LEAST", "GPU_MOST")],
        "bounds of the token budget, which each test of it names",
    ),
    "model.budget.GPU_BUSY": "tokens that keep a GPU busy",
    "model.attention.KEYS_AT_ONCE": "of PyTorch's kernel",
    "weights.architectures.ESM1_POSITIONS": "of the model",
    "weights.architectures.ROTARY_BASE": "of the model",
    "request.fasta_files.FIRST_BYTES": "of a file, of which one tells whether it is FASTA",
    "request.inputs.BYTES_OF_A_SHARD": "how many shards there are, which the user sees",
    "commands.exports.npz.MOST_BYTES_OF_IDS": "a limit above which a file is refused",
    "merged.index.KEYS": "how many numbers of 64 bits there are",
    "machine.memory.BESIDE_WEIGHTS_MB": "what a job asks of its host",
    "merged.look_ups.CLOSE_AMONG": "a limit of what is compared with an unknown id",
    "runs.census.MOST_SEQUENCES": "from which on a plan is an estimate; its tests set their own",
    "report.figures.MOST_ATTEMPTS": "a limit of what is shown",
    "report.landscape.MOST_POINTS": "a limit of what is shown",
    "report.page.MOST_LENGTHS": "a limit of what is shown",
    "report.ticks.HOUR": "seconds",
    "report.ticks.DAY": "seconds",
    "weights.prepared.SAMPLE_BYTES": "all processes must look at the same bytes",
    "weights.prepared.PINNED_BYTES": "buffers on the way to a GPU, which few tests have",
    "sequences.rejected.MOST_CHARACTERS": "a limit of an id in a TSV",
}


def large_numbers() -> Iterator[str]:
    """Name the library's constants that are blocks by their name, or from 1,000 on."""
    library = Path(spotesm.__file__).parent
    for path in sorted(library.rglob("*.py")):
        dotted = ".".join(path.relative_to(library).with_suffix("").parts)
        if path.stem.startswith("__"):
            continue
        own = path.read_text(encoding="utf-8")
        for name, value in vars(importlib.import_module(f"spotesm.{dotted}")).items():
            if not isinstance(value, int):
                continue
            is_block = name.endswith(("_AT_ONCE", "BLOCK_BYTES"))  # imported by its name, too
            is_own = re.search(rf"^[\w, ]*\b{name}\b[\w, ]* = ", own, re.MULTILINE)
            if is_block or (value >= 1000 and is_own):
                yield f"{dotted}.{name}"
