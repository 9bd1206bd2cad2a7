"""Grafana's provisioning files, key by key against the documented schema.

The keys are those of Grafana 12.4: of the data sources and dashboards from its administration
guide, "Provision Grafana"; of the alert rules from its structs AlertRuleGroupV1, AlertRuleV1 and
QueryV1; of contact points and policies from "Use configuration files to provision alerting
resources". A key that Grafana does not know is dropped by it without a word.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from docker.deal import SHARES
from docker.grafana.boards.influxql import SOURCE_UID

ROOT = Path(__file__).parents[2]
PROVISIONING = ROOT / "docker" / "grafana" / "provisioning"
DASHBOARDS = ROOT / "docker" / "grafana" / "dashboards"
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
DATABASES = ("influx1", "influx2", "influx3")

SOURCE_KEYS = {
    "name", "type", "access", "orgId", "uid", "url", "user", "database", "basicAuth",
    "basicAuthUser", "withCredentials", "isDefault", "jsonData", "secureJsonData", "version", "editable",
}  # fmt: skip
SOURCE_JSON_KEYS = {"version", "dbName", "httpMode", "timeInterval", "maxSeries", "httpHeaderName1"}
SOURCE_SECRET_KEYS = {"password", "httpHeaderValue1"}
PROVIDER_KEYS = {
    "name", "orgId", "folder", "folderUid", "type", "disableDeletion", "updateIntervalSeconds",
    "allowUiUpdates", "options",
}  # fmt: skip
GROUP_KEYS = {"orgId", "name", "folder", "interval", "rules"}
RULE_KEYS = {
    "uid", "title", "condition", "data", "dashboardUid", "panelId", "noDataState", "execErrState",
    "for", "keepFiringFor", "missing_series_evals_to_resolve", "annotations", "labels", "isPaused",
    "notification_settings", "record",
}  # fmt: skip
QUERY_KEYS = {"refId", "queryType", "relativeTimeRange", "datasourceUid", "model"}
POINT_KEYS = {"orgId", "name", "receivers"}
RECEIVER_KEYS = {"uid", "type", "settings", "disableResolveMessage"}
MAIL_KEYS = {"addresses", "singleEmail", "message", "subject"}
POLICY_KEYS = {
    "orgId", "receiver", "group_by", "matchers", "object_matchers", "mute_time_intervals",
    "group_wait", "group_interval", "repeat_interval", "routes",
}  # fmt: skip
NO_DATA_STATES = {"NoData", "Alerting", "OK", "KeepLast"}
ERROR_STATES = {"Error", "Alerting", "OK", "KeepLast"}
EXPRESSIONS = {"reduce", "math"}
RULE_UIDS = {"cityeye-ingest-silent", "cityeye-ledger-mismatch", "cityeye-database-refusing"}
UID = re.compile(r"[a-zA-Z0-9_-]{1,40}")


def read(name: str) -> dict[str, Any]:
    """One provisioning file."""
    found: dict[str, Any] = yaml.safe_load((PROVISIONING / name).read_text())
    return found


RULES = [rule for group in read("alerting/rules.yaml")["groups"] for rule in group["rules"]]


@pytest.fixture(params=DATABASES)
def source(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The one data source of each profile."""
    [found] = read(f"datasources/{request.param}/cityeye.yaml")["datasources"]
    return {**found, "profile": request.param}


def test_files() -> None:
    """All files are of version 1, and there is none that nobody looks at."""
    found = {str(path.relative_to(PROVISIONING)) for path in PROVISIONING.rglob("*.y*ml")}
    sources = {f"datasources/{name}/cityeye.yaml" for name in DATABASES}

    assert (
        sources | {"dashboards/cityeye.yaml", "alerting/rules.yaml", "alerting/contact.yaml"}
        == found
    )
    assert {1} == {read(name)["apiVersion"] for name in found}


def test_source_keys(source: dict[str, Any]) -> None:
    """A data source has no key that Grafana does not know."""
    assert SOURCE_KEYS >= source.keys() - {"profile"}
    assert SOURCE_JSON_KEYS >= source["jsonData"].keys()
    assert SOURCE_SECRET_KEYS >= source["secureJsonData"].keys()


def test_source_uid(source: dict[str, Any]) -> None:
    """Whatever the database, the data source is the one that the dashboards name."""
    assert SOURCE_UID == source["uid"]


def test_influxql(source: dict[str, Any]) -> None:
    """Every data source speaks InfluxQL to the database `cityeye`, and is not edited by hand."""
    language = source["jsonData"]

    assert ("InfluxQL", "cityeye") == (language["version"], language["dbName"])
    assert (True, False) == (source["isDefault"], source["editable"])


def test_source_address(source: dict[str, Any]) -> None:
    """The data source's host is a service of that profile, on Grafana's network."""
    host = source["url"].removeprefix("http://").partition(":")[0]
    service = COMPOSE["services"][host]

    assert [source["profile"]] == service["profiles"]
    assert set(COMPOSE["services"]["grafana"]["networks"]) & set(service["networks"])


def test_source_secret(source: dict[str, Any]) -> None:
    """The secret comes from a file that is dealt to Grafana, or that the job `bucket` leaves."""
    [text] = source["secureJsonData"].values()
    found = re.fullmatch(r"(?:Token )?\$__file\{/keys/(.+)\}", text)
    share = next(row for row in SHARES if row.volume == "grafana")

    assert found
    assert found[1] in {*share.secrets, "influxdb/token"}


def test_provider() -> None:
    """The dashboards come from the folder that Compose mounts there."""
    [provider] = read("dashboards/cityeye.yaml")["providers"]
    path = provider["options"]["path"]
    mounts = COMPOSE["services"]["grafana"]["volumes"]

    assert PROVIDER_KEYS >= provider.keys()
    assert {"path", "foldersFromFilesStructure"} >= provider["options"].keys()
    assert f"./grafana/dashboards:{path}:ro" in mounts


def test_home() -> None:
    """The dashboard that Grafana opens with exists."""
    environment = COMPOSE["services"]["grafana"]["environment"]
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])

    assert (DASHBOARDS / home.name).is_file()


def test_dashboard_sources() -> None:
    """No dashboard names a data source that is not provided."""
    named = set()
    for path in DASHBOARDS.glob("*.json"):
        found = re.findall(r'"type":\s*"influxdb",\s*"uid":\s*"([^"]+)"', path.read_text())
        named |= set(found)

    assert {SOURCE_UID} == named


def test_dashboard_uids() -> None:
    """Dashboards have uids, all different."""
    uids = [json.loads(path.read_text())["uid"] for path in sorted(DASHBOARDS.glob("*.json"))]

    assert len(uids) == len(set(uids)) > 0
    assert all(UID.fullmatch(uid) for uid in uids)


def test_rule_uids() -> None:
    """The rules' uids stay what they are: Grafana keeps silences and history by them."""
    uids = [rule["uid"] for rule in RULES]

    assert sorted(RULE_UIDS) == sorted(uids)
    assert all(UID.fullmatch(uid) for uid in uids)


def test_groups() -> None:
    """Groups have no key that Grafana does not know, and the dashboards' folder."""
    [provider] = read("dashboards/cityeye.yaml")["providers"]
    for group in read("alerting/rules.yaml")["groups"]:
        assert GROUP_KEYS == group.keys()
        assert provider["folder"] == group["folder"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["uid"])
def test_rule(rule: dict[str, Any]) -> None:
    """A rule has known keys, a condition among its queries, and says what silence and errors are."""
    assert RULE_KEYS >= rule.keys()
    assert rule["condition"] in {query["refId"] for query in rule["data"]}
    assert rule["noDataState"] in NO_DATA_STATES
    assert rule["execErrState"] in ERROR_STATES
    assert {"summary", "remedy"} == rule["annotations"].keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["uid"])
def test_rule_queries(rule: dict[str, Any]) -> None:
    """Each query goes to the data source or is an expression over one that stands before it."""
    known: list[str] = []
    for query in rule["data"]:
        model = query["model"]
        assert QUERY_KEYS >= query.keys()
        assert query["refId"] == model["refId"]
        assert query["datasourceUid"] == model["datasource"]["uid"]
        if query["datasourceUid"] == SOURCE_UID:
            assert "$timeFilter" in model["query"]
        else:
            assert ("__expr__", True) == (query["datasourceUid"], model["type"] in EXPRESSIONS)
            assert any(name in model["expression"] for name in known)
        known.append(query["refId"])


def test_dollars() -> None:
    """What a model says is not expanded, so a dollar stands there once."""
    assert "$$" not in (PROVISIONING / "alerting" / "rules.yaml").read_text()


def test_silent_database_is_said_once() -> None:
    """When the database does not answer, one rule fires and the others keep what they said."""
    states = {rule["uid"]: rule["execErrState"] for rule in RULES}

    assert ["cityeye-database-refusing"] == [uid for uid in states if states[uid] == "Alerting"]
    assert {"Alerting", "KeepLast"} == set(states.values())


def test_contact() -> None:
    """Those who are told exist, and no secret stands in the file."""
    contact = read("alerting/contact.yaml")
    [point], [policy] = contact["contactPoints"], contact["policies"]
    [receiver] = point["receivers"]

    assert (POINT_KEYS, RECEIVER_KEYS) == (point.keys(), receiver.keys())
    assert POLICY_KEYS >= policy.keys()
    assert point["name"] == policy["receiver"]
    assert MAIL_KEYS >= receiver["settings"].keys()


def test_addresses() -> None:
    """The variable that the contact point names is in Grafana's environment."""
    [point] = read("alerting/contact.yaml")["contactPoints"]
    addresses = point["receivers"][0]["settings"]["addresses"]

    assert addresses.removeprefix("$") in COMPOSE["services"]["grafana"]["environment"]
