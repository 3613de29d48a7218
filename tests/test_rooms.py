"""The structure of the library: rooms in their order, modules of a size, rules and scripts."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = REPOSITORY / "workflow_scripts"
LIBRARY = SCRIPTS / "spotesm"
# A room imports from itself and from rooms before it; the doors on top from any.
ROOMS = (
    "base",
    "sequences",
    "weights",
    "machine",
    "request",
    "model",
    "hdf5",
    "shards",
    "merged",
    "embed",
    "runs",
    "report",
    "commands",
)
DOORS = ("__init__", "__main__", "step")
MODULES = sorted(LIBRARY.rglob("*.py"))
# Imported when needed, for time or because not everybody has them; never to dodge a circle.
LAZY = {
    "__init__.py": {"spotesm.merged.reader"},
    "weights/downloads.py": {"huggingface_hub"},
    "step.py": {"spotesm.embed"},  # faults on demand, for the tests alone
    "model/attention.py": {"torch.nn.attention.varlen"},  # brings torch's compiler
    "model/independent.py": {"transformers"},
    "merged/frames.py": {"anndata", "pandas"},
    "merged/reader.py": {"torch"},
    "report/landscape.py": {"umap"},
    "commands/exports/fair_esm.py": {"torch"},
    "commands/exports/parquet.py": {"pyarrow", "pyarrow.parquet"},
}


def name_of(module: Path) -> str:
    return str(module.relative_to(LIBRARY))


def room_of(dotted: str) -> str | None:
    """The room of `spotesm.ROOM.module`; None of what is no room's."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "spotesm" and len(parts) > 1 else None


def imports_of(node: ast.AST) -> Iterator[str]:
    for found in ast.walk(node):
        if isinstance(found, ast.ImportFrom):
            yield found.module
        elif isinstance(found, ast.Import):
            yield from (alias.name for alias in found.names)


def test_every_module_is_in_a_room_or_a_door() -> None:
    for module in MODULES:
        first, *rest = module.relative_to(LIBRARY).with_suffix("").parts
        assert (first in ROOMS and rest) if rest else first in DOORS, module


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_room_imports_only_from_rooms_before_it(module: Path) -> None:
    own = module.relative_to(LIBRARY).parts[0]
    allowed = ROOMS[: ROOMS.index(own) + 1] if own in ROOMS else ROOMS
    for dotted in imports_of(ast.parse(module.read_text())):
        room = room_of(dotted)
        assert room is None or room in allowed, f"{dotted} lies after {own}"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_imports_stand_on_top(module: Path) -> None:
    tree = ast.parse(module.read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {dotted for function in functions for dotted in imports_of(function)}
    assert inner <= LAZY.get(name_of(module), set())


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_fits_the_head(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 400


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_text_is_opened_with_its_encoding(module: Path) -> None:
    """Else it depends on the locale what is in a file."""
    for call in ast.walk(ast.parse(module.read_text())):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        given = {keyword.arg for keyword in call.keywords}
        modes = [a.value for a in call.args[:2] if isinstance(a, ast.Constant)]
        if name == "open" and isinstance(call.func, ast.Name):
            binary = any(isinstance(mode, str) and "b" in mode for mode in modes)
            assert binary or "encoding" in given, f"line {call.lineno}"
        if name in ("read_text", "write_text"):
            assert "encoding" in given or "utf-8" in modes, f"line {call.lineno}"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_hdf5_is_opened_for_reading_in_one_place(module: Path) -> None:
    """HDF5 refuses a file that is opened in two ways; some file systems have no locks."""
    for call in ast.walk(ast.parse(module.read_text())):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "h5py.File":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            mode = ast.unparse(call.args[1]).strip("'")
            expected = "locking" if mode == "r" else "False"  # of open_hdf5, which tries them
            assert given.get("locking") == expected, f"line {call.lineno}"


def test_one_module_knows_how_keys_are_made() -> None:
    """A key such as `mean/6` is made and taken apart in request/outputs alone."""
    outputs = "mean|bos|residues|logits|contacts"
    odd = re.compile(
        rf"""partition\(["']/["']\)|split\(["']/["']|["'](?:{outputs})/|f["']{{[^}}]*}}/(?:offsets|values)"""
    )
    for module in MODULES:
        if name_of(module) != "request/outputs.py":
            code = ast.unparse(_without_docstrings(ast.parse(module.read_text())))
            assert not odd.search(code), (module, odd.search(code))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            body[0] = ast.Pass()
    return ast.fix_missing_locations(tree)


@pytest.mark.parametrize(
    "modules",
    [
        "spotesm.request.config, spotesm.runs.explain, spotesm.runs.occupancy",  # Snakemake's own
        "spotesm.merged.merge, spotesm.step",
        "spotesm.sequences.sharding, spotesm.sequences.translation, spotesm.step",
        "spotesm.__main__, spotesm.commands.status, spotesm.commands.summary",
        "spotesm.commands.export",
        "spotesm.merged.reader",
        "spotesm.weights.downloads",
    ],
)
def test_who_needs_no_torch_loads_none(modules: str) -> None:
    check = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'esm' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    assert subprocess.run([sys.executable, "-c", check], env=environment).returncode == 0


# -- rules -----------------------------------------------------------------------------------------

# Those that are made in a loop stand further in, and are named by an expression.
RULES = [
    (path, name or re.search(r"name:\s+\w+\(\"(\w+)\"", text)[1], text)
    for path in sorted((REPOSITORY / "rules").glob("*.smk"))
    for name, text in re.findall(
        r"^ *rule ?(\w*):\n(.*?)(?=^\S|\Z)", path.read_text(), re.MULTILINE | re.DOTALL
    )
]
# It does nothing but make a second name.
WITHOUT_SCRIPT = {"keep_earlier"}


@pytest.mark.parametrize(("path", "name", "text"), RULES, ids=[name for _, name, _ in RULES])
def test_rule_script_function_and_log_have_one_name(path: Path, name: str, text: str) -> None:
    if name in WITHOUT_SCRIPT:
        assert "script:" not in text
        return
    assert f"workflow_scripts/{name}.py" in text
    assert re.search(rf"/logs/{name}(\.log|/)", text)
    script = ast.parse((SCRIPTS / f"{name}.py").read_text())
    called = {getattr(c.func, "id", "") for c in ast.walk(script) if isinstance(c, ast.Call)}
    assert name in called
    assert ast.get_docstring(script).startswith(f"Rule {name}: ")


def test_every_script_has_its_rule() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {
        name for _, name, _ in RULES
    } - WITHOUT_SCRIPT


def test_the_map_names_every_module() -> None:
    rows = dict(
        re.findall(r"^\| `(\w+)` \| (.+) \|$", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.M)
    )
    for module in MODULES:
        room, _, name = name_of(module).removesuffix(".py").partition("/")
        if room in ROOMS and room != "commands" and name != "__init__":  # one module a command
            assert f"`{name}`" in rows[room], f"{room}/{name}"
