"""`pt`: a folder of one file a protein, as fair-esm's extract.py leaves it."""

from pathlib import Path

from spotesm.base.durable import replacing
from spotesm.commands.exports.format import Format, any_output, safe_name
from spotesm.commands.exports.records import Records
from spotesm.merged.reader import Embeddings
from spotesm.request.outputs import CONTACTS, LOGITS, Key


def write_pt(records: Records, output: Path) -> None:
    """Write a file a protein, of the content that fair-esm's extract.py gives it."""
    import torch

    output.mkdir(parents=True, exist_ok=True)
    with Embeddings(records.embeddings.path, as_torch=True) as embeddings:
        for row, identifier in enumerate(records.names()):
            content: dict = {"label": identifier}
            for key in records.keys:
                _add_output(content, embeddings, key, row)
            with replacing(output / f"{safe_name(identifier)}.pt") as temporary:
                torch.save(content, temporary)
            records.advance(1)


def _add_output(content: dict, embeddings: Embeddings, key: str, row: int) -> None:
    """Add one output of one record under fair-esm's name for it."""
    output, layer = (parsed := Key.parse(key)).output, parsed.layer
    values = embeddings.value(key, row)
    if output.name == CONTACTS:
        values = values.squeeze(0)  # fair-esm has one map a protein
    if output.per_layer:
        content.setdefault(output.fair_esm, {})[layer] = values
    else:
        content[output.fair_esm] = values
    if output.name == LOGITS:
        content["alphabet"] = embeddings.alphabet


PT = Format(
    "pt",
    "a folder of one file a protein, as fair-esm's extract.py leaves it; all outputs, or --key",
    write_pt,
    takes=any_output,
    all_keys=True,
    place=safe_name,
    is_folder=True,
)
