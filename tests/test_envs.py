import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
ENVS = REPOSITORY / "envs"


def test_conda_and_pip_install_the_same_versions() -> None:
    pins = (ENVS / "requirements.txt").read_text().splitlines()
    expected = [line for line in pins if line and not line.startswith("#")]
    assert all("==" in line for line in expected)
    conda = yaml.safe_load((ENVS / "spotesm.yaml").read_text())
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert pip == expected


@pytest.mark.parametrize("name", ["a b", "a{b}", "it's", "a$b", "a\nb", "[a]", 'a"b', "a;b"])
def test_set_up_refuses_a_folder_that_snakemake_cannot_run_in(tmp_path: Path, name: str) -> None:
    clone = tmp_path / name / "clone"
    (clone / "envs").mkdir(parents=True)
    for file in ("Makefile", "pyproject.toml", "envs/requirements.txt"):
        shutil.copy(REPOSITORY / file, clone / file)
    run = subprocess.run(["make", "install"], cwd=clone, capture_output=True, text=True)
    assert run.returncode != 0
    assert "spotESM cannot run in" in run.stderr
    assert "clone it elsewhere" in run.stderr
    assert not (clone / ".venv").exists()
