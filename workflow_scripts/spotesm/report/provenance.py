"""Where the numbers come from: settings, software, what to cite, how to load them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spotesm.request.request import Request

CITATIONS = {
    "esm2": "Lin et al. (2023) Evolutionary-scale prediction of atomic-level protein structure "
    "with a language model. Science 379:1123-1130. doi:10.1126/science.ade2574",
    "esmc": "ESM Team (2024) ESM Cambrian: Revealing the mysteries of proteins with unsupervised "
    "learning. evolutionaryscale.ai/blog/esm-cambrian",
    "esm1b": "Rives et al. (2021) Biological structure and function emerge from scaling "
    "unsupervised learning to 250 million protein sequences. PNAS 118:e2016239118. "
    "doi:10.1073/pnas.2016239118",
    "esm1v": "Meier et al. (2021) Language models enable zero-shot prediction of the effects of "
    "mutations on protein function. NeurIPS 34.",
}
LICENCES = {
    "esm1": "MIT",
    "esm2": "MIT",
    "esmc": "MIT since 2026; copies fetched before came under the Cambrian Open (300M) or the "
    "Cambrian Non-Commercial (600M) licence",
}
SOFTWARE = (("spotESM", "spotesm"), ("torch", "torch"), ("Python", "python"))
LONG_SEQUENCES = {
    "window": "in windows of {window} residues that share {overlap}, averaged there",
    "truncate": "truncated after {window} residues",
    "whole": "whole, however long",
    "reject": "rejected beyond {window} residues",
}


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from.

    Attributes:
        rows: names and values, of settings and software.
        cite: what to cite for the model.
        load: a line of Python that loads the file.
        config: all settings, as JSON.
    """

    rows: list[tuple[str, str]]
    cite: str
    load: str
    config: str


def trace(
    attributes: Mapping, path: Path, reused_from: Mapping[str, int] | None = None
) -> Provenance:
    """Return what the attributes of an `embeddings.h5` say of its origin, for people.

    Args:
        reused_from: earlier files, and how many records are theirs.
    """
    request = Request.of_attributes(attributes)
    policy = request.long_sequences
    return Provenance(
        rows=[
            ("model", f"{request.model}, {attributes['weights']} weights"),
            ("weights, sha256", attributes["weights_sha256"]),
            ("licence of published weights", LICENCES[request.architecture.family]),
            ("outputs", ", ".join(request.select().keys)),
            ("precision", f"computed in {request.precision}, stored as {request.store_dtype}"),
            ("engine", request.engine),
            ("long sequences", LONG_SEQUENCES[policy.policy].format(**vars(policy))),
            ("software", ", ".join(f"{n} {attributes[f'{m}_version']}" for n, m in SOFTWARE)),
            ("made", attributes["created"]),
            *(
                ("reused", f"{n:,} records, from {origin}")
                for origin, n in (reused_from or {}).items()
            ),
        ],
        cite=CITATIONS[request.model.partition("_")[0]],
        load=f"from spotesm import Embeddings; embeddings = Embeddings({str(path)!r})",
        config=json.dumps(json.loads(attributes["config"]), indent=2, ensure_ascii=False),
    )
