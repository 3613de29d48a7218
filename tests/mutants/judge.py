"""The tests that judge one mutant: fails as soon as one of them notices.

What runs is every test file of the module's room, as nobody knows what was executed by a process
that a test killed, and every other that executes the changed line, in its own process or in one
that it starts: the quick ones, then the long ones. Which do is known from one run of all tests
under coverage (`measure`).
"""

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from coverage import CoverageData

HERE = Path(__file__).parent
LIBRARY = "workflow_scripts/spotesm"
COVERAGE, SECONDS = ".coverage", "seconds.xml"  # in the folder above the clone
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
# They take minutes to start (a cluster), or judge another library (a module's own checkout).
NOT_ASKED = ("-m", "not slurm and not chaos", "--ignore", "tests/workflow/test_module.py")
# conftest.py begins with these folders, so that they are asked by themselves, at last.
LONG = ("workflow", "faults")
OWN_ROOM, NEXT, LAST = range(3)
AT_IMPORT = ""
LEAST_SECONDS, TIMES_LONGER = 60, 5


def measure(clone: Path, work: Path) -> None:
    """Run all tests once, and keep which file executes which line, and how long each takes."""
    config = HERE / "coverage.ini"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(clone / "workflow_scripts"), str(HERE)]),
        "COVERAGE_PROCESS_START": str(config),
        "SPOTESM_COVERAGE": str(work / COVERAGE),
    }
    coverage = [sys.executable, "-m", "coverage"]
    tests = [*NOT_ASKED, "-p", "contexts", "--dist", "loadscope", "--no-loadscope-reorder"]
    tests += ["--numprocesses", "auto", f"--junitxml={work / SECONDS}"]
    run = [*coverage, "run", f"--rcfile={config}", *PYTEST[1:], *tests]
    subprocess.run(run, check=True, cwd=clone, env=environment)
    combine = [*coverage, "combine", f"--rcfile={config}", "-q", str(work)]
    subprocess.run(combine, check=True, cwd=clone, env=environment)


def main() -> None:
    """Judge what differs from HEAD in this clone; exit with pytest's code of what noticed it."""
    work = Path.cwd().parent
    diff = ["git", "diff", "-U0", "--", LIBRARY]
    changed = subprocess.run(diff, check=True, capture_output=True, text=True).stdout
    module = re.search(r"^--- a/(.+)$", changed, re.MULTILINE)[1]
    first, count = re.search(r"^@@ -(\d+)(?:,(\d+))?", changed, re.MULTILINE).groups()
    lines = range(int(first), int(first) + int(count or 1))
    before = subprocess.run(
        ["git", "show", f"HEAD:{module}"], check=True, capture_output=True, text=True
    ).stdout
    files = find_tests(work, module, whole_statements(before, lines))
    room = Path(module).parent.name
    files += {str(path) for path in Path("tests", room).glob("test_*.py")} - {*files}
    seconds = read_seconds(work)
    files.sort(key=lambda file: seconds.get(file, 0.0))
    rank = {room: OWN_ROOM, **dict.fromkeys(LONG, LAST)}
    for turn in (OWN_ROOM, NEXT, LAST):
        group = [file for file in files if rank.get(Path(file).parent.name, NEXT) == turn]
        if group and not passes(group, sum(seconds.get(file, 0.0) for file in group)):
            sys.exit(1)


def whole_statements(text: str, lines: range) -> set[int]:
    """Return the lines of the statements that these lines belong to, without their bodies."""
    found = set(lines)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno
            own = range(node.lineno, max(node.lineno, last) + 1)
            if set(own) & set(lines):
                found |= set(own)
    return found


def find_tests(work: Path, module: str, lines: set[int]) -> list[str]:
    """Return the test files that execute these lines; for what runs at import, the module."""
    data = CoverageData(str(work / COVERAGE))
    data.read()
    (measured,) = (file for file in data.measured_files() if file.endswith(f"/{module}"))
    by_line = data.contexts_by_lineno(measured)
    contexts = {context for line in lines for context in by_line.get(line, ())}
    if AT_IMPORT in contexts:
        contexts |= {context for own in by_line.values() for context in own}
    return sorted(contexts - {AT_IMPORT})


def read_seconds(work: Path) -> dict[str, float]:
    """Return how long each test file took."""
    seconds: dict[str, float] = {}
    for case in ElementTree.parse(work / SECONDS).iter("testcase"):
        parts = case.get("classname", "").split(".")
        while parts and not Path(*parts).with_suffix(".py").exists():
            parts.pop()  # classes
        file = str(Path(*parts).with_suffix(".py"))
        seconds[file] = seconds.get(file, 0.0) + float(case.get("time", 0.0))
    return seconds


def passes(files: list[str], seconds: float) -> bool:
    """Whether these pass, in not much longer than they take: a loop without end is noticed."""
    with subprocess.Popen([*PYTEST, "-x", *NOT_ASKED, *files], start_new_session=True) as tests:
        try:
            return tests.wait(LEAST_SECONDS + TIMES_LONGER * seconds) == 0
        except subprocess.TimeoutExpired:
            os.killpg(tests.pid, signal.SIGKILL)
            return False


if __name__ == "__main__":
    main()
