"""Say what a run will cost before it starts: the rule plan_run, with nothing else on the screen."""

from pathlib import Path

import click

from spotesm.commands.workflow import (
    WithSnakemakeArguments,
    make_configs,
    pass_config,
    run,
    snakemake_line,
    takes_input,
)


@click.command(cls=WithSnakemakeArguments)
@click.argument("fasta", nargs=-1)
@takes_input
@click.option(
    "--configfile",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    help="A config in place of FASTA; config.yaml of the folder if both are left out.",
)
def plan(
    fasta: tuple[str, ...],
    directory: Path,
    configfile: Path | None,
    snakemake: tuple[str, ...],
    **asked: object,
) -> None:
    """Say what a run will cost.

    Records, different sequences, bytes of the file, and time on this device, by a short probe.

    \b
      spotesm plan my.fasta --model esm2_t36_3B_UR50D
      spotesm plan --configfile my.yaml
    """
    if fasta and configfile:
        raise click.UsageError("Give FASTA or --configfile, not both.")
    if not fasta and any(asked.values()):
        raise click.UsageError("Without FASTA, only --configfile and --directory have an effect.")
    configs = [configfile] if configfile else []
    if fasta:
        made = make_configs(fasta, directory, **asked)
        configs = [pass_config(made.values(), directory)]
    # What lies there is replaced by nothing that is only planned.
    options = ["--config", "replace=true"]
    line = snakemake_line(configs, directory, options, quiet=True)
    run([*line, "plan_run", *snakemake], directory, configs)
