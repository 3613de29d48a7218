"""What a config may say, asked of Snakemake itself by dry runs."""

import gzip
import re
from pathlib import Path

import pytest
from snakemake_runs import REPOSITORY, snakemake, write_config

DRY = ("--dry-run", "--cores", "1", "--configfile")


def dry_run(folder: Path, **keys: object) -> str:
    config = write_config(folder, **keys)
    return snakemake(folder, *DRY, str(config)).stdout


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fasta"
    path.write_text(">a\nMKV\n")
    return path


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"shrads": 4}, r"config: top level: .*'shrads' was unexpected"),
        ({"shards": 0}, r"config: shards: 0 is less than the minimum of 1"),
        ({"shards": "many"}, r"config: shards: 'many' is not of type 'integer'"),
        ({"model": {"name": "esm3"}}, r"config: model: name: 'esm3' is not one of"),
        ({"checkpoint": {"preset": "fast"}}, r"config: checkpoint: preset: 'fast' is not one of"),
        ({"checkpoint": {"sequences": 0}}, r"config: checkpoint: sequences: 0 is less than"),
        ({"checkpoint": {"every": 5}}, r"config: checkpoint: .*'every' was unexpected"),
        (
            {"long_sequences": {"overlap": 1022}},
            r"config: long_sequences: overlap: must be",
        ),
        ({"long_sequences": {"window": 3}}, r"config: long_sequences: window: 3 is less than"),
        ({"outputs": ["means"]}, r"config: outputs: 0: 'means' is not one of"),
        ({"layers": [0, 7]}, r"config: layers: 7: esm2_t6_8M_UR50D has layers 0 to 6"),
        ({"layers": [-8]}, r"config: layers: -8: .* -1 to -7"),
        (
            {"model": {"name": "esm1v_t33_650M_UR90S_1"}},
            r"config: model: engine: esm1v_t33_650M_UR90S_1 needs `engine: reference`",
        ),
        (
            {
                "model": {"name": "esm1b_t33_650M_UR50S", "engine": "reference"},
                "long_sequences": {"policy": "whole"},
            },
            r"config: long_sequences: esm1b_t33_650M_UR50S sees at most 1022 residues",
        ),
        ({"datasets": {"x": {"fasta": "no.fna"}}}, r"config: datasets: x: no such file: no.fna"),
        ({"datasets": {"x": {"fasta": "in.fasta", "code": 1}}}, r"config: datasets: x: .*'code'"),
        ({"datasets": {"../x": "in.fasta"}}, r"config: datasets: '../x' does not match"),
        ({"datasets": {"x": "no.fasta"}}, r"config: datasets: x: no such file: no.fasta"),
        ({"datasets": {}}, r"config: datasets: .*"),
        ({"model": {"weights": "no.pt"}}, r"config: model: weights: no such file: no.pt"),
    ],
)
@pytest.mark.usefixtures("fasta")
def test_a_wrong_config_is_refused_in_one_line(tmp_path: Path, keys: dict, line: str) -> None:
    config = write_config(tmp_path, **{"datasets": {"a": "in.fasta"}, **keys})
    run = snakemake(tmp_path, *DRY, str(config))
    assert run.returncode != 0
    assert re.search(line, run.stdout), run.stdout
    assert "Traceback" not in run.stdout


def test_missing_datasets_are_named(tmp_path: Path) -> None:
    assert "config: top level: 'datasets' is a required property" in dry_run(tmp_path, shards=2)


@pytest.mark.usefixtures("fasta")
def test_defaults_are_filled(tmp_path: Path) -> None:
    output = dry_run(tmp_path, datasets={"mine": "in.fasta"})
    assert re.search(r"^embed_shard +16$", output, re.MULTILINE)


@pytest.mark.parametrize("from_repository", [True, False])
def test_own_datasets_do_not_drag_the_demo_along(tmp_path: Path, from_repository: bool) -> None:
    fasta = tmp_path / "in.fasta.gz"
    fasta.write_bytes(gzip.compress(b">a\nMKV\n"))
    config = write_config(tmp_path, datasets={"mine": [str(fasta)]}, shards=2)
    folder = REPOSITORY if from_repository else tmp_path
    # In the repository nothing may be written, not even a lock.
    output = snakemake(folder, *DRY, str(config), "--nolock").stdout
    assert "results/mine/embeddings.h5" in output
    assert "demo" not in output


def test_the_repository_runs_its_demo_with_four_gpus() -> None:
    arguments = ("--dry-run", "--forceall", "--nolock", "--cores", "all", "--resources", "gpu=4")
    run = snakemake(REPOSITORY, *arguments)
    assert run.returncode == 0
    assert "results/demo/report.html" in run.stdout
