"""`esm` is fair-esm, or a line says whose it is; in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "workflow_scripts"


def run(code: str, folder: Path, *path: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, LIBRARY]))},
        cwd=folder,
        capture_output=True,
        text=True,
    )


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("raise SystemExit('it was imported')\n")


def test_fair_esm_is_taken(tmp_path: Path) -> None:
    asked = run("import spotesm.model.packed; print('fine')", tmp_path)
    assert asked.stdout == "fine\n", asked.stderr


@pytest.mark.parametrize("module", ["packed", "reference", "contacts", "known_answer"])
def test_another_package_of_that_name_is_refused_before_it_is_imported(
    tmp_path: Path, module: str
) -> None:
    """Such as a clone of the one that has ESM C."""
    for name in ("esm/__init__.py", "esm/pretrained.py", "esm/models/esmc.py"):
        write(tmp_path / "theirs" / name)
    code = f"""
from spotesm.base.failures import UserError
try:
    import spotesm.model.{module}
except UserError as error:
    print(error)
"""
    theirs = tmp_path / "theirs"
    assert run(code, tmp_path, theirs).stdout == (
        f"the package esm that Python finds first is another one, {theirs}/esm; spotESM needs "
        f"fair-esm: take {theirs} out of PYTHONPATH, or rename it\n"
    )


def test_what_was_installed_is_named_with_its_version(tmp_path: Path) -> None:
    write(tmp_path / "site/esm/__init__.py")
    facts = tmp_path / "site/esm-3.1.4.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: esm\nVersion: 3.1.4\n")
    (facts / "RECORD").write_text("esm/__init__.py,,\n")
    code = "from spotesm.machine.packages import refuse_other_esm; refuse_other_esm()"
    said = run(code, tmp_path, tmp_path / "site").stderr.splitlines()[-1]
    assert f"another one, {tmp_path}/site/esm (esm 3.1.4); spotESM needs fair-esm" in said
    assert "python -m pip uninstall esm; python -m pip install" in said


def test_a_file_of_that_name_is_another_one(tmp_path: Path) -> None:
    write(tmp_path / "esm.py")
    code = "from spotesm.machine.packages import refuse_other_esm; refuse_other_esm()"
    said = run(code, tmp_path, tmp_path).stderr.splitlines()[-1]
    assert f"another one, {tmp_path}/esm.py; spotESM needs fair-esm" in said


def test_verify_says_it_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "theirs/esm.py")
    code = "import sys; from spotesm.__main__ import main; main(['verify', 'a.h5', 'a.fasta'])"
    asked = run(code, tmp_path, tmp_path / "theirs")
    assert asked.returncode == 1
    assert asked.stderr.count("\n") == 1
    assert "spotESM needs fair-esm" in asked.stderr


def test_without_any_nothing_is_said(tmp_path: Path) -> None:
    """Snakemake's own Python has none where jobs run in environments of conda."""
    code = """
import importlib.util, sys
from spotesm.machine import packages
packages.find_spec = lambda name: None
packages.refuse_other_esm()
print("fine")
"""
    assert run(code, tmp_path).stdout == "fine\n"
