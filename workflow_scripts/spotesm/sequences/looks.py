"""What a record looks like that is no protein in one-letter codes: seen before it is upper-cased.

Nearly all records are plain, so that what is certain of them is found out first, and cheaply.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# No code of three letters, no base, no sign of secondary structure: nearly all proteins have one.
SURELY_RESIDUES = b"FQ"
FIRST_SURE, SECOND_SURE = SURELY_RESIDUES  # `in` finds a number in a third of the time

_UNKNOWN = ord("X")
BASES = b"ACGTUN"
SEVERAL_BASES = b"RYSWKMBDHVX"  # the codes for several, few in real nucleotides
MOST_SEVERAL = 0.1
LEAST_BASES = 20  # shorter peptides may well have no other letters
LEAST_BASES_OF_CHAIN = 8
NUCLEIC_ACID = b"mol:na"  # in the headers of the PDB's sequences

WEB_PAGE = "a web page"
THREE_LETTERS = "three-letter codes; each residue needs its one letter"
STRUCTURE_LETTERS = "letters of structure between the residues, as SaProt has them; leave them out"
SECONDARY_STRUCTURE = "secondary structure, not residues"
WORDS = "words, not residues"

_TAG = re.compile(rb"<[A-Za-z!/?]")
_CODES = (
    b"ala arg asn asp cys gln glu gly his ile leu lys met phe pro ser thr trp tyr val "
    b"asx glx hyp mse pyl sec ter unk xaa xle"
).split()
_CODE_SET = frozenset(_CODES)
_BEGINS_WITH_CODE = re.compile(
    rb"[^A-Za-z]*(?:[A-Za-z]{1,4}[^A-Za-z]+)?(?:%s)" % b"|".join(_CODES), re.IGNORECASE
)
_ORF = re.compile(rb"\|frame[+-][1-3]\|\d+-\d+$")
_LETTERS = re.compile(rb"[A-Za-z]+")
LEAST_CODES = 0.8  # of all there is
LEAST_TITLED, LEAST_SEPARATED, LEAST_GLUED = 2, 3, 4
_ALTERNATING = re.compile(rb"(?:[A-Z#][a-z#]){2,}\*?")
# DSSP's eight states, and what stands for a loop.
_STATES = b"HBEGITSCPL- "
_LOOPS = bytes.maketrans(b"_.~", b"---")
_RUNS = tuple(map(re.compile, (rb"H{4,}", rb"E{3,}", rb"C{4,}", rb"[ -]{2,}|L{4,}")))
LEAST_STATES = 16
LEAST_IN_RUNS = 0.4
LONG_RUN = 11
_RARE, _LESS_RARE = frozenset(b"JO"), frozenset(b"BUZ")  # in words they are not
_BLOCKS = (1, 10)  # letters between blanks where a sequence is written in blocks
LEAST_BLOCKS = 4  # of any other size
LONGEST_WORD = 20
_ONE_WORD = re.compile(rb"^[ \t]*([A-Za-z][a-z]{2,%d})[.!]?[ \t]*$" % (LONGEST_WORD - 1), re.M)


class Look(NamedTuple):
    """What a record looks like.

    Attributes:
        what: a phrase.
        line: where one sees it, from 1 on; the first one is that after the header.
    """

    what: str
    line: int


def find_doubtful(sequences: Sequence[bytes]) -> list[int]:
    """Return which of some normal sequences, few of them, may be no proteins."""
    return [i for i, s in enumerate(sequences) if FIRST_SURE not in s and SECOND_SURE not in s]


def is_unknown(sequence: bytes) -> bool:
    """Whether nothing is known of any of its residues."""
    return sequence.count(_UNKNOWN) == len(sequence)


def is_like_nucleotides(sequence: bytes, least: int = LEAST_BASES) -> bool:
    """Whether a normalised sequence is made of the letters of DNA or RNA alone, and not short.

    Args:
        least: letters that it has; below `LEAST_BASES` none that stands for several bases.
    """
    if len(sequence) < least:
        return False
    others = sequence.translate(None, delete=BASES)
    most = MOST_SEVERAL * len(sequence) if len(sequence) >= LEAST_BASES else 0
    return len(others) <= most and not others.translate(None, delete=SEVERAL_BASES)


def is_nucleic_acid(sequence: bytes, description: bytes) -> bool:
    """Whether a normalised sequence may be a chain of DNA or RNA, however short."""
    if NUCLEIC_ACID in description:
        return not sequence.translate(None, delete=BASES + SEVERAL_BASES)
    return is_like_nucleotides(sequence, LEAST_BASES_OF_CHAIN)


def look_at_letters(name: bytes, letters: bytes) -> Look | None:
    """Return what a normal sequence looks like if it is none: codes, or secondary structure.

    A reading frame is one, whatever repeats it is of: `translate_contigs` wrote it.
    """
    if _ORF.search(name):
        return None
    if _is_three_letters(letters):
        return Look(THREE_LETTERS, 1)
    if _is_secondary_structure(name, letters):
        return Look(SECONDARY_STRUCTURE, 1)
    return None


def look_at(name: bytes, body: bytes) -> Look | None:
    """Return what a record looks like if it is no protein; None if it may be one.

    Args:
        name: its id.
        body: its lines, as they stand.
    """
    if b"<" in body and (tag := _TAG.search(body)):
        return Look(WEB_PAGE, _line_of(body, tag.start()))
    if _is_three_letters(body):
        return Look(THREE_LETTERS, 1)
    if _ALTERNATING.fullmatch(b"".join(body.split())):
        return Look(STRUCTURE_LETTERS, 1)
    if _is_secondary_structure(name, body.replace(b"\n", b"")):
        return Look(SECONDARY_STRUCTURE, 1)
    return next((Look(WORDS, line) for line in _lines_of_words(body)), None)


def _line_of(body: bytes, place: int) -> int:
    return body.count(b"\n", 0, place) + 1


def _is_three_letters(body: bytes) -> bool:
    """Whether codes such as Met or GLN stand there, with anything or nothing between them."""
    if not _BEGINS_WITH_CODE.match(body):
        return False
    words = _LETTERS.findall(body)
    codes = [word for word in words if word.lower() in _CODE_SET]
    if len(codes) >= LEAST_CODES * (len(words) - 2):  # the ends may have names, too: H-, -OH
        least = LEAST_TITLED if all(map(bytes.istitle, codes)) else LEAST_SEPARATED
        if len(codes) >= least:
            return True
    letters = b"".join(words)
    triplets = [letters[i : i + 3] for i in range(0, len(letters) - 2, 3)]
    codes = [triplet for triplet in triplets if triplet.lower() in _CODE_SET]
    if len(codes) < LEAST_CODES * len(triplets):
        return False
    if all(map(bytes.istitle, codes)):
        return len(codes) >= LEAST_TITLED
    return (
        len({code.lower() for code in codes}) >= LEAST_GLUED
    )  # repeats of ALA, or of SER, are residues


def _is_secondary_structure(name: bytes, text: bytes) -> bool:
    """Whether these are DSSP's eight states, or three, in runs as helices and strands are."""
    states = text.upper().translate(_LOOPS).rstrip(b"*")
    if states.translate(None, delete=_STATES):
        return False
    if name.lower().endswith(b":secstr"):
        return True
    if len(states) < LEAST_STATES:
        return False
    helices, strands, coils, gaps = ([len(run) for run in kind.findall(states)] for kind in _RUNS)
    runs = [*helices, *strands, *coils]
    # Runs of glutamate alone are in many proteins.
    if not (helices or coils or (strands and gaps and b"T" in states)):
        return False
    regular = len(runs) > 1 or max(runs) >= LONG_RUN
    return regular and sum(runs) + sum(gaps) >= LEAST_IN_RUNS * len(states)


def _lines_of_words(body: bytes) -> Iterator[int]:
    """Yield the numbers of the lines that are words: in blanks, or one that cannot be residues."""
    if b" " in body or b"\t" in body:
        for number, line in enumerate(body.split(b"\n"), start=1):
            if _is_sentence(line):
                yield number
    for word in _ONE_WORD.finditer(body):
        others = body[: word.start()] + body[word.end() :]
        if _cannot_be_residues(word[1]) and others.isupper():
            yield _line_of(body, word.start(1))


def _is_sentence(line: bytes) -> bool:
    words = [word for word in line.split() if not word.isdigit()]
    if len(words) < 2 or _are_blocks(words) or any(len(w) > LONGEST_WORD for w in words[1:]):
        return False
    return _cannot_be_residues(line) if line.isupper() else any(map(_has_word, words))


def _are_blocks(words: Sequence[bytes]) -> bool:
    """Whether all are of one size, but a shorter last one."""
    size, last = len(words[0]), len(words[-1])
    equal = all(len(word) == size for word in words[:-1]) and last <= size
    return equal and (size in _BLOCKS or len(words) >= LEAST_BLOCKS)


def _has_word(word: bytes) -> bool:
    return word.isalpha() and word[1:].islower() and len(word) > 1


def _cannot_be_residues(text: bytes) -> bool:
    letters = set(text.upper())
    return bool(letters & _RARE) or len(letters & _LESS_RARE) > 1 or text.upper() == b"NULL"
