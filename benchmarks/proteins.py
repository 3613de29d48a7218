"""The proteins of benchmarks: random, as long as real ones."""

import random

import numpy as np

# Lengths of the 1,162 proteins of DisProt, clustered (disprot.org, CC BY 4.0): every fortieth part.
LENGTH_QUANTILES = [
    *(24, 69, 83, 94, 103, 110, 118, 130, 143, 156, 168, 184, 196, 210, 225, 241, 262, 276, 296),
    *(326, 348, 370, 392, 419, 444, 468, 498, 522, 560, 592, 638, 670, 720, 765, 827, 893, 1023),
    *(1205, 1475, 1937, 34350),
]


def random_protein(rng: random.Random, length: int) -> str:
    """Return a protein of so many residues, all alike often."""
    return "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=length))


def random_proteins(count: int, most_residues: int) -> list[str]:
    """Return so many proteins, always the same, of real lengths; longer ones are cut."""
    rng = random.Random(0)
    places = [rng.uniform(0, len(LENGTH_QUANTILES) - 1) for _ in range(count)]
    lengths = np.interp(places, range(len(LENGTH_QUANTILES)), LENGTH_QUANTILES)
    return [random_protein(rng, int(length))[:most_residues] for length in lengths]
