import esm
from spotesm.sequences.alphabet import RESIDUES, tokenise


def test_tokens_are_fair_esms() -> None:
    sequence = RESIDUES.decode() * 2
    convert = esm.data.Alphabet.from_architecture("ESM-1b").get_batch_converter()
    _, _, expected = convert([("", sequence)])
    assert tokenise(sequence.encode()).tolist() == expected[0].tolist()


def test_the_letters_outside_the_alphabet_are_those_fair_esm_does_not_know() -> None:
    known = set(esm.data.Alphabet.from_architecture("ESM-1b").tok_to_idx)
    letters = {chr(c) for c in range(ord("A"), ord("Z") + 1)}
    assert set(RESIDUES.decode()) == letters & known
