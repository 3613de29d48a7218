"""Check an `embeddings.h5` against its FASTA, and some of its rows against fair-esm.

    python -m spotesm.commands.verify results/demo/embeddings.h5 resources/demo.fasta

Records that have no row must be in `rejected.tsv` beside the file. Run it where the workflow ran,
or name the manifest of the weights.
"""

import argparse
import csv
import json
import logging
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import esm
import numpy as np
import torch

from spotesm import PRETRAINED, UNTRAINED
from spotesm.base.failures import IncompleteError, UserError
from spotesm.hdf5.reader import Embeddings
from spotesm.request.outputs import CONTACTS, LOGITS
from spotesm.sequences.fasta import (
    RejectedSequence,
    digest_sequence,
    normalise_sequence,
    read_fasta,
)
from spotesm.sequences.long_sequences import LongSequences
from spotesm.weights.files import FairESM
from spotesm.weights.sources import Weights, load_verified

ROWS_AT_ONCE = 4096
ALPHABET = esm.Alphabet.from_architecture("ESM-1b")  # that of ESM-2, too
# How far a value may be off, in units of the largest one of its row.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits with 1 and one line if something does not hold."""
    parser = argparse.ArgumentParser(
        prog="spotesm.commands.verify", description=__doc__.splitlines()[0]
    )
    parser.add_argument("file", type=Path, help="embeddings.h5")
    parser.add_argument(
        "fasta",
        type=Path,
        nargs="+",
        help="its inputs, in the config's order; orfs.fasta of contigs",
    )
    parser.add_argument("--rows", type=int, default=5, help="how many to recompute (default 5)")
    parser.add_argument("--seed", type=int, help="which ones; random if left out")
    parser.add_argument("--rejected", type=Path, help="default: rejected.tsv beside the file")
    parser.add_argument("--weights", type=Path, help="manifest; default: below resources/weights")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        with Embeddings(chosen.file) as embeddings:
            verify(embeddings, chosen)
    except UserError as error:
        sys.exit(str(error))


def verify(embeddings: Embeddings, chosen: argparse.Namespace) -> None:
    """Check everything, and say what held.

    Raises:
        IncompleteError: something does not hold.
    """
    rejected = chosen.rejected or chosen.file.with_name("rejected.tsv")
    n_rows = check_records(embeddings, chosen.fasta, rejected)
    print(f"{n_rows} rows are the records of the FASTA, in order: ids, lengths, digests")
    check_finite(embeddings)
    print(f"all values of {', '.join(embeddings.outputs)} are finite")
    rows = random.Random(chosen.seed).sample(range(n_rows), min(chosen.rows, n_rows))
    if rows:
        weights = Weights.read(chosen.weights or find_manifest(embeddings))
        sequences = accepted_sequences(chosen.fasta, rejected)
        worst = recompute(embeddings, sequences, rows, weights)
        print(f"{len(rows)} rows recomputed by fair-esm: at most {worst:.1e} off, relatively")


def check_records(embeddings: Embeddings, fasta: Sequence[Path], rejected: Path) -> int:
    """Check that the rows are the records that were not rejected, in order; how many there are."""
    n_rows = 0
    for row, (expected, actual) in enumerate(
        zip_longest(accepted_records(fasta, rejected), stored_records(embeddings))
    ):
        if expected is None or actual is None:
            more = "FASTA" if actual is None else "file"
            raise IncompleteError(
                f"{embeddings.path}: from row {row} on, the {more} has more records"
            )
        for name, wanted, found in zip(("id", "length", "digest"), expected, actual, strict=True):
            if wanted != found:
                raise IncompleteError(
                    f"{embeddings.path}, row {row}: its {name} is {found!r}, "
                    f"but the FASTA says {wanted!r}"
                )
        n_rows = row + 1
    return n_rows


def accepted_records(fasta: Sequence[Path], rejected: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield id, length and digest of every record that is not in `rejected`."""
    for identifier, sequence in accepted_sequences(fasta, rejected):
        yield identifier, len(sequence), digest_sequence(sequence)


def accepted_sequences(fasta: Sequence[Path], rejected: Path) -> Iterator[tuple[str, bytes]]:
    """Yield id and normalised sequence of every record that is not in `rejected`."""
    with open(rejected, newline="", encoding="utf-8") as tsv:
        lines = csv.reader(tsv, delimiter="\t")
        next(lines)
        ordinals = (int(line[0]) for line in lines)
        next_rejected = next(ordinals, None)
        for ordinal, (identifier, raw) in enumerate(chain(*map(read_fasta, fasta))):
            if ordinal == next_rejected:
                next_rejected = next(ordinals, None)
                continue
            try:
                yield identifier, normalise_sequence(raw)[0]
            except RejectedSequence as error:
                raise IncompleteError(
                    f"{rejected}: record {ordinal} is missing ({error})"
                ) from error


def stored_records(embeddings: Embeddings) -> Iterator[tuple[str, int, bytes]]:
    """Yield id, length and digest of every row."""
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        yield from zip(
            embeddings.file["sequence_ids"].asstr()[rows],
            embeddings.file["lengths"][rows].tolist(),
            (digest.tobytes() for digest in embeddings.file["digests"][rows]),
            strict=True,
        )


def check_finite(embeddings: Embeddings) -> None:
    """Check every value of every output."""
    for key in embeddings.outputs:
        values = embeddings.file[key]
        for start in range(0, len(values), ROWS_AT_ONCE):
            if not np.isfinite(values[start : start + ROWS_AT_ONCE]).all():
                raise IncompleteError(f"{embeddings.path}: {key} has values that are not finite")


def find_manifest(embeddings: Embeddings) -> Path:
    """Return where the workflow keeps the manifest of the weights that the file names."""
    source = embeddings.attributes["weights"]
    kind = source if source in (UNTRAINED, PRETRAINED) else "custom"
    return Path("resources/weights", kind, f"{embeddings.attributes['model']}.json")


def recompute(
    embeddings: Embeddings,
    sequences: Iterable[tuple[str, bytes]],
    rows: Sequence[int],
    weights: Weights,
) -> float:
    """Compute rows by fair-esm's own forward, window by window; the worst relative difference.

    Args:
        sequences: id and sequence of every row.
        rows: which of them are computed.

    Raises:
        IncompleteError: a value is further off than its precision explains.
    """
    attributes = embeddings.attributes
    if weights.sha256 != attributes["weights_sha256"]:
        raise IncompleteError(f"{weights.path}: not the weights that {embeddings.path} names")
    long = LongSequences(**json.loads(attributes["long_sequences"]))
    tolerance = max(TOLERANCES[attributes[name]] for name in ("precision", "store_dtype"))
    model = load_verified(weights)
    wanted, worst = set(rows), 0.0
    for row, (identifier, sequence) in enumerate(sequences):
        if row not in wanted:
            continue
        spans = long.spans(len(sequence))
        if len(spans) != embeddings.file["windows"][row]:
            continue  # it did not fit into memory in windows of the usual size
        for key, expected in reference_values(model, sequence, spans, embeddings.outputs).items():
            stored = stored_values(embeddings, key, row)
            off = float(np.abs(stored - expected).max() / max(1.0, np.abs(expected).max()))
            if not off <= tolerance:
                raise IncompleteError(
                    f"{embeddings.path}, row {row} ({identifier}): {key} is {off:.1e} off what "
                    f"fair-esm computes, more than {tolerance}"
                )
            worst = max(worst, off)
    return worst


def stored_values(embeddings: Embeddings, key: str, row: int) -> np.ndarray:
    """Return one output of one row, in float32."""
    group, _, name = key.partition("/")
    match group:
        case "residues":
            values = embeddings.residues(row, int(name))
        case "logits":
            values = embeddings.logits(row)
        case "contacts":
            values = embeddings.contacts(row)
        case _:
            values = embeddings.file[key][row]
    return values.astype(np.float32)


def reference_values(
    model: FairESM, sequence: bytes, spans: Sequence[slice], keys: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return what fair-esm gives for the outputs `keys` of one sequence."""
    layers = {int(key.rpartition("/")[2]) for key in keys if key.rpartition("/")[2].isdigit()}
    wants_contacts = any(key.startswith(CONTACTS) for key in keys)
    parts = [run_fair_esm(model, sequence[span], layers, wants_contacts) for span in spans]
    coverage = np.zeros((spans[-1].stop, 1), np.float32)
    for span in spans:
        coverage[span] += 1

    def average(name: str | int) -> np.ndarray:
        total = np.zeros((len(coverage), parts[0][name].shape[1]), np.float32)
        for span, part in zip(spans, parts, strict=True):
            total[span] += part[name][1:-1]
        return total / coverage

    values = {}
    for key in keys:
        group, _, name = key.partition("/")
        match group:
            case "mean":
                values[key] = average(int(name)).mean(0)
            case "bos":
                values[key] = np.mean([part[int(name)][0] for part in parts], axis=0)
            case "residues":
                values[key] = average(int(name))
            case "logits":
                values[key] = average(LOGITS)
            case "contacts":
                values[key] = np.stack([part[CONTACTS] for part in parts])
    return values


@torch.inference_mode()
def run_fair_esm(
    model: FairESM, sequence: bytes, layers: set[int], wants_contacts: bool
) -> dict[str | int, np.ndarray]:
    """Return layers and logits of all tokens, and contacts, as fair-esm tokenises and computes."""
    _, _, tokens = ALPHABET.get_batch_converter()([("", sequence.decode())])
    result = model(tokens, repr_layers=layers, return_contacts=wants_contacts)
    values: dict[str | int, np.ndarray] = {LOGITS: result["logits"][0].numpy()}
    for layer, hidden in result["representations"].items():
        values[layer] = hidden[0].numpy()
    if wants_contacts:
        values[CONTACTS] = result["contacts"][0].numpy()
    return values


if __name__ == "__main__":
    main()
