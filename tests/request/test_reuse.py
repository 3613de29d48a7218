"""Which earlier files a config names."""

from pathlib import Path

import numpy as np
import pytest
from shards import make_request
from spotesm.base.failures import ConfigError
from spotesm.request.results import Ragged, Results
from spotesm.request.reuse import find_difference, find_reused, find_sound
from spotesm.sequences.digests import digests_of
from spotesm.sequences.long_sequences import LongSequences


@pytest.mark.parametrize(
    ("reuse", "line"),
    [
        (["no.h5"], "reuse: no.h5: no such file, and no dataset of that name"),
        (["old.h5", "no.h5"], "reuse: no.h5: no such file, and no dataset of that name"),
        (["d", "old.h5", "d"], "reuse: d is named twice"),
        (["old.h5", "results"], "reuse: results: is a folder"),
        (["../kept"], "reuse: ../kept: no such file, and no dataset of that name"),
    ],
)
def test_a_wrong_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reuse: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("results", "kept"):
        (tmp_path / folder).mkdir()
    (tmp_path / "kept/embeddings.h5").touch()  # in `results`, were a path taken for a name
    (tmp_path / "old.h5").touch()
    with pytest.raises(ConfigError, match=f"^config: {line}"):
        find_reused({"reuse": reuse, "datasets": {"d": "in.fasta"}})


def test_datasets_take_from_files_and_from_those_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    earlier = tmp_path / "results/earlier/embeddings.h5"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    (tmp_path / "old.h5").touch()
    config = {"reuse": ["old.h5", "a", "earlier", "b"], "datasets": dict.fromkeys("abc", "x")}
    a, b, past = (f"results/{name}/embeddings.h5" for name in ("a", "b", "earlier"))
    assert find_reused(config) == {
        "a": ["old.h5"],
        "b": ["old.h5", a, past],
        "c": ["old.h5", a, past, b],
    }


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("windows", "residues", "contacts", "sound"),
    [
        (1, 10, 100, True),
        (1, 9, 100, False),
        (1, 10, 99, False),
        (2, 10, 72, True),  # of smaller windows, nobody knows the size
        (2, 9, 72, False),
        (2, 10, 0, False),
        (0, 10, 100, False),
    ],
)
def test_as_many_values_as_a_sequence_should_have(
    windows: int, residues: int, contacts: int, sound: bool, place: int
) -> None:
    """Of one of three sequences of ten residues, which may have been cut into smaller windows."""
    request = make_request(
        outputs=("residues", "contacts"),
        layers=(6,),
        long_sequences=LongSequences("window", 100, 20, "smaller_windows"),
    )

    def one_of_three(usual: int, own: int) -> np.ndarray:
        return np.array([own if i == place else usual for i in range(3)])

    sizes = one_of_three(10, residues), one_of_three(100, contacts)
    results = Results(
        digests_of([b"A", b"C", b"D"]),
        [None] * 3,
        one_of_three(1, windows).astype(np.int32),
        {},
        {
            "residues/6": Ragged.of_sizes(np.zeros((sizes[0].sum(), 4), np.float32), sizes[0]),
            "contacts/values": Ragged.of_sizes(np.zeros(sizes[1].sum(), np.float32), sizes[1]),
        },
    )
    found = find_sound(results, np.full(3, 10), request, request.long_sequences)
    assert found.tolist() == one_of_three(True, sound).tolist()


@pytest.mark.parametrize("silent", ["outputs", "layers", "store_dtype"])
def test_what_does_not_say_what_it_holds_serves_nobody(silent: str) -> None:
    ours = {"outputs": ["mean"], "layers": [6], "store_dtype": "float32", "model": "m"}
    theirs = {name: value for name, value in ours.items() if name != silent}
    assert find_difference(theirs, ours) == "does not say what it holds"
