import esm
import pytest
import transformers
from spotesm.sequences.alphabet import RESIDUES, name_tokens, tokenise
from spotesm.weights.architectures import FAMILIES


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


def test_those_of_esm_c_are_called_as_transformers_calls_them() -> None:
    """Of its 64 places the tokeniser knows 33."""
    names = name_tokens(FAMILIES["esmc"].vocabulary)
    tokens = {token: place for place, token in enumerate(names[:33])}
    assert tokens == transformers.EsmcTokenizer().get_vocab()
    assert names[33:] == [f"<unused_{place}>" for place in range(33, 64)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_column_has_a_name_of_its_own(family: str) -> None:
    vocabulary = FAMILIES[family].vocabulary
    assert len(set(name_tokens(vocabulary))) == vocabulary
