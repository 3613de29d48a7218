"""Which earlier files a config names."""

from pathlib import Path

import pytest
from spotesm.base.failures import ConfigError
from spotesm.request.reuse import find_reused


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
