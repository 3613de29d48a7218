"""Is a finished result what is asked? The table of docs/between-runs.md, walked row by row."""

import errno
import gzip
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack, chdir
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import pytest
from sequences import random_sequence, write_fasta
from snakemake_runs import REPOSITORY, link_weights, snakemake, write_config
from spotesm.base.durable import replacing
from spotesm.base.failures import ConfigError, InputError, WeightsError
from spotesm.base.paths import DatasetPaths
from spotesm.machine.nvidia import describe_local
from spotesm.request.config import Dataset, check_config
from spotesm.request.fasta_files import find_fasta
from spotesm.runs.asked import Asked, ask
from spotesm.runs.identity import (
    ABSENT,
    DONE,
    REFUSED,
    TO_DO,
    check_same_weights,
    check_unchanged,
    find_standing,
    is_finished,
    judge_results,
    restore_earlier,
)
from spotesm.runs.occupancy import DatasetBusyError, occupy

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
    return ask(config, {name: find_fasta(Dataset.of_config(config, name).fasta, name)})[name]


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
def test_weights_that_are_first_seen_late_are_compared_all_the_same() -> None:
    """With each file that is to hold more, but for those that hold nothing whole."""
    manifest = Path("manifest.json")
    results = [Path(f"results/{name}/embeddings.h5") for name in ("d", "short")]
    with h5py.File(results[0]) as file:
        manifest.write_text(json.dumps({"sha256": file.attrs["weights_sha256"]}))
    check_same_weights(manifest, results)
    manifest.write_text(json.dumps({"sha256": "f" * 64}))
    with pytest.raises(WeightsError, match=r"results/d/embeddings\.h5 .*other weights \(untrained"):
        check_same_weights(manifest, results)
    results[0].write_bytes(results[0].read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"results/short/embeddings\.h5"):
        check_same_weights(manifest, results)
    check_same_weights(manifest, results[:1])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("place", [0, 4, -1])
def test_one_long_sequence_is_enough(place: int) -> None:
    """Wherever it is among short ones."""
    with h5py.File("results/d/embeddings.h5", "r+") as file:
        file["lengths"][:] = 9
    assert standing(long_sequences=policy("truncate")) == TO_DO
    with h5py.File("results/d/embeddings.h5", "r+") as file:
        lengths = file["lengths"][:]
        lengths[place] = 50
        file["lengths"][:] = lengths
    assert standing(long_sequences=policy("truncate")) == REFUSED


@pytest.mark.usefixtures("folder")
def test_no_file_is_no_result() -> None:
    os.remove("results/d/embeddings.h5")
    assert standing() == ABSENT


@pytest.mark.usefixtures("folder")
def test_one_refusal_names_all() -> None:
    names = ("d", "short")
    asked = {name: asked_of(name, precision="bfloat16") for name in names}
    with pytest.raises(ConfigError, match=r"results/d/embeddings.h5.*--name.*\(so do short\)"):
        judge_results(asked, may_replace=False)
    assert {s.state for s in judge_results(asked, may_replace=True).values()} == {REFUSED}


@pytest.mark.usefixtures("folder")
def test_finished_is_what_was_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = DatasetPaths.of("d")
    assert is_finished(paths)
    with open("d.fasta", "a") as file:
        file.write(">new\nMKV\n")
    asked_of().write(paths.asked)
    monkeypatch.setattr("spotesm.runs.identity.holds_all", None)  # too long for every look
    assert not is_finished(paths)
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


@pytest.mark.usefixtures("folder")
def test_a_run_that_lives_keeps_the_second_name() -> None:
    """Whoever only looks (`plan`, `--dry-run`, `snakemake -n`) must not take it away."""
    paths = DatasetPaths.of("d")
    os.link(paths.embeddings, paths.earlier)
    asked = {"d": asked_of()}
    with ExitStack() as run:
        occupy(run, ["d"])
        judge_results(asked, may_replace=False)
        assert paths.earlier.exists()
        os.remove(paths.embeddings)
        assert judge_results(asked, may_replace=False)["d"].state == ABSENT
        assert paths.earlier.exists()
    assert judge_results(asked, may_replace=False)["d"].state == DONE
    assert not paths.earlier.exists()


@pytest.mark.usefixtures("folder")
def test_what_another_run_has_written_meanwhile_is_not_replaced() -> None:
    paths, asked = DatasetPaths.of("d"), {"d": asked_of()}
    content = paths.embeddings.read_bytes()
    standings = judge_results(asked, may_replace=False)
    check_unchanged(standings)
    with replacing(paths.embeddings) as temporary:
        temporary.write_bytes(content)
    with pytest.raises(DatasetBusyError, match="another run has written it meanwhile"):
        check_unchanged(standings)
    os.remove(paths.embeddings)
    standings = judge_results(asked, may_replace=False)
    check_unchanged(standings)
    paths.embeddings.write_bytes(content)
    with pytest.raises(DatasetBusyError):
        check_unchanged(standings)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "access is denied"),
        (errno.EIO, "the disk does not answer"),
        (errno.ESTALE, "the file server has forgotten a file"),
        (errno.EAGAIN, "another process uses it"),
    ],
)
def test_what_cannot_be_read_is_not_damaged(
    monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    """Nobody knows what it holds, so it is not replaced, whatever may be."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr("h5py.File", fail)
    with pytest.raises(InputError, match=f"^results/d/embeddings.h5: {said}"):
        standing()


@pytest.mark.usefixtures("folder")
def test_a_fault_of_what_it_is_compared_with_is_no_damage(
    records: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk while records are compared; an input that is cut short."""
    write_fasta(Path("d.fasta"), records[1:])

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("spotesm.sequences.containment.TemporaryFile", full)
        with pytest.raises(InputError, match="the disk is full"):
            standing()
    assert standing() == REFUSED
    Path("d.fasta").write_bytes(gzip.compress(Path("d.fasta").read_bytes())[:-9])
    with pytest.raises(InputError, match=r"d\.fasta"):
        standing()


@pytest.mark.usefixtures("folder")
def test_the_format_of_another_version_is_not_replaced() -> None:
    with h5py.File("results/d/embeddings.h5", "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(InputError, match="format 1, but of 99"):
        standing()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"n_records": 1}', "\0\0", "half"])
def test_a_damaged_summary_is_written_again(damage: str) -> None:
    path = DatasetPaths.of("d").summary
    assert standing() == DONE
    text = path.read_text()
    path.write_text(damage if damage != "half" else text[: len(text) // 2])
    assert standing() == TO_DO
    for name in ("n_embedded", "n_records", "n_residues", "seconds", "n_sequences"):
        path.write_text(json.dumps({**json.loads(text), name: None}))
        assert standing() == TO_DO, name


@pytest.mark.usefixtures("folder")
def test_a_note_of_what_was_asked_may_be_damaged() -> None:
    """Of each key, something of another type."""
    path = DatasetPaths.of("d").asked
    content = json.loads(path.read_text())
    assert Asked.read(path) is not None
    for name in content:
        for other in (5, None, [], {}, "x", [5]):
            if type(other) is not type(content[name]) and (name, other) != ("max_rejected", 5):
                path.write_text(json.dumps({**content, name: other}))
                if (name, other) != ("compression", "x"):
                    assert Asked.read(path) is None, (name, other)
                is_finished(DatasetPaths.of("d"))
