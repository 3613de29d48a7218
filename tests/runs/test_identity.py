"""Is a finished result what is asked? The table of docs/between-runs.md, walked row by row."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from contextlib import chdir
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import pytest
from sequences import random_sequence, write_fasta
from snakemake_runs import REPOSITORY, link_weights, snakemake, write_config
from spotesm.base.failures import ConfigError, InputError
from spotesm.base.paths import DatasetPaths
from spotesm.machine.nvidia import describe_local
from spotesm.request.config import check_config
from spotesm.runs.asked import Asked, ask
from spotesm.runs.identity import (
    ABSENT,
    DONE,
    REFUSED,
    TO_DO,
    find_standing,
    is_finished,
    judge_results,
    restore_earlier,
)

TABLE = re.findall(
    r"^\| (.+) \| (done|computed|refused) \|$",
    (REPOSITORY / "docs/between-runs.md").read_text(),
    re.MULTILINE,
)
STATES = {"done": DONE, "computed": TO_DO, "refused": REFUSED}
WINDOW = {"policy": "window", "window": 30, "overlap": 5}


@pytest.fixture(scope="module")
def records() -> list[tuple[str, str]]:
    """Proteins of up to 50 residues, the first, middle and last longer than the window."""
    rng = random.Random(27)
    lengths = [50, *[rng.randint(3, 30) for _ in range(4)], 40, *[9] * 3, 31]
    return [(f"p{i}", random_sequence(rng, length)) for i, length in enumerate(lengths)]


CONFIG = {
    "datasets": {"d": "d.fasta"},
    "model": {"name": "esm2_t6_8M_UR50D", "weights": "untrained"},
    "outputs": ["mean", "bos"],
    "layers": [6, 3],
    "long_sequences": WINDOW,
    "shards": 1,
    "max_rejected": 0.5,
}


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    weights_manifest: Path,
    records: list[tuple[str, str]],
) -> Path:
    """A folder with a result of long and short proteins, one of which was rejected."""
    folder = tmp_path_factory.mktemp("finished")
    link_weights(folder, weights_manifest)
    write_fasta(folder / "d.fasta", [*records, ("bad", "MK*V")])
    write_fasta(folder / "short.fasta", [r for r in records if len(r[1]) <= 30])
    datasets = {"d": "d.fasta", "short": "short.fasta"}
    config = write_config(folder, **{**CONFIG, "datasets": datasets})
    run = snakemake(folder, "--cores", "2", "--configfile", str(config))
    assert run.returncode == 0, run.stdout
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test is."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def asked_of(name: str = "d", **keys: object) -> Asked:
    config = check_config({**CONFIG, "datasets": {name: f"{name}.fasta"}, **keys})
    return ask(config)[name]


def standing(name: str = "d", **keys: object) -> str:
    return find_standing(DatasetPaths.of(name), asked_of(name, **keys)).state


def with_fasta(change: Callable[[list[tuple[str, str]]], object]) -> Callable[..., str]:
    """Look after a change of the FASTA's records."""

    def look(records: list[tuple[str, str]]) -> str:
        changed = [*records, ("bad", "MK*V")]
        change(changed)
        write_fasta(Path("d.fasta"), changed)
        return standing()

    return look


def lose_memory(_: object) -> str:
    shutil.rmtree(".snakemake")
    for path in Path().rglob("*"):
        os.utime(path, (random.randrange(2**31),) * 2)
    return standing()


def move(_: object) -> str:
    os.rename("d.fasta", "e.fasta")
    return standing(datasets={"d": "e.fasta"})


def copy(_: object) -> str:
    shutil.copytree(".", "../elsewhere")
    with chdir("../elsewhere"):
        return standing()


def add_file(_: object) -> str:
    write_fasta(Path("more.fasta"), [("new", "MKV")])
    return standing(datasets={"d": ["more.fasta", "d.fasta"]})


def other_file(_: object) -> str:
    Path("other").mkdir()
    write_fasta(Path("other/d.fasta"), [("other", "MKV")])
    return standing(datasets={"d": "other/d.fasta"})


def edit(**attributes: object) -> Callable[[object], str]:
    """Look after a change of the file's attributes."""

    def look(_: object) -> str:
        with h5py.File("results/d/embeddings.h5", "r+") as file:
            settings = json.loads(file.attrs["fingerprint"])
            settings.update({k: v for k, v in attributes.items() if k in settings})
            file.attrs.update(attributes | {"fingerprint": json.dumps(settings)})
        return standing()

    return look


def on_another_device(_: object) -> str:
    here = asdict(describe_local("float32"))
    assert edit(rejected_on=json.dumps([here]))(_) == DONE
    return edit(rejected_on=json.dumps([here, {**here, "memory": here["memory"] - 1}]))(_)


def other_weights(_: object) -> str:
    one = find_standing(
        DatasetPaths.of("d"), replace(asked_of(), weights="pretrained", weights_sha256="")
    )
    other = find_standing(DatasetPaths.of("d"), replace(asked_of(), weights_sha256="f" * 64))
    assert "untrained; asked for is pretrained" in one.why[0]
    assert "whose files are others" in other.why[0]
    assert one.state == other.state
    return one.state


def remove(*names: str) -> Callable[[object], str]:
    def look(_: object) -> str:
        states = set()
        for name in names:
            shutil.move(f"results/d/{name}", "away")
            states.add(standing())
            shutil.move("away", f"results/d/{name}")
        (state,) = states
        return state

    return look


def cut_short(_: object) -> str:
    path = Path("results/d/embeddings.h5")
    path.write_bytes(path.read_bytes()[:-100])
    return standing()


def contigs(_: object) -> str:
    write_fasta(Path("d.fasta"), [("c", "ATGAAA" * 30)])
    return standing(datasets={"d": {"fasta": "d.fasta", "alphabet": "nucleotide"}})


def each(*changes: dict) -> Callable[[object], str]:
    """Look under several configs, which are all the same in this."""

    def look(_: object) -> str:
        (state,) = {standing(**change) for change in changes}
        return state

    return look


def policies(*names: str, dataset: str) -> Callable[[object], str]:
    def look(_: object) -> str:
        (state,) = {standing(dataset, long_sequences=policy(name)) for name in names}
        return state

    return look


def policy(name: str) -> dict:
    return {"policy": name} | ({} if name == "whole" else {"window": 30})


MODEL = CONFIG["model"]
WALK = {
    "nothing": each({}),
    "`.snakemake` is lost, all dates change": lose_memory,
    "the folder is copied, another host": copy,
    "a FASTA is moved or renamed": move,
    "`shards`": each({"shards": 7}),
    "fewer of its outputs or layers, the first one the same": each(
        {"outputs": ["mean"]}, {"layers": [6]}, {"layers": [-1], "outputs": "mean"}
    ),
    "`precision: auto` on another device": edit(precision="float16"),
    "the version of spotESM": edit(spotesm_version="0.0.1"),
    "records are added to a FASTA, at any place": with_fasta(
        lambda r: (r.insert(0, ("a", "MK")), r.insert(5, ("b", "MV")), r.append(("c", "MY")))
    ),
    "a FASTA is added": add_file,
    "records are in another order": with_fasta(lambda r: r.reverse()),
    "outputs or layers are added": each(
        {"outputs": ["mean", "bos", "residues"]}, {"layers": [6, 3, 0]}, {"layers": [0, 3, 6]}
    ),
    "outputs or layers in another order": each({"outputs": ["bos", "mean"]}, {"layers": [3, 6]}),
    "`compression`": each({"compression": "gzip"}, {"compression": "lzf"}),
    "`out_of_memory: smaller_windows`": each(
        {"long_sequences": {**WINDOW, "out_of_memory": "smaller_windows"}}
    ),
    "`policy`, where no sequence is longer than both windows": policies(
        "truncate", "whole", "reject", dataset="short"
    ),
    "rejected records, and `max_rejected` is lower": each({"max_rejected": 0.01}),
    "records were rejected for a device's sake, and this is another one": on_another_device,
    "`summary.json` or `rejected.tsv` is missing": remove("summary.json", "rejected.tsv"),
    "`embeddings.h5` is cut short": cut_short,
    "a record is missing": with_fasta(lambda r: r.pop(0)),
    "a sequence is another": with_fasta(lambda r: r.__setitem__(5, (r[5][0], "MKV"))),
    "an id is another": with_fasta(lambda r: r.__setitem__(9, ("q", r[9][1]))),
    "another file of the same name": other_file,
    "outputs or layers without those that are there": each(
        {"outputs": ["residues"]},
        {"layers": [0]},
        {"layers": [6, 0]},
        {"outputs": ["mean", "logits"]},
    ),
    "the model": each({"model": {**MODEL, "name": "esm2_t12_35M_UR50D"}}),
    "the weights, or files of that name are others": other_weights,
    "`engine`": each({"model": {**MODEL, "engine": "reference"}}),
    "`precision`": each({"precision": "bfloat16"}),
    "`store_dtype`": each({"store_dtype": "float16"}),
    "`policy`, `window` or `overlap`, where sequences are longer": each(
        *(
            {"long_sequences": {**WINDOW, key: value}}
            for key, value in (("window", 29), ("overlap", 6))
        ),
        *({"long_sequences": policy(name)} for name in ("truncate", "whole", "reject")),
    ),
    "contigs in place of proteins": contigs,
}


def test_every_row_is_walked() -> None:
    assert [row for row, _ in TABLE] == list(WALK)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("row", "outcome"), TABLE, ids=[row for row, _ in TABLE])
def test_what_a_change_does(row: str, outcome: str, records: list[tuple[str, str]]) -> None:
    assert WALK[row](records) == STATES[outcome]


@pytest.mark.usefixtures("folder")
def test_bytes_that_were_appended_need_no_reading(
    records: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that has grown is known by its first bytes; one whose last record has grown is not."""
    monkeypatch.setattr("spotesm.runs.identity.holds_all", lambda *_: False)
    with open("d.fasta", "a") as file:
        file.write(">new\nMKV\n")
    assert standing() == TO_DO
    write_fasta(Path("d.fasta"), [*records, ("bad", "MK*V")])
    with open("d.fasta", "a") as file:
        file.write("MKV\n>new\nMKV\n")
    assert standing() == REFUSED


@pytest.mark.usefixtures("folder")
def test_what_is_none_of_ours_is_named() -> None:
    with h5py.File("results/d/embeddings.h5", "w") as file:
        file["mine"] = [1]
    with pytest.raises(InputError, match=r"results/d/embeddings\.h5: not a file of spotESM"):
        standing()


@pytest.mark.usefixtures("folder")
def test_no_file_is_no_result() -> None:
    os.remove("results/d/embeddings.h5")
    assert standing() == ABSENT


@pytest.mark.usefixtures("folder")
def test_one_refusal_names_all() -> None:
    names = ("d", "short")
    asked = {name: asked_of(name, precision="bfloat16") for name in names}
    with pytest.raises(ConfigError, match=r"results/d/embeddings.h5.*--name.*\(so do short\)"):
        judge_results(asked, replace=False)
    assert {s.state for s in judge_results(asked, replace=True).values()} == {REFUSED}


@pytest.mark.usefixtures("folder")
def test_finished_is_what_was_asked_last() -> None:
    paths = DatasetPaths.of("d")
    assert is_finished(paths)
    asked_of(precision="bfloat16").write(paths.asked)
    assert not is_finished(paths)
    paths.asked.write_text("[]")
    assert not is_finished(paths)


@pytest.mark.usefixtures("folder")
def test_a_second_name_is_given_back_or_dropped() -> None:
    paths = DatasetPaths.of("d")
    content = paths.embeddings.read_bytes()
    os.link(paths.embeddings, paths.earlier)
    restore_earlier(paths)
    assert not paths.earlier.exists()
    os.rename(paths.embeddings, paths.earlier)
    restore_earlier(paths)
    assert paths.embeddings.read_bytes() == content
    assert not paths.earlier.exists()
