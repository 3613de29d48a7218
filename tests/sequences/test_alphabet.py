import esm
from spotesm.sequences.alphabet import RESIDUES, name_tokens, tokenise


def test_tokens_are_fair_esms() -> None:
    sequence = RESIDUES.decode() * 2
    convert = esm.data.Alphabet.from_architecture("ESM-1b").get_batch_converter()
    _, _, expected = convert([("", sequence)])
    assert tokenise(sequence.encode()).tolist() == expected[0].tolist()


def test_the_letters_outside_the_alphabet_are_those_fair_esm_does_not_know() -> None:
    known = set(esm.data.Alphabet.from_architecture("ESM-1b").tok_to_idx)
    letters = {chr(c) for c in range(ord("A"), ord("Z") + 1)}
    assert set(RESIDUES.decode()) == letters & known


def test_columns_of_logits_are_called_as_fair_esm_calls_them() -> None:
    assert name_tokens(33) == esm.data.Alphabet.from_architecture("ESM-1b").all_toks


def test_those_of_esm_c_have_places_that_it_does_not_use() -> None:
    names = name_tokens(64)
    assert len(set(names)) == 64
    assert names[:5] == ["<cls>", "<pad>", "<eos>", "<unk>", "L"]
    assert names[28:34] == ["O", ".", "-", "|", "<mask>", "<unused_33>"]
    assert names[63] == "<unused_63>"
