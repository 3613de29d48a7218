"""What is asked for: the same in config, param, fingerprint and files; and what documents say."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from shards import make_request
from spotesm.request.config import CHECKPOINT_PRESETS, Dataset, check_config
from spotesm.request.request import Request
from spotesm.sequences.long_sequences import LongSequences

REPOSITORY = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((REPOSITORY / "rules/config.schema.yaml").read_text())
# Keys of the config that change nothing about the numbers of a sequence.
NOT_ASKED = {
    *(
        "datasets",
        "shards",
        "keep_shards",
        "replace",
        "reuse",
        "compression",
        "max_rejected",
        "report",
        "checkpoint",
    ),
}


def test_a_request_is_the_same_after_every_conversion() -> None:
    request = make_request(outputs=("bos", "mean"), layers=(3, -1))
    assert Request.of_param(request.as_param()) == request
    assert Request.of_param(json.loads(json.dumps(request.as_param()))) == request
    attributes = {
        name: json.dumps(value) if isinstance(value, dict) else value
        for name, value in request.fingerprint("0").items()
    }
    assert Request.of_attributes(attributes) == request


def test_the_fields_are_the_settings_of_the_schema() -> None:
    properties = SCHEMA["properties"]
    settings = {*(properties.keys() - NOT_ASKED - {"model"}), "model", "engine"}
    assert {field.name for field in fields(Request)} == settings
    of_weights = {"weights", "adapter", "prepared"}  # known by their sha256, or without effect
    assert properties["model"]["properties"].keys() == {"name", "engine", *of_weights}
    long = properties["long_sequences"]["properties"]
    assert {field.name for field in fields(LongSequences)} == long.keys()


def test_resolving_counts_layers_from_the_front() -> None:
    request = make_request(layers=(0, -1, 3, -4)).resolve("float16")
    assert (request.layers, request.precision) == ((0, 6, 3), "float16")


# -- documents -------------------------------------------------------------------------------------


def defaults(schema: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    found = {}
    for name, rule in schema["properties"].items():
        if "properties" in rule:
            found |= defaults(rule, (*path, name))
        else:
            found[(*path, name)] = rule.get("default", "")
    return found


def test_readme_has_every_key_and_its_default() -> None:
    table = (REPOSITORY / "README.md").read_text().partition("| key | default | meaning |")[2]
    documented = {}
    for keys, default in re.findall(r"^\| (`.*?`) \| (.*?) ?\|", table.partition("\n\n")[0], re.M):
        first, *others = [key.strip("`") for key in keys.split(", ")]
        path = tuple(first.split(": "))
        for key in (path, *((*path[:-1], other) for other in others)):
            documented[key] = yaml.safe_load(default.strip("`") or '""')
    assert documented.pop(("datasets",)) == ""
    for path, default in defaults(SCHEMA).items():
        assert path[0] == "datasets" or documented.get(path) == default, path


def test_defaults_of_the_demo_config_are_those_of_the_schema() -> None:
    text = (REPOSITORY / "config.yaml").read_text()
    for name, value in re.findall(r"(\w+) \(default(?: (\S+?))?\)", text):
        assert value in ("", str(defaults(SCHEMA).get((name,), value)))
    config = yaml.safe_load(text)
    for key in ("outputs", "layers", "precision", "max_rejected"):
        assert config[key] == SCHEMA["properties"][key]["default"]
    assert config["checkpoint"]["preset"] == "default"


@pytest.mark.parametrize("document", ["README.md", "config.yaml", "rules/config.schema.yaml"])
def test_presets_are_told_as_they_are(document: str) -> None:
    text = " ".join((REPOSITORY / document).read_text().replace("#", " ").split())
    preset, viral = CHECKPOINT_PRESETS["default"], CHECKPOINT_PRESETS["viral"]
    assert preset["bytes"] == viral["bytes"] == 1 << 30
    for values in (preset, viral):
        pattern = rf"{values['sequences']:,}( sequences)?, {values['seconds']} s or 1 GiB"
        assert re.search(pattern, text), (document, pattern)


def test_defaults_of_nucleotide_input_are_told_as_they_are() -> None:
    rules = SCHEMA["properties"]["datasets"]["additionalProperties"]["properties"]
    for name in ("genetic_code", "min_orf"):
        assert f"{getattr(Dataset(()), name)} if left out" in rules[name]["description"]
    readme = (REPOSITORY / "README.md").read_text()
    assert "NCBI's number; 1 if left out" in readme


def test_an_empty_config_gets_every_default() -> None:
    config = check_config({"datasets": "x.fasta"})
    for path, default in defaults(SCHEMA).items():
        value = config
        for step in path:
            value = value.get(step, "") if isinstance(value, dict) else value
        if path == ("long_sequences", "window"):
            default = 1022  # what `auto` is for the default model
        if path[0] != "datasets":
            assert value == default, path
