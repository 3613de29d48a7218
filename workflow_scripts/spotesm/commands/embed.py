"""Embed FASTA files: write the config that the options stand for, and run the workflow by it."""

from pathlib import Path

import click

from spotesm.commands.workflow import (
    WithSnakemakeArguments,
    check_results,
    find_profile,
    keep_config,
    make_configs,
    pass_config,
    run,
    snakemake_line,
    takes_input,
)


@click.command(cls=WithSnakemakeArguments)
@click.argument("fasta", nargs=-1, required=True)
@takes_input
@click.option(
    "--replace",
    is_flag=True,
    help="Let a finished result of this name be replaced by one that lacks part of it.",
)
@click.option(
    "--gpus",
    metavar="N",
    type=click.IntRange(min=1),
    help="How many GPUs at once; one if left out. Without any, the CPU computes.",
)
@click.option(
    "--profile",
    metavar="NAME",
    help="Where jobs run: slurm, or the folder of a Snakemake profile; here if left out.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done; write and run nothing.")
@click.option("--verbose", is_flag=True, help="Show all that Snakemake and its jobs say.")
def embed(
    fasta: tuple[str, ...],
    directory: Path,
    gpus: int | None,
    profile: str | None,
    dry_run: bool,
    verbose: bool,
    snakemake: tuple[str, ...],
    **asked: object,
) -> None:
    """Embed the proteins of FASTA files.

    The result is results/NAME/embeddings.h5, the report results/NAME/report.html. After an
    interruption, the same command goes on. FASTA may be gzipped, or a folder.

    \b
      spotesm embed my.fasta
      spotesm embed my.fasta --outputs mean,residues --layers 0,33 --gpus 4
      spotesm embed a.fasta b.fasta --name both
      spotesm embed proteomes/*.fasta.gz --each --profile slurm
      spotesm embed contigs.fna --nucleotide -- --retries 0

    All that the options say is written to results/NAME/config.yaml, to be run again or edited; the
    README has every key.
    """
    configs = make_configs(fasta, directory, **asked)
    check_results(configs, directory, wait=not dry_run)
    if dry_run:
        paths = [pass_config(configs.values(), directory)]
    else:
        paths = [keep_config(config, name, directory) for name, config in configs.items()]
    options = ["--dry-run"] if dry_run else []
    options += ["--resources", f"gpu={gpus}"] if gpus else []
    options += find_profile(profile) if profile else []
    quiet = not (dry_run or verbose)
    run([*snakemake_line(paths, directory, options, quiet), *snakemake], directory, paths)
