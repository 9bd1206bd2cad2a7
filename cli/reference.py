"""Writes docs/settings.md and docs/commands.md: `python -m cli.reference [DIRECTORY]`.

Both are made from what the program itself reads and says, so they cannot drift from it.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import typer.main

from city.settings import SETTINGS, Setting
from cli.main import app

_WIDTH: Final = 80

_SETTINGS_HEAD: Final = """\
# Settings

A setting is looked for on the command line, then in the environment, then in the settings file
(`--config FILE` or `CITYEYE_CONFIG`), and else has its default. An empty variable counts as not
given. An unknown variable that begins with `CITYEYE_`, an unknown key in the file and a value that
is not allowed are errors that name the place; nothing is started then.

The settings file is YAML, with the names below as keys:

```yaml
city: lanting
speed: 10
store: influx1://127.0.0.1:8086/cityeye
rules: [gas-network, my-rules.yaml]
```

Durations are a number and a unit: `250ms`, `90s`, `5m`, `1h`, `2d`; without a unit, seconds. In a
variable, several rule packs stand with commas between them.

Not every command takes every setting; `cityeye COMMAND --help` and [commands](commands.md) say which.

| name | option | variable | default | meaning |
|---|---|---|---|---|
"""

_SECRETS_HEAD: Final = """
## Secrets

Secrets come from the environment alone, never from the command line or the settings file. The
variable holds the secret, or the one with `_FILE` names a file that holds it.

| variable | or | meaning |
|---|---|---|
"""

_COMMANDS_HEAD: Final = """\
# Commands

Every command ends with a summary for people, or with one JSON object on standard output under
`--json`; logs go to standard error. The exit status is 0 when all is done, 1 when something failed
or is missing, 2 for wrong usage or input, and 130 when Ctrl-C came before the work began. During
the work, the first Ctrl-C brings it to its end: what was measured is sent, stored and summed up.

What the options mean in full stands in [settings](settings.md).
"""


def settings_page() -> str:
    """The page about every setting."""
    rows = SETTINGS.values()
    plain = "".join(_row(row) for row in rows if not row.secret)
    secret = "".join(
        f"| `{row.variable}` | `{row.variable}_FILE` | {_cell(row.sentence)} |\n"
        for row in rows
        if row.secret
    )
    return _SETTINGS_HEAD + plain + _SECRETS_HEAD + secret


def commands_page() -> str:
    """The page with the help of every command, as a terminal of 80 columns shows it."""
    command = typer.main.get_command(app)
    parts = (f"\n## {name}\n\n```\n{text}\n```\n" for name, text in helps("cityeye", command))
    return _COMMANDS_HEAD + "".join(parts)


def helps(name: str, command: Any, parent: Any = None) -> Iterator[tuple[str, str]]:
    """The help of `command` and of all commands below it, by their full names."""
    context = command.context_class(
        command, info_name=name.rpartition(" ")[2], parent=parent, terminal_width=_WIDTH
    )
    yield name, command.get_help(context).strip()
    below: Mapping[str, Any] = getattr(command, "commands", {})
    for word, part in below.items():
        yield from helps(f"{name} {word}", part, context)


def _row(row: Setting) -> str:
    default = "" if row.default in {None, ()} else f"`{row.default}`"
    cells = (f"`{row.name}`", f"`{row.option}`", f"`{row.variable}`", default, _cell(row.sentence))
    return f"| {' | '.join(cells)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write both pages."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "settings.md").write_text(settings_page(), encoding="utf-8")
    (directory / "commands.md").write_text(commands_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
