import re
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from city.documents import Document
from city.errors import DocumentError, InputError, SettingError
from load.payloads import NATIVE, Reader, Template
from load.templates import presets, read_template, show, template_of

GOOD = """
name: own
topic: plant/${site}/${device}
payload: '{"n":${seq},"at":${ts_iso_quoted},"v":${values}}'
""".replace("${ts_iso_quoted}", '"${ts_iso}"')


def refusal(text: str) -> str:
    """Why a template file of that text is refused."""
    with pytest.raises(DocumentError) as caught:
        read_template(Document(text, "own.yaml"))
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_native() -> None:
    """`native` is CityEye's own."""
    assert template_of("native") is NATIVE


@pytest.mark.parametrize("name", presets())
def test_presets(name: str) -> None:
    """Every preset can be read, is named as its file, and can be verified."""
    template = template_of(name)

    assert name == template.name
    assert Reader(template).filters


def test_all_presets() -> None:
    """The presets are those that the documentation promises."""
    expected = {"home-assistant", "senml", "sparkplug", "thingsboard", "thingsboard-gateway"}

    assert expected == set(presets())


def test_file(tmp_path: Path) -> None:
    """A path to a YAML file is a template of one's own."""
    path = tmp_path / "own.yaml"
    path.write_text(GOOD, encoding="utf-8")

    assert "plant/${site}/${device}" == template_of(str(path)).topic


def test_unknown_name() -> None:
    """An unknown name is answered with the nearest and all others."""
    with pytest.raises(SettingError, match=r"did you mean 'senml'.*native.*sparkplug.*yaml file"):
        template_of("senlm")


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is said to be so, by its name."""
    with pytest.raises(DocumentError, match=r"none\.yaml: cannot be read"):
        template_of(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("${site}", "${sight}", r"own.yaml:3: topic: unknown field \$\{sight\}; did you mean 'site'"),
        ("${seq}", "${sek}", r"own.yaml:4: payload: unknown field \$\{sek\}; did you mean 'seq'"),
        ("${seq}", "${value:pm52}", r"payload: unknown quantity .* did you mean 'pm25'"),
        ("${seq}", "${term:x}", r"payload: field \$\{term:x\} cannot stand here"),
        ("${seq}", "${value}", r"payload: field \$\{value\} cannot stand here"),
        ("${device}", "${values}", r"topic: field \$\{values\} cannot stand here; allowed: .*city"),
        ("${device}", "${topic}", r"topic: field \$\{topic\} cannot stand here"),
        ("${seq}", "$seq", r"payload: a lone \$ before 'seq,"),
        ("${seq}", "${seq", r"payload: a lone \$"),
        ('"n":', '"n",', r"payload: gives no JSON for .* with \d+ values"),
        ('"${ts_iso}"', "${ts_iso}", "payload: gives no JSON"),
        ("plant/${site}/${device}", "''", "topic: an empty topic"),
        ("plant/", "plant/+/", r"topic: topic 'plant/\+.* holds the wildcard \+"),
        ("plant/", "plant/#", "topic: .* holds the wildcard #"),
        ("plant/${site}/${device}", '"p/\\0/${site}"', "topic: .* holds a null"),
        ("plant/", "p" * 65_520 + "/", "topic: longer than MQTT allows: .*65535"),
        ("name: own", "name: own\ntopik: x", "own.yaml:3: topik: unknown key 'topik'; did you mean 'topic'"),
        ("name: own\n", "", "missing required field `name`"),
        ("name: own", "name: own\nformat: xml", "format: invalid enum value 'xml'"),
        ("name: own", "name: own\nformat: native", "format: 'native' is CityEye's own"),
        ("name: own", "name: own\nformat: sparkplug", "payload: Sparkplug fixes this itself"),
        ("name: own", "name: own\nclient_id: c-${site}", "client_id: .* is that of .* and of"),
        ("name: own", "name: own\nusername: ${seq}", "username: field .* cannot stand here"),
        ("name: own", "name: own\nwill: {topic: w, payload: '${ts_ms}'}", r"will.payload: field"),
        ("name: own", "name: own\nwill: {topic: w/#, payload: x}", "will.topic: .* wildcard #"),
        ("name: own", "name: own\nwill: {topic: w, payload: '{x'}", "will.payload: gives no JSON"),
        ("name: own", "name: own\nbirth: [{topic: b, payload: '[${unit}]'}]", r"birth\[0\].payload: field"),
        ("name: own", "name: own\nbirth: [{topic: b, payload: '[x]'}]", r"birth\[0\].payload: gives no JSON"),
        ("name: own", "name: own\nterms: {u: {pm52: x}}", "terms.u.pm52: unknown quantity 'pm52'; did you"),
        ("name: own", "name: own\nterms: {u: {pm25: x}}", "terms.u: no entry for 'pm10', and none for"),
        ("name: own", "name: own\nread: {seq: n}", "read.seq: 'n' is no JSON pointer; write /n"),
        ("name: own", "name: own\nread: {seq: /m}", "read: finds no whole number or no device in"),
        ("name: own", "name: own\nread: {seq: /at}", "read: finds no whole number"),
        ("name: own", "name: own\nread: {seq: /n, ts: /n}", "read.ts: gives 1873 where"),
        ("name: own", "name: own\nread: {seq: /n, device: /n}", "read: finds no whole number or no device"),
        ("name: own", "name: own\nread: {seq: /n, device: /at}", "read: .* are both"),
        ("name: own", "name: own\nread: {seq: /n}\nformat: text", "read: only JSON can be read back"),
    ],
)  # fmt: skip
def test_refused(old: str, new: str, said: str) -> None:
    """What is wrong with a template file is said with file, line, place and remedy."""
    assert re.search(said, refusal(GOOD.replace(old, new)), re.DOTALL)


def test_no_payload() -> None:
    """A template without a payload says nothing."""
    assert "payload: a template needs a payload" in refusal("name: a\ntopic: a/${site}/${device}")


def test_sparkplug_topic() -> None:
    """Sparkplug's topics have a form of their own."""
    text = "name: a\nformat: sparkplug\ntopic: spBv1.0/${site}.${device}"

    assert "spBv1.0/GROUP/NDATA/NODE" in refusal(text)


def test_one_topic_for_all() -> None:
    """Devices that no subscriber can tell apart are refused where it should."""
    text = GOOD.replace("plant/${site}/${device}", "plant") + "read: {seq: /n}"

    assert "are both 'plant'; put ${site} and ${device} into the topic" in refusal(text)


def test_unverified() -> None:
    """A template that does not say how it is read can be sent; its reader names the remedy."""
    template = read_template(Document(GOOD, "own.yaml"))
    with pytest.raises(InputError, match=r"'own' does not say .* add `read: \{seq: /…\}`"):
        Reader(template)

    assert "own" == template.name


def test_text() -> None:
    """A text template is taken as it is: it need not be JSON."""
    text = "name: csv\ntopic: t/${site}/${device}\nformat: text\npayload: ${seq};${value:pm25};$$"
    (line,) = show(read_template(Document(text, "csv.yaml")))

    assert "t/air-micro-00000/00 1873;1000.0;$" == line


@pytest.mark.parametrize("name", ["native", *presets()])
def test_show(name: str) -> None:
    """Examples show the messages of as many devices as asked for, the readings among them."""
    template = template_of(name)
    messages = [
        [line for line in show(template, devices=count) if "1873" in line] for count in (1, 3)
    ]

    assert [1, 3] == [len(lines) for lines in messages]


def test_show_escapes() -> None:
    """What people word is escaped in JSON, and nowhere else."""
    template = Template(name="a", topic="t", payload='{"a":"100 % \\" $$","s":"${site}"}')
    (line,) = show(template)

    assert 't {"a":"100 % \\" $","s":"air-micro-00000"}' == line


@settings(max_examples=30, deadline=None)
@given(
    topic=st.text() | st.text("${}site:value+#/\0"),
    payload=st.text() | st.text('${}[]seq:,"values%'),
    pointer=st.text() | st.text("/#*0n~"),
)
def test_anything(topic: str, payload: str, pointer: str) -> None:
    """Whatever stands in a template file, it is read or refused, and never breaks the program."""
    content = {"name": "x", "topic": topic, "payload": payload, "read": {"seq": pointer}}
    document = Document(msgspec.yaml.encode(content).decode(), "own.yaml")
    with suppress(DocumentError):
        assert topic == read_template(document).topic
