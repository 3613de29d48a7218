"""A config that another command has written meanwhile is not this run's."""

from pathlib import Path

import pytest
from spotesm.base.failures import ConfigError
from spotesm.runs.configs import check_configs, note_configs


@pytest.mark.parametrize("place", [0, 2, -1])
def test_each_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Wherever Snakemake's own folder is."""
    monkeypatch.chdir(tmp_path)
    paths = [Path(f"{i}.yaml") for i in range(5)]
    for path in paths:
        path.write_text(f"datasets: {path}")
    environment: dict[str, str] = {}
    check_configs(environment)
    note_configs(environment, paths)
    monkeypatch.chdir("/")
    check_configs(environment)
    changed = tmp_path / paths[place]
    changed.write_text("another")
    with pytest.raises(ConfigError, match=f"^{changed}: another command has written it"):
        check_configs(environment)
    changed.unlink()
    with pytest.raises(ConfigError):
        check_configs(environment)
