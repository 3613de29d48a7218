"""What a config may say: wrong ones end with one line that names the key."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from spotesm.base.failures import ConfigError
from spotesm.request import config
from spotesm.request.config import (
    Dataset,
    check_config,
    checkpoint_thresholds,
    own_files,
    refuse_repeated_keys,
)
from spotesm.request.request import Request

SMALL = {"name": "esm2_t6_8M_UR50D", "weights": "untrained"}


def check(**keys: object) -> dict:
    return check_config({"datasets": {"a": "in.fasta"}, "model": SMALL, **keys})


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"shrads": 4}, "top level: 'shrads' is no key there; did you mean 'shards'?"),
        ({"zzz": 4}, "top level: 'zzz' is no key there; it may have datasets, shards, "),
        ({"shards": 0}, "shards: 0 is less than the minimum of 1"),
        ({"shards": 2.0}, "shards: 2.0 is not of type 'integer'"),
        ({"shards": True}, "shards: True is not of type 'integer'"),
        ({"shards": "many"}, "shards: 'many' is neither a number nor 'auto'"),
        ({"model": {"name": "esm3"}}, "model: name: 'esm3' is not one of"),
        (
            {"model": {"name": "esm2_t6_8M_UR50"}},
            "did you mean 'esm2_t6_8M_UR50D'?",
        ),
        ({"model": {"name": "esm2_t6_8M_UR50D", "weight": "x"}}, "did you mean 'weights'?"),
        ({"checkpoint": {"preset": "fast"}}, "checkpoint: preset: 'fast' is not one of"),
        ({"checkpoint": {"sequences": 0}}, "checkpoint: sequences: 0 is less than"),
        ({"checkpoint": {"every": 5}}, "checkpoint: 'every' is no key there; it may have enabled"),
        ({"long_sequences": {"overlap": 1022}}, "long_sequences: overlap: must be smaller"),
        ({"long_sequences": {"window": 3}}, "long_sequences: window: 3 is less than"),
        ({"outputs": ["means"]}, "outputs: 0: 'means' is not one of"),
        ({"outputs": "means"}, "outputs: 0: 'means' is not one of"),
        ({"outputs": ["mean", "mean"]}, "outputs: ['mean', 'mean'] has non-unique elements"),
        ({"layers": [0, 7]}, "layers: 7: esm2_t6_8M_UR50D has layers 0 to 6"),
        (
            {"layers": [-8]},
            "or counted from the end, -1 to -7",
        ),
        ({"layers": [-1.0]}, "layers: 0: -1.0 is not of type 'integer'"),
        ({"layers": True}, "layers: True is not of type 'array'"),
        ({"model": {"name": "esm1v_t33_650M_UR90S_1"}}, "needs `engine: reference`"),
        ({"model": {"name": "esmc_600m", "engine": "reference"}}, "needs `engine: packed`"),
        (
            {"model": {"name": "esmc_600m"}, "outputs": ["mean", "contacts"]},
            "outputs: contacts: esmc_600m has no contact regression",
        ),
        (
            {"model": {"name": "esmc_300m"}, "layers": [31]},
            "layers: 31: esmc_300m has layers 0 to 30",
        ),
        (
            {
                "model": {"name": "esm1b_t33_650M_UR50S", "engine": "reference"},
                "long_sequences": {"policy": "whole"},
            },
            "esm1b_t33_650M_UR50S sees at most 1022 residues",
        ),
        (
            {"model": {**SMALL, "weights": "untrained", "adapter": "x"}},
            "model: adapter: was trained on other weights than untrained ones",
        ),
        ({"datasets": {"x": {"fasta": "x", "code": 1}}}, "datasets: x: 'code' is no key there"),
        ({"datasets": {"../x": "in.fasta"}}, "datasets: '../x' cannot be a name"),
        (
            {"datasets": {True: "in.fasta"}},
            "names as True; put it in quotes",
        ),
        ({"datasets": {None: "in.fasta"}}, "YAML reads one of the names as None"),
        ({"datasets": {562: "a.fasta", "562": "b.fasta"}}, "datasets: 562 is there twice"),
        (
            {"datasets": {"b": "a", "562": "a.fasta", 562: "a.fasta"}},
            "datasets: 562 is there twice",
        ),
        ({"datasets": {1.5: "in.fasta"}}, "YAML reads one of the names as 1.5"),
        ({"datasets": {"A": "x", "a": "y"}}, "datasets: A and a would share a folder"),
        ({"datasets": {}}, "datasets: is missing"),
        ({"datasets": None}, "datasets: is missing"),
        ({"datasets": {"a": "$NO_SUCH_VARIABLE/x"}}, "$NO_SUCH_VARIABLE is not set"),
        ({"datasets": {"a": ["x", "${NO_SUCH_VARIABLE}"]}}, "${NO_SUCH_VARIABLE} is not set"),
        ({"datasets": {"a": "~nobody-of-this-name/x"}}, "there is no such user"),
        ({"datasets": {"a": "x {dataset}.fasta"}}, "datasets: a: 'x {dataset}.fasta': Snakemake"),
        ({"report": {"labels": "l}.tsv"}}, "report: labels: 'l}.tsv': Snakemake takes braces"),
        ({"model": {**SMALL, "weights": "{x}.pt"}}, "model: weights: '{x}.pt': Snakemake"),
        # What has no effect:
        ({"datasets": {"a": {"fasta": "x", "genetic_code": 11}}}, "genetic_code: has no effect on"),
        (
            {"datasets": {"a": {"fasta": "x", "alphabet": "protein", "min_orf": 9}}},
            "datasets: a: min_orf: has no effect on proteins",
        ),
        (
            {"datasets": {"a": {"fasta": "x", "alphabet": "nucleotide", "genetic_code": 99}}},
            "datasets: a: genetic_code: 99: NCBI's numbers are 1, 2, 3",
        ),
        (
            {"long_sequences": {"policy": "truncate", "overlap": 256}},
            "long_sequences: overlap: has no effect with this policy",
        ),
        (
            {"long_sequences": {"policy": "whole", "window": 1022}},
            "long_sequences: window: has no effect with policy: whole",
        ),
        ({"outputs": "logits", "layers": -1}, "layers: has no effect with outputs that have no"),
        (
            {"checkpoint": {"enabled": False, "preset": "viral"}},
            "checkpoint: preset: has no effect with enabled: false",
        ),
        (
            {"checkpoint": {"enabled": False, "keep_parts": True}},
            "checkpoint: keep_parts: has no effect with enabled: false",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(keys: dict, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(**keys)
    assert str(caught.value).startswith("config: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "path", "read"),
    [
        ({"layers": ["0", "3", "-1"]}, ("layers",), [0, 3, -1]),
        ({"checkpoint": {"force_restart": "true"}}, ("checkpoint", "force_restart"), True),
        ({"checkpoint": {"keep_parts": "False"}}, ("checkpoint", "keep_parts"), False),
        ({"checkpoint": {"seconds": "1.5"}}, ("checkpoint", "seconds"), 1.5),
        ({"long_sequences": {"window": "300"}}, ("long_sequences", "window"), 300),
        (
            {"datasets": {"a": {"fasta": "1", "alphabet": "nucleotide", "min_orf": "9"}}},
            ("datasets", "a"),
            {"fasta": "1", "alphabet": "nucleotide", "min_orf": 9},
        ),
    ],
)
def test_numbers_may_be_given_as_text(keys: dict, path: tuple[str, ...], read: object) -> None:
    """Snakemake reads all scalars as text inside of a list or mapping of --config."""
    found: object = check(**keys)
    for step in path:
        found = found[step]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize("text", ["2.0", "many", "[", "", "true", "1, 2"])
def test_text_that_is_no_such_number(text: str) -> None:
    for path in (("long_sequences", "overlap"), ("checkpoint", "bytes")):
        with pytest.raises(ConfigError, match=rf"{': '.join(path)}: .* is not of type 'integer'"):
            check(**{path[0]: {path[1]: text}})
    said = r"window: .* is (not of type 'integer'|neither a number nor 'auto')"
    with pytest.raises(ConfigError, match=f"long_sequences: {said}"):
        check(long_sequences={"window": text})


@pytest.mark.parametrize(
    ("name", "window"), [("esm2_t6_8M_UR50D", 1022), ("esmc_300m", 2046), ("esmc_6b", 2046)]
)
def test_a_window_is_what_the_model_was_trained_on(name: str, window: int) -> None:
    model = {"name": name, "weights": "untrained"}
    for given in ({}, {"long_sequences": {"window": "auto"}}):
        config = check(model=model, **given)
        assert Request.of_config(config).long_sequences.window == window
    config = check(model=model, long_sequences={"window": 300})
    assert Request.of_config(config).long_sequences.window == 300


def test_one_value_is_taken_for_a_list_of_one() -> None:
    config = check(outputs="bos", layers=3)
    assert (config["outputs"], config["layers"]) == (["bos"], [3])


def test_an_overlap_without_effect_stands_in_no_ones_way() -> None:
    for policy in ("truncate", "reject"):
        assert check(long_sequences={"policy": policy, "window": 60})
    with pytest.raises(ConfigError, match="overlap: must be smaller"):
        check(long_sequences={"window": 60})


def test_one_path_is_a_dataset_of_its_name() -> None:
    assert check(datasets="data/my proteins.v2.fasta.gz")["datasets"] == {
        "my-proteins-v2": "data/my proteins.v2.fasta.gz"
    }


def test_a_number_is_a_name() -> None:
    assert check(datasets={9606: "human.fasta"})["datasets"] == {"9606": "human.fasta"}


def test_paths_are_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    config = check(
        datasets={"a": ["~/a.fasta", "$DATA/b.fasta"], "b": {"fasta": "${DATA}/c"}, "c": "c$"},
        model={**SMALL, "weights": "~/w.pt"},
        report={"labels": "$DATA/l.tsv"},
        checkpoint={"dir": "~/scratch"},
    )
    assert config["datasets"] == {
        "a": ["/home/me/a.fasta", "/data/b.fasta"],
        "b": {"fasta": "/data/c"},
        "c": "c$",
    }
    assert config["model"]["weights"] == "/home/me/w.pt"
    assert config["report"]["labels"] == "/data/l.tsv"
    assert config["checkpoint"]["dir"] == "/home/me/scratch"


def test_what_was_given_is_left_as_it_was() -> None:
    given = {"datasets": {9606: "~/x"}, "outputs": "mean"}
    check_config(given)
    assert given == {"datasets": {9606: "~/x"}, "outputs": "mean"}


@pytest.mark.parametrize(
    ("text", "line", "name"),
    [
        ("shards: 2\nlayers: [1]\nshards: 2\n", 3, "shards"),
        ("datasets:\n  x: a\n  x: b\n", 3, "x"),
        ("datasets: {x: {fasta: [a, b], fasta: c}}\n", 1, "fasta"),
        ("a:\n- b: 1\n  b: 2\n", 3, "b"),
        ("1: x\n1: y\n", 2, "1"),
    ],
)
def test_a_key_given_twice_is_refused(tmp_path: Path, text: str, line: int, name: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"my.yaml, line {line}: '?{name}'? is given twice"):
        refuse_repeated_keys(path)


def test_keys_of_different_places_are_no_repetition(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("a: {x: 1}\nb: {x: 1}\nbase: &base {x: 1}\nc: {<<: *base, y: 2}\n")
    refuse_repeated_keys(path)


def test_datasets_have_their_settings() -> None:
    config = check(
        datasets={
            "one": "x",
            "two": {"fasta": ["y", "z"], "alphabet": "nucleotide", "min_orf": 9},
        }
    )
    assert Dataset.of_config(config, "one") == Dataset(("x",), None, 1, 30)
    assert Dataset.of_config(config, "two") == Dataset(("y", "z"), "nucleotide", 1, 9)
    assert [Dataset.of_config(config, name).is_nucleotide for name in ("one", "two")] == [
        False,
        True,
    ]


def test_presets_are_overridden_key_by_key() -> None:
    assert checkpoint_thresholds(check(checkpoint={"preset": "viral", "bytes": 7})) == {
        "sequences": 5_000,
        "seconds": 180,
        "bytes": 7,
    }


def test_own_files_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for keys, where in (
        ({"model": {**SMALL, "weights": str(path)}}, "model: weights"),
        ({"report": {"labels": str(path)}}, "report: labels"),
    ):
        with pytest.raises(ConfigError, match=f"config: {where}: no such file.*: {path}"):
            own_files(check(**keys))
    path.touch()
    with pytest.raises(ConfigError, match=r"config: model: weights: .*w\.pt: an empty file"):
        own_files(check(model={**SMALL, "weights": str(path)}))
    torch.save({}, path)
    assert own_files(check(model={**SMALL, "weights": str(path)}))["weights"] == [str(path)]


@pytest.mark.parametrize("named", ["config.json", "adapter_config.json"])
def test_weights_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path / named))

    key = "adapter" if "adapter" in named else "weights"
    monkeypatch.setattr(config, f"find_{key.replace('weights', 'model')}", refuse)
    model = {**SMALL, "weights": "hf:lab/model", key: str(tmp_path)}
    with pytest.raises(ConfigError, match=f"model: {key}: {tmp_path / named}: Permission denied$"):
        own_files(check(model=model))


def test_an_adapter_beside_a_model_is_named_before_any_job(tmp_path: Path) -> None:
    for name in ("config.json", "adapter_config.json"):
        (tmp_path / name).write_text("{}")
    for name in ("model.safetensors", "adapter_model.safetensors"):
        save_file({"x": torch.ones(1)}, tmp_path / name)
    model = {**SMALL, "weights": str(tmp_path)}
    with pytest.raises(ConfigError, match="holds an adapter beside the model"):
        own_files(check(model=model))
    assert len(own_files(check(model={**model, "adapter": str(tmp_path)}))["weights"]) == 4


def test_the_demo_config_has_nothing_without_effect() -> None:
    check_config(yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text()))
