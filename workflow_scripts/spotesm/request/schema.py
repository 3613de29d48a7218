"""The config against its schema: defaults, types, and keys that nearly are some."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from difflib import get_close_matches

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError, best_match

from spotesm.base.failures import ConfigError
from spotesm.base.paths import SCHEMA


def check_schema(config: dict) -> None:
    """Check a config against its schema, and fill in the defaults.

    Raises:
        ConfigError: it is not what the schema says; names the key.
    """
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    errors = list(_filling_validator()(schema).iter_errors(config))
    if errors:
        raise ConfigError(_describe(best_match(errors)))


def _filling_validator() -> type[Draft202012Validator]:
    """Return a validator that fills in defaults, as jsonschema's documentation shows.

    It also takes numbers and truth values that are given as text, as Snakemake gives what lies
    inside of a list or mapping of --config.
    """
    checks = Draft202012Validator.VALIDATORS

    def fill(
        validator: Draft202012Validator, properties: dict, instance: object, schema: dict
    ) -> Iterator[ValidationError]:
        if isinstance(instance, dict):
            for name, rule in properties.items():
                if name in instance:
                    instance[name] = _read_text(instance[name], rule)
                elif "default" in rule:
                    instance[name] = deepcopy(rule["default"])
        yield from checks["properties"](validator, properties, instance, schema)

    def read_items(
        validator: Draft202012Validator, items: dict, instance: object, schema: dict
    ) -> Iterator[ValidationError]:
        if isinstance(instance, list):
            instance[:] = [_read_text(value, items) for value in instance]
        yield from checks["items"](validator, items, instance, schema)

    # Not JSON's integers, among which 3.0 is.
    integers = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    return validators.extend(
        Draft202012Validator, {"properties": fill, "items": read_items}, type_checker=integers
    )


def _read_text(value: object, rule: Mapping) -> object:
    wanted = rule.get("type") or rule.get("else", {}).get("type")  # a number, or a word for one
    if not isinstance(value, str) or wanted not in ("integer", "number", "boolean"):
        return value
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return read if isinstance(read, int | float) else value


def _describe(error: ValidationError) -> str:
    where = ": ".join(map(str, error.absolute_path)) or "top level"
    hint = ""
    if error.validator == "enum" and error.validator_value == ["auto"]:
        return f"config: {where}: {error.instance!r} is neither a number nor 'auto'"
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = [str(name) for name in error.instance if name not in known]
        close = get_close_matches(unknown[0], known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; it may have {', '.join(known)}"
        return f"config: {where}: {', '.join(map(repr, unknown))} is no key there{hint}"
    if error.validator == "enum" and isinstance(error.instance, str):
        close = get_close_matches(error.instance, map(str, error.validator_value), 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"config: {where}: {error.message}{hint}"
