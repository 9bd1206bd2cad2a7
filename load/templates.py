"""Templates by name or file, and what their messages look like."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from city.documents import Document, suggestion
from city.errors import SettingError
from city.synthetic import FOUR_QUANTITY_KINDS, synthetic_city
from load.payloads import NATIVE, Template
from load.templatecheck import EXAMPLE_SEQ, EXAMPLE_TS_MS, problems, speakers, values_of


def presets() -> Mapping[str, Path]:
    """The templates that come with CityEye, by name; `native` is none of them."""
    folder = Path(str(files("load") / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def template_of(spec: str) -> Template:
    """The template called `native`, the preset of that name, or the one in the file at that path.

    Raises:
        SettingError: There is none of that name.
        DocumentError: The file is wrong; the text names file, line, path, found and allowed.
    """
    if spec == NATIVE.name:
        return NATIVE
    path = presets().get(spec, Path(spec))
    if path.suffix not in {".yaml", ".yml"} and not path.is_file():
        names = suggestion(spec, [NATIVE.name, *presets()])
        raise SettingError(f"no payload named {spec!r}; {names}; or give a .yaml file")
    return read_template(Document.read(path))


def read_template(document: Document) -> Template:
    """The template in `document`, tried on devices of every kind.

    Raises:
        DocumentError: It is wrong; the text names file, line, path, found and allowed.
    """
    template = document.convert(Template)
    for path, problem in problems(template):
        document.fail(path, problem)
    return template


def show(template: Template, *, devices: int = 1) -> list[str]:
    """Example messages of some devices of a generated city, each a line of topic and payload.

    Births come first, the last will comes last; Sparkplug's payloads are shown as text.
    """
    city = synthetic_city(devices, interval_s=None, seed=1, kinds=FOUR_QUANTITY_KINDS)
    shown: list[str] = []
    for device, speaker in speakers(template, city.devices()):
        will = speaker.will
        for topic, payload, retain in speaker.births(EXAMPLE_TS_MS):
            note = "  (retained)" if retain else ""
            shown.append(f"{topic[2:].decode()} {_text(template, payload)}{note}")
        payload = speaker.payload(EXAMPLE_SEQ, EXAMPLE_TS_MS, values_of(device), None)
        shown.append(f"{speaker.topic[2:].decode()} {_text(template, payload)}")
        if will is not None:
            shown.append(f"{will.topic} {_text(template, will.payload)}  (last will)")
    return shown


def _text(template: Template, payload: bytes) -> str:
    if template.format != "sparkplug":
        return payload.decode()
    from load.sparkplug import as_text  # noqa: PLC0415 - protobuf is only loaded when used

    return as_text(payload)
