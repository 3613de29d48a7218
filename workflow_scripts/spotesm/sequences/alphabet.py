"""The models' alphabet: residue bytes to token numbers by one table look-up.

The numbers are fair-esm's (`esm.data.Alphabet.from_architecture("ESM-1b")`) and those of ESM C's
tokeniser: four special tokens, then the residues in the order of `RESIDUES`.
"""

import numpy as np

BOS, PADDING, EOS, UNKNOWN = 0, 1, 2, 3
RESIDUES = b"LAGVSERTIDPKQNFYMHWCXBUZO"
VOCABULARY_SIZE = 33
# What each token stands for; ESM C, whose vocabulary has 64 places, calls the last but one `|`.
TOKENS = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *RESIDUES.decode(),
    *(".", "-", "<null_1>", "<mask>"),
)
BREAK = TOKENS.index("<null_1>")

_TOKEN_OF_BYTE = np.full(256, UNKNOWN, dtype=np.uint8)
_TOKEN_OF_BYTE[np.frombuffer(RESIDUES, dtype=np.uint8)] = np.arange(4, 4 + len(RESIDUES))


def name_tokens(vocabulary: int) -> list[str]:
    """Return what the columns of logits are called, one for each place of a vocabulary.

    Sources: fair-esm's `esm.data.Alphabet`; esm's `SEQUENCE_VOCAB` for ESM C, of which it uses 33.
    """
    if vocabulary == VOCABULARY_SIZE:
        return list(TOKENS)
    unused = [f"<unused_{place}>" for place in range(VOCABULARY_SIZE, vocabulary)]
    return [*TOKENS[:BREAK], "|", *TOKENS[BREAK + 1 :], *unused]


def tokenise(sequence: bytes) -> np.ndarray:
    """Turn a normalised sequence of L residues into its L + 2 tokens (uint8), BOS and EOS added."""
    tokens = np.empty(len(sequence) + 2, dtype=np.uint8)
    tokens[0] = BOS
    tokens[1:-1] = _TOKEN_OF_BYTE[np.frombuffer(sequence, dtype=np.uint8)]
    tokens[-1] = EOS
    return tokens
