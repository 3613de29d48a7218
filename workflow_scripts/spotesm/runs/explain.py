"""How a run ended: where its results are, or the last error of every job that failed."""

from collections.abc import Mapping
from pathlib import Path

from spotesm.base.durable import read_json
from spotesm.base.journal import Journal
from spotesm.base.logs import GOES_ON, last_error, was_stopped
from spotesm.base.paths import RESULTS, DatasetPaths
from spotesm.merged.merge import describe
from spotesm.runs.asked import Asked
from spotesm.runs.identity import DONE, find_standing


def describe_results(asked: Mapping[str, Asked], since: float = 0) -> str:
    """Return two lines for each dataset that has what is asked: its file in numbers, its report.

    Args:
        since: reports that have not been written after this time (seconds since 1970) are old.
    """
    found = [(DatasetPaths.of(name), wanted) for name, wanted in asked.items()]
    return "\n".join(
        f"{describe(read_json(paths.summary))}\nreport: {paths.report}"
        for paths, wanted in found
        if paths.report.exists()
        and paths.report.stat().st_mtime >= since
        and find_standing(paths, wanted).state == DONE
    )


def explain_failures(since: float, results: Path = RESULTS) -> str:
    """Return a block of text on the jobs whose logs end with an error; empty if there are none.

    If there are none because jobs were asked to stop, say so.

    Args:
        since: logs that have not been written after this time (seconds since 1970) are old.
    """
    logs_of_error: dict[str, list[Path]] = {}
    logs = [p for p in sorted(results.rglob("logs/**/*.log")) if p.stat().st_mtime >= since]
    for log in logs:
        if error := last_error(log):
            logs_of_error.setdefault(error, []).append(log)
    lines = []
    for error, (log, *others) in logs_of_error.items():
        more = f", and {len(others)} more jobs" if others else ""
        lines += [
            f"  {error}",
            f"    in {name_of(log, results)}{failure_type(log, results)}{more}",
            f"    log: {log}",
        ]
    if lines:
        return "\n".join(["spotESM could not finish:", *lines])
    return f"spotESM was stopped; {GOES_ON}" if any(map(was_stopped, logs)) else ""


def name_of(log: Path, results: Path = RESULTS) -> str:
    """Return what a log is of: rule, shard and dataset."""
    parts = log.relative_to(results).with_suffix("").parts
    rule, *shard = parts[parts.index("logs") + 1 :]
    dataset = dataset_of(log, results)
    of_dataset = f" of {dataset}" if dataset else ""
    return f"{rule}{of_dataset}" if not shard else f"{rule}, shard {shard[0]}{of_dataset}"


def dataset_of(log: Path, results: Path = RESULTS) -> str:
    """Return the dataset that a log is about; empty if it is about the whole run."""
    first = log.relative_to(results).parts[0]
    return "" if first == "logs" else first


def failure_type(log: Path, results: Path) -> str:
    """Return the type of failure that the journal of a shard ends with, in brackets."""
    if log.parent.name != "embed_shard":
        return ""
    paths = DatasetPaths(results / log.relative_to(results).parts[0])
    events = Journal(paths.checkpoints / log.stem / "journal.jsonl").read()
    failed = events and events[-1]["event"] == "failed"
    return f" [{events[-1].get('type')}]" if failed else ""
