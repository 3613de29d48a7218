"""What Snakemake and its jobs find around them, tried on real processes."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from preload import NAMELESS, preload
from spotesm.base.paths import REPOSITORY
from spotesm.runs.environment import (
    complete_environment,
    default_profile,
    describe_profiles,
    isolate_python,
)

TRAP = "open('executed', 'w').close()\n"
OWN = str(REPOSITORY / "profiles/default")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, an empty one."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def plain_environment(**changes: str) -> dict[str, str]:
    left_out = ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "PYTHONPATH", "PYTHONSAFEPATH")
    return {n: v for n, v in os.environ.items() if n not in left_out} | changes


@pytest.mark.parametrize("python_path", [None, "", ":", f":{REPOSITORY}", f"{REPOSITORY}::"])
@pytest.mark.parametrize("name", ["random.py", "h5py.py", "calendar.py"])
def test_modules_in_the_user_s_folder_are_never_looked_at(
    folder: Path, python_path: str | None, name: str
) -> None:
    (folder / name).write_text(TRAP)
    environment = plain_environment(**({} if python_path is None else {"PYTHONPATH": python_path}))
    isolate_python(environment)
    if python_path and str(REPOSITORY) in python_path:
        assert environment["PYTHONPATH"] == str(REPOSITORY)
    command = [sys.executable, "-c", f"import {name[:-3]}"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert not (folder / "executed").exists()


def test_the_trap_works(folder: Path) -> None:
    """Else the test above would show nothing."""
    (folder / "random.py").write_text(TRAP)
    command = [sys.executable, "-c", "import random"]
    subprocess.run(command, env=plain_environment(), check=False, capture_output=True)
    assert (folder / "executed").exists()


def test_on_an_ordinary_machine_nothing_is_said(folder: Path) -> None:
    before = plain_environment(HOME=str(folder / "home"))
    environment = dict(before)
    assert complete_environment(environment, folder) == []
    assert environment == before | {"PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize("of_user", [False, True])
def test_caches_go_below_the_run_where_home_cannot_be_written(folder: Path, of_user: bool) -> None:
    """As /proc cannot, by anybody; `of_user`: HOME can, but that cache is a file."""
    (folder / "home").mkdir()
    (folder / "home/.cache").write_text("")
    home = f"{folder}/home" if of_user else "/proc/nohome"
    environment = plain_environment(HOME=home)
    (said,) = complete_environment(environment, Path())
    own = f"{folder}/.snakemake/spotesm/cache"
    assert said.startswith(f"{home}/.cache cannot be written (")
    assert said.endswith(f"go to {own}")
    assert environment["XDG_CACHE_HOME"] == own
    assert "TORCH_HOME" not in environment
    assert complete_environment(environment, Path()) == []  # the jobs' Snakemake finds it right


def test_weights_that_are_in_a_cache_are_still_found(folder: Path) -> None:
    cache = folder / "cache"
    (cache / "torch").mkdir(parents=True)
    (cache / "huggingface").mkdir()
    (cache / "snakemake").write_text("in the way")
    environment = plain_environment(HOME=str(folder), XDG_CACHE_HOME=str(cache))
    assert len(complete_environment(environment, folder)) == 1
    assert environment["TORCH_HOME"] == f"{cache}/torch"
    assert environment["HF_HOME"] == f"{cache}/huggingface"
    environment = plain_environment(XDG_CACHE_HOME=str(cache), HOME="/", TORCH_HOME="/mine")
    complete_environment(environment, folder)
    assert environment["TORCH_HOME"] == "/mine"


@pytest.mark.parametrize("home", [None, "", "/home/of-mine"])
@pytest.mark.parametrize("user", [None, "LOGNAME", "USER"])
def test_a_user_id_without_a_name_gets_one_and_a_home(
    tmp_path: Path, folder: Path, home: str | None, user: str | None
) -> None:
    """As Python itself finds both, in a process that knows no names."""
    given = plain_environment(**preload(tmp_path, NAMELESS))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        given.pop(name, None)
    given |= {"HOME": home} if home is not None else {}
    given |= {user: "me"} if user else {}
    code = """
import getpass, os, pathlib
from spotesm.runs.environment import complete_environment
complete_environment(os.environ, pathlib.Path())
print(getpass.getuser(), pathlib.Path.home())
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=given | {"PYTHONPATH": str(REPOSITORY / "workflow_scripts")},
        capture_output=True,
        text=True,
    )
    own = f"{folder}/.snakemake/spotesm/home"
    assert found.stdout == f"{'me' if user else os.getuid()} {home or own}\n", found.stderr


def test_a_home_that_only_the_list_of_users_knows(folder: Path) -> None:
    environment = plain_environment()
    said = complete_environment(environment, folder)
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert all(home in line for line in said)
    assert "HOME" not in environment


# -- profiles --------------------------------------------------------------------------------------


def test_without_profiles_nothing_is_said(folder: Path) -> None:
    assert describe_profiles({}, []) == []
    assert describe_profiles({"SNAKEMAKE_PROFILE": "none"}, []) == []
    assert default_profile([]) == []


@pytest.mark.usefixtures("folder")
def test_the_profile_of_the_environment_is_named() -> None:
    environment = {"SNAKEMAKE_PROFILE": "of-my-cluster"}
    (said,) = describe_profiles(environment, [])
    assert "of-my-cluster" in said
    assert "SNAKEMAKE_PROFILE" in said
    for options in (["--profile", "none"], ["--profile=x"]):
        assert describe_profiles(environment, options) == []


@pytest.mark.parametrize("place", ["default", "profiles/default"])
@pytest.mark.parametrize("name", ["config.yaml", "profile.yaml", "config.v9+.yaml"])
def test_a_profile_of_the_folder_is_named_and_used(folder: Path, place: str, name: str) -> None:
    (folder / place).mkdir(parents=True)
    (folder / place / name).write_text("cores: 1\n")
    (said,) = describe_profiles({}, [])
    assert f"the profile {place} of this folder" in said
    assert said.endswith(f"--workflow-profile {OWN}")
    assert describe_profiles({}, ["--workflow-profile", "x"]) == []
    assert default_profile([]) == []


@pytest.mark.parametrize("is_file", [False, True])
def test_what_is_merely_called_default_is_no_profile(folder: Path, is_file: bool) -> None:
    """Snakemake would end: no profile.yaml found."""
    if is_file:
        (folder / "default").write_text(">x\nMKV\n")
    else:
        (folder / "default").mkdir()
        (folder / "default/my.fasta").write_text(">x\nMKV\n")
    assert describe_profiles({}, []) == []
    assert default_profile([]) == ["--workflow-profile", OWN]
    assert default_profile(["--workflow-profile=x"]) == []


def test_the_repository_s_own_profile_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert describe_profiles({}, []) == []
    assert default_profile([]) == []
