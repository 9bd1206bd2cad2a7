"""The image: what the Dockerfile promises, checked without an engine."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its words, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    pairs = (line.strip().split(maxsplit=1) for line in lines if line.strip())
    return [(word, rest) for word, rest in pairs]


def last(word: str) -> str:
    """The last instruction of a kind: the one that counts in the image."""
    return [rest for name, rest in instructions() if name == word][-1]


def test_linter() -> None:
    """Hadolint has nothing to say."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        missing = "hadolint is not in this environment; the extra `dev` has it for Linux"
        (pytest.fail if os.environ.get("CITYEYE_REQUIRE_SERVERS") == "1" else pytest.skip)(missing)
    said = subprocess.run(
        [hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False
    )

    assert (0, "") == (said.returncode, said.stdout)


def test_pinned() -> None:
    """Every stage starts from the same image, pinned to a minor version of Python."""
    bases = {rest.split()[0] for word, rest in instructions() if word == "FROM"}

    assert {"python:3.11-slim-bookworm"} == bases


def test_no_root() -> None:
    """The image runs as a fixed user that is not root."""
    assert "10001:10001" == last("USER")


def test_sources() -> None:
    """What is copied exists, and .dockerignore lets it through."""
    admitted = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }

    assert [] == [source for source in sorted(copied) if not (ROOT / source).exists()]
    assert admitted == copied


def test_packages() -> None:
    """Every package of the distribution is in the image."""
    packages = {
        name.removesuffix("*")
        for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    }

    assert set() == {name for name in packages if ("COPY", f"{name} {name}") not in instructions()}


def test_entry() -> None:
    """The entry point is the command that the distribution installs."""
    assert PROJECT["project"]["scripts"].keys() >= set(json.loads(last("ENTRYPOINT")))


def test_version() -> None:
    """The image's label says the version of the distribution."""
    assert f"VERSION={PROJECT['project']['version']}" == last("ARG")


def test_health() -> None:
    """The health check is a module that is in the image."""
    command = json.loads(last("HEALTHCHECK").partition("CMD ")[2])

    assert ["python", "-m", "cli.health"] == command[:3]
    assert (ROOT / "cli" / "health.py").is_file()


def test_writable() -> None:
    """What is written at run time goes to the volume or to /tmp."""
    declared = dict(pair.split("=", 1) for pair in last("ENV").split())

    assert "/var/lib/cityeye" == last("VOLUME") == declared["CITYEYE_DATA"]
    assert {"/tmp"} == {declared["NUMBA_CACHE_DIR"], declared["MPLCONFIGDIR"]}  # noqa: S108 - in the image
