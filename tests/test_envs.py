from pathlib import Path

import yaml

ENVS = Path(__file__).parents[1] / "envs"


def test_conda_and_pip_install_the_same_versions() -> None:
    pins = (ENVS / "requirements.txt").read_text().splitlines()
    expected = [line for line in pins if line and not line.startswith("#")]
    assert all("==" in line for line in expected)
    conda = yaml.safe_load((ENVS / "spotesm.yaml").read_text())
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert pip == expected
