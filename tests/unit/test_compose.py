"""The Compose file, checked by Compose itself and by what it promises; no engine is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.mosquittoconf import IMAGE
from city.settings import SETTINGS, resolve
from city.synthetic import named_city
from docker.deal import SHARES
from docker.keys import SECRETS, make_secrets

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
TEXT = (DOCKER / "compose.yaml").read_text()
DATABASES = ("influx1", "influx2", "influx3")
DRAIN_S = SETTINGS["drain_s"].default
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[-?])?")

ROOTS = {
    "keys": "it makes files of other users of the host's secrets",
    "load-keys": "the same for the load test's broker",
}
"""Services that run as root, and why."""

PROBES = {
    "cityeye": {"python"},
    "eclipse-mosquitto": {"mosquitto_sub"},
    "influxdb:2": {"influx"},
    "influxdb:1": {"curl"},
    "influxdb:3": {"curl"},
    "grafana": {"wget"},
}
"""Programs that an image has and a health check may use, by the beginning of the image's name.

From the images' own Dockerfiles: Mosquitto's installs its clients, InfluxDB 2's the command
`influx`, InfluxDB 1's and 3's have curl, Grafana's is Alpine, whose busybox has wget.
"""

LOAD_INGESTS = ("load-ingest", "load-ingest-2", "load-ingest-3")

ADDRESSES = {"influx1": "influx1", "influx2": "influxdb", "influx3": "influx3"}
"""The service that is each profile's database."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `docker` of a fresh checkout after `make secrets`."""
    place = tmp_path_factory.mktemp("checkout") / "docker"
    kept_back = shutil.ignore_patterns("secrets", "mosquitto*", ".env", "__pycache__")
    shutil.copytree(DOCKER, place, ignore=kept_back)
    make_secrets(place)
    (place / "mosquitto").mkdir()
    (place / "mosquitto-load").mkdir()
    return place


def compose(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What Compose says of the file."""
    program = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    if program is None:
        missing = "docker-compose is not in this environment; the extra `dev` has it for Linux"
        (pytest.fail if os.environ.get("CITYEYE_REQUIRE_SERVERS") == "1" else pytest.skip)(missing)
    return subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)} | environment,
    )  # fmt: skip


@pytest.fixture(scope="module", params=DATABASES)
def model(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    """The file as Compose understands it, with each database in turn and the load test."""
    profiles = f"{request.param},load,load-shared"
    done = compose(
        folder, "config", "--format", "json", COMPOSE_PROFILES=profiles, DATABASE=request.param
    )
    assert (0, "") == (done.returncode, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"database": request.param}


def services(model: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The services, by name."""
    yield from model["services"].items()


def image_is(service: dict[str, Any], prefix: str) -> bool:
    """Whether a service's image, without its registry, begins with that name."""
    return str(service["image"]).removeprefix("grafana/").startswith(prefix)


def lasting(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that go on, unlike jobs."""
    return {name: one for name, one in services(model) if one.get("restart") != "no"}


def seconds(duration: str) -> float:
    """A duration as Compose writes it, e.g. `2m30s`."""
    parts = re.findall(r"(\d+)([hms])", duration)
    return float(sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts))


def test_services(model: dict[str, Any]) -> None:
    """A profile starts its database and no other, beside what every stack has."""
    always = {"keys", "mosquitto", "grafana", "sim", "ingest"}
    load = {"load-keys", "load-mosquitto", "load-sim", *LOAD_INGESTS}
    database = {ADDRESSES[model["database"]]} | (
        {"bucket"} if model["database"] == "influx2" else set()
    )

    assert always | load | database == set(model["services"])


def test_default(folder: Path) -> None:
    """Without a word, `docker compose up` in the folder starts InfluxDB 2 and no load test."""
    started = set(compose(folder, "config", "--services").stdout.split())

    assert {"keys", "mosquitto", "influxdb", "bucket", "grafana", "sim", "ingest"} == started


def test_images(model: dict[str, Any]) -> None:
    """Every image is pinned at least to a minor version."""
    pinned = re.compile(r"[\w./-]+:\d+\.\d+[\w.-]*")

    assert [] == [one["image"] for _, one in services(model) if not pinned.fullmatch(one["image"])]


def test_mosquitto_image(model: dict[str, Any]) -> None:
    """Mosquitto is the one that the broker's configuration was written for."""
    assert IMAGE == model["services"]["mosquitto"]["image"]


def test_ports(model: dict[str, Any]) -> None:
    """Ports are open on 127.0.0.1 alone."""
    hosts = {port["host_ip"] for _, one in services(model) for port in one.get("ports", [])}

    assert {"127.0.0.1"} == hosts


def test_hardened(model: dict[str, Any]) -> None:
    """No service may write to its root file system or gain a privilege."""
    loose = [
        name
        for name, one in services(model)
        if not one.get("read_only")
        or one.get("cap_drop") != ["ALL"]
        or one.get("security_opt") != ["no-new-privileges:true"]
        or one.get("privileged")
    ]

    assert [] == loose


def test_users(model: dict[str, Any]) -> None:
    """Every service runs as a fixed user; as root only the jobs that must, without network."""
    as_root = {name for name, one in services(model) if one["user"].split(":")[0] == "0"}

    assert set(ROOTS) == as_root
    assert {"none"} == {model["services"][name]["network_mode"] for name in ROOTS}
    assert as_root == {name for name, one in services(model) if one.get("cap_add")}


def test_dealt_users(model: dict[str, Any]) -> None:
    """Each service runs as the user whom its secrets are dealt to."""
    dealt = {row.volume: f"{row.user.uid}:{row.user.gid}" for row in SHARES}
    wrong = [
        name
        for name, one in services(model)
        if name in dealt and name not in ROOTS and one["user"] != dealt[name]
    ]

    assert [] == wrong


def test_limits(model: dict[str, Any]) -> None:
    """Memory is limited, and logs rotate."""
    boundless = [
        name
        for name, one in services(model)
        if not int(one.get("mem_limit", 0)) or not one["logging"]["options"].get("max-size")
    ]

    assert [] == boundless


def test_mounts(model: dict[str, Any]) -> None:
    """Every path that is mounted is in the checkout or made by `make secrets`, and read-only."""
    mounts = [
        mount for _, one in services(model) for mount in one.get("volumes", [])
        if mount["type"] == "bind"
    ]  # fmt: skip

    assert [] == [mount["source"] for mount in mounts if not Path(mount["source"]).exists()]
    assert [] == [mount["source"] for mount in mounts if not mount.get("read_only")]


def test_mounted_once(model: dict[str, Any]) -> None:
    """Data volumes are named and belong to one service, beside the job that hands them over."""
    for volume in model["volumes"]:
        if volume.endswith("-data"):
            users = {
                name
                for name, one in services(model)
                for mount in one.get("volumes", [])
                if mount["source"] == volume and name not in ROOTS
            }

            assert len(users) <= 1, volume


def test_secrets(model: dict[str, Any]) -> None:
    """Every secret that a service is given is declared, and its file is made by `make secrets`."""
    given = {row["source"] for _, one in services(model) for row in one.get("secrets", [])}

    assert {*SECRETS, "influx3-admin-token.json"} == given == set(model["secrets"])
    assert [] == [
        one["file"] for one in model["secrets"].values() if not Path(one["file"]).is_file()
    ]


def test_no_secret_in_sight(folder: Path) -> None:
    """What Compose shows of the file holds no secret."""
    shown = compose(folder, "config").stdout
    kept = {path.read_text() for path in (folder / "secrets").iterdir()}

    assert [] == [secret for secret in kept if secret in shown]


def test_missing_secrets(folder: Path, tmp_path: Path) -> None:
    """Before `make secrets` Compose names what to do."""
    shutil.copytree(folder, tmp_path / "docker", ignore=shutil.ignore_patterns(".env"))
    done = compose(tmp_path / "docker", "config", "--quiet")

    assert 0 != done.returncode
    assert "required variable SECRETS is missing a value: run make secrets" in done.stderr


def test_variables() -> None:
    """Every variable has a default, or a message that says what to do."""
    found = {(name, kind) for name, kind in VARIABLE.findall(TEXT)}

    assert [] == [name for name, kind in found if kind not in {":-", ":?"}]


def test_documented() -> None:
    """The documentation names every variable."""
    text = (ROOT / "docs" / "docker.md").read_text()
    internal = {"SECRETS", "BROKER", "LOAD_BROKER"}

    assert [] == [
        name
        for name, _ in VARIABLE.findall(TEXT)
        if f"`{name}`" not in text and name not in internal
    ]


def test_health(model: dict[str, Any]) -> None:
    """Every service that goes on has a health check by a program that its image has."""
    for name, one in lasting(model).items():
        kind, *words = one["healthcheck"]["test"]
        program = words[0].split()[0]
        [programs] = [known for prefix, known in PROBES.items() if image_is(one, prefix)]

        assert kind in {"CMD", "CMD-SHELL"}, name
        assert program in programs, name


def test_start_order(model: dict[str, Any]) -> None:
    """Who needs another waits until it is healthy or, if that is a job, until it is done."""
    for name, one in services(model):
        for other, rule in one.get("depends_on", {}).items():
            job = model["services"].get(other, {}).get("restart") == "no" or other == "bucket"
            wanted = "service_completed_successfully" if job else "service_healthy"

            assert wanted == rule["condition"], f"{name} needs {other}"


def test_ingest_waits(model: dict[str, Any]) -> None:
    """Ingest waits for its secrets, the broker and the database that it writes to."""
    ready = "bucket" if model["database"] == "influx2" else model["database"]
    waits = set(model["services"]["ingest"]["depends_on"])

    assert {"keys", "mosquitto", ready} <= waits


def test_grace(model: dict[str, Any]) -> None:
    """Ingest may take longer to stop than its last write and its alarms are allowed to take."""
    for name in ("ingest", *LOAD_INGESTS):
        assert 2 * DRAIN_S < seconds(model["services"][name]["stop_grace_period"])


def test_restarts(model: dict[str, Any]) -> None:
    """What is not a job comes back by itself."""
    assert {"unless-stopped"} == {one["restart"] for one in lasting(model).values()}


def test_settings(model: dict[str, Any], folder: Path) -> None:
    """CityEye takes the environment that its services are given."""
    for name in ("sim", "ingest", "load-sim", *LOAD_INGESTS):
        environment = {
            key: str(folder / "secrets" / "influx3-token") if key.endswith("_FILE") else value
            for key, value in model["services"][name]["environment"].items()
        }
        settings = resolve({}, environment)

        assert str(settings.broker).startswith("mqtts://"), name
        assert settings.broker_credentials is not None, name


def test_every_district_has_one_owner(folder: Path) -> None:
    """With what the documentation says, the load test's ingests divide its city."""
    done = compose(
        folder, "config", "--format", "json",
        COMPOSE_PROFILES="influx2,load,load-shared", LOAD_DISTRICTS="d1,d2",
    )  # fmt: skip
    found = json.loads(done.stdout)["services"]
    owned = [
        resolve(
            {}, {"CITYEYE_DISTRICTS": found[name]["environment"]["CITYEYE_DISTRICTS"]}
        ).districts
        for name in LOAD_INGESTS
    ]
    documented = (ROOT / "docs" / "docker.md").read_text()

    assert sorted(district.id for district in named_city("synthetic:60").districts) == sorted(
        name for districts in owned for name in districts
    )
    assert "LOAD_DISTRICTS=d1,d2" in documented


def test_owners_are_apart(model: dict[str, Any]) -> None:
    """Each ingest of the load test has its own data and its own login."""
    found = [model["services"][name] for name in LOAD_INGESTS]
    data = [
        mount["source"]
        for one in found
        for mount in one["volumes"]
        if mount["target"] == "/var/lib/cityeye"
    ]
    seats = [one["environment"].get("CITYEYE_BROKER_SEAT", "") for one in found]

    assert (3, 3) == (len(set(data)), len(set(seats)))
    assert ["", "second", "third"] == seats


def test_ingest_has_its_logins(model: dict[str, Any]) -> None:
    """The credentials that an ingest reads are dealt for the roles that it enters the broker as."""
    dealt = {
        mount["source"]: Path(mount["target"]).name
        for job in ROOTS
        for mount in model["services"][job]["volumes"]
        if mount["target"].startswith("/keys/")
    }
    shares = {row.volume: row for row in SHARES}
    for name in ("ingest", *LOAD_INGESTS):
        one = model["services"][name]
        folder = str(Path(one["environment"]["CITYEYE_BROKER_CREDENTIALS"]).parent)
        (volume,) = (m["source"] for m in one["volumes"] if m["target"] == folder)

        assert {"ingest", "alarms"} <= set(shares[dealt[volume]].roles), name


def test_store_address(model: dict[str, Any]) -> None:
    """Ingest writes to the database of the profile, at the port that it listens on."""
    store = model["services"]["ingest"]["environment"]["CITYEYE_STORE"]
    host = ADDRESSES[model["database"]]
    [port] = model["services"][host]["ports"]

    assert f"{host}:{port['target']}" == store.split("/")[2]


def test_every_image_has_tmp(model: dict[str, Any]) -> None:
    """What must be writable is a volume or in memory: every service that goes on has a place."""
    without = [
        name for name, one in lasting(model).items() if not one.get("tmpfs")
    ]  # fmt: skip

    assert [] == without


def test_networks(model: dict[str, Any]) -> None:
    """The simulated city cannot reach the database, nor Grafana the broker."""
    networks = {name: set(one.get("networks", {})) for name, one in services(model)}

    assert not networks["sim"] & networks[ADDRESSES[model["database"]]]
    assert not networks["grafana"] & networks["mosquitto"]


def test_plain_yaml() -> None:
    """The file reads as YAML, with no key twice in the top level."""
    names = re.findall(r"^([\w-]+):", TEXT, flags=re.MULTILINE)

    assert len(names) == len(set(names))
    assert set(names) == set(yaml.safe_load(TEXT))
