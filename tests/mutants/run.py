"""Break lines of the core one by one, and see whether the tests notice: `make mutants`.

cosmic-ray changes a line on disk, so that every process that the tests start runs the changed
library; mutmut 3 cannot serve here, for it learns which tests call a function inside pytest's
own process, and much of this library runs in others. All tests run once under coverage, in the
process of each; then a random sample of all mutants is judged by the tests that execute the line,
in a clone of HEAD; a second call goes on where the first was stopped. Survivors are printed, but
for those that equivalent.toml names with a reason.
"""

import os
import random
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import judge
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import WorkerOutcome, WorkItem, WorkResult

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
sys.path.append(str(HERE.with_name("helpers")))
from blocks import SMALL  # noqa: E402

LIBRARY = "workflow_scripts/spotesm"
CORE = (
    "base",
    "sequences",
    "weights",
    "request",
    "hdf5",
    "shards",
    "merged",
    "embed",
    "model/encoder.py",
    "model/stitching.py",
    "commands/verify.py",
    "commands/export.py",
)
TIMEOUT_SECONDS = 3600.0  # the judge has its own
# `int | None` in a signature is no line of the program, and faults exist for the tests alone.
NOT_MUTATED = ("core/ReplaceBinaryOperator_BitOr_",)
NOT_CORE = "embed/faults.py"


@click.command()
@click.option("--sample", default=100, show_default=True, help="How many mutants.")
@click.option("--seed", default=0, show_default=True, help="Which ones.")
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=REPOSITORY / ".mutants",
    help="Where the clone and the results lie.",
)
def main(sample: int, seed: int, work: Path) -> None:
    """Judge a sample of the mutants of the core."""
    commit = git(REPOSITORY, "rev-parse", "--short", "HEAD")
    folder = work / commit
    clone, session = folder / "clone", folder / f"{seed}.sqlite"
    if not clone.exists():
        git(REPOSITORY, "clone", "--quiet", str(REPOSITORY), str(clone))
    git(clone, "checkout", "--quiet", "--force", commit)  # what a stopped call left changed
    config = write_config(folder, clone)
    if not session.exists():
        cosmic_ray(clone, "init", config, session)
    with use_db(session) as database:
        skip_all_but(sample, seed, clone, database)
    if not (folder / judge.COVERAGE).exists():
        judge.measure(clone, folder)
    cosmic_ray(clone, "exec", config, session)
    with use_db(session) as database:
        report(database)


def git(folder: Path, *arguments: str) -> str:
    """Run git; what it prints."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def cosmic_ray(clone: Path, command: str, config: Path, session: Path) -> None:
    """Run a command of cosmic-ray in the clone, whose library the tests then import."""
    environment = {**os.environ, "PYTHONPATH": str(clone / "workflow_scripts")}
    arguments = [sys.executable, "-m", "cosmic_ray.cli", command, str(config), str(session)]
    subprocess.run(arguments, check=True, cwd=clone, env=environment)


def write_config(work: Path, clone: Path) -> Path:
    """Write cosmic-ray's config."""
    modules = [
        str(module.relative_to(clone))
        for name in CORE
        for module in sorted((clone / LIBRARY).glob(name if name.endswith(".py") else f"{name}/*"))
        if module.suffix == ".py" and not str(module).endswith(NOT_CORE)
    ]
    path = work / "cosmic-ray.toml"
    path.write_text(
        "[cosmic-ray]\n"
        f"module-path = {modules}\n"
        f"timeout = {TIMEOUT_SECONDS}\n"
        "excluded-modules = []\n"
        f'test-command = "{sys.executable} tests/mutants/judge.py"\n'
        "[cosmic-ray.distributor]\n"
        'name = "local"\n',
        encoding="utf-8",
    )
    return path


def skip_all_but(sample: int, seed: int, clone: Path, database: WorkDB) -> None:
    """Mark what is not in the sample as skipped; the same seed draws the same mutants."""
    items = sorted((item for item in database.work_items if is_mutated(item, clone)), key=place_of)
    drawn = {item.job_id for item in random.Random(seed).sample(items, min(sample, len(items)))}
    done = {job for job, _ in database.results}
    others = {item.job_id for item in database.work_items} - drawn - done
    database.set_multiple_results(others, WorkResult(WorkerOutcome.SKIPPED))


def is_mutated(item: WorkItem, clone: Path) -> bool:
    """Whether a mutant counts; not the size of a block, which every test makes small."""
    mutation = item.mutations[0]
    if mutation.operator_name.startswith(NOT_MUTATED):
        return False
    line = (clone / mutation.module_path).read_text("utf-8").splitlines()[mutation.start_pos[0] - 1]
    names = line.partition(" = ")[0].split(", ")
    module = ".".join(mutation.module_path.relative_to(LIBRARY).with_suffix("").parts)
    return not {f"{module}.{name}" for name in names} & SMALL.keys()


def place_of(item: WorkItem) -> tuple:
    """Return where a mutant is, and what it is; their ids differ from call to call."""
    mutation = item.mutations[0]
    return (
        str(mutation.module_path),
        mutation.start_pos,
        mutation.operator_name,
        mutation.occurrence,
        str(mutation.operator_args),
    )


def report(database: WorkDB) -> None:
    """Print the survivors, and how many were noticed."""
    equivalent = tomllib.loads((HERE / "equivalent.toml").read_text(encoding="utf-8"))
    judged = killed = excused = 0
    for job, result in database.results:
        if result.worker_outcome == WorkerOutcome.SKIPPED:
            continue
        judged += 1
        if result.is_killed:
            killed += 1
            continue
        (item,) = (item for item in database.work_items if item.job_id == job)
        change = changed_lines(result.diff)
        if change in {(entry["line"], entry["becomes"]) for entry in equivalent["mutant"]}:
            excused += 1
            continue
        click.echo(f"\n{item.mutations[0].module_path}, line {item.mutations[0].start_pos[0]}")
        click.echo(f"  - {change[0]}\n  + {change[1]}")
    click.echo(
        f"\n{judged} mutants: {killed} noticed, {excused} equivalent, "
        f"{judged - killed - excused} survived"
    )


def changed_lines(diff: str) -> tuple[str, str]:
    """Return the first line that a mutant takes away, and the first that it puts there."""
    lines = diff.splitlines()
    before = [line[1:].strip() for line in lines if line.startswith("-") and line[:3] != "---"]
    after = [line[1:].strip() for line in lines if line.startswith("+") and line[:3] != "+++"]
    return (before or [""])[0], (after or [""])[0]


if __name__ == "__main__":
    main()
