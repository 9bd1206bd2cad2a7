"""`cityeye rules`: which rules watch, what each of them says, and whether a rule file is right."""

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
import yaml
from rich.console import Console
from rich.table import Table

from alerts.rules import Leaf, Rule, RuleSet, load_packs, shipped_packs
from city.cityfile import load_city
from city.documents import Document
from city.settings import SETTINGS
from cli import options
from cli.check import check
from cli.rulesentences import Explanation

rules_app = typer.Typer(
    help="Look at the alarm rules: what is watched, against which limits of which standard.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_PIPE_WIDTH: Final = 240
_HEADINGS: Final = ("rule", "kind", "of", "limits", "severity", "standard")

_Packs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PACK|FILE]...", help="Packs by name, rule files by path."),
]
_Name = Annotated[str, typer.Argument(metavar="RULE", help="The rule's identifier.")]
_From = Annotated[
    list[str] | None,
    typer.Option(
        "--rules",
        metavar="PACK|FILE",
        help="Where the rule stands: packs by name, rule files by path. Default: all shipped packs.",
    ),
]
_Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Rule files or their names.")]


@rules_app.command("list")
def list_rules(
    packs: _Packs = None,
    json: options.Json = False,  # noqa: FBT002 - an option of the command line
) -> None:
    """List rules, those of all shipped packs unless packs or files are named.

    Example: cityeye rules list gas-network my-rules.yaml
    """
    rules = rules_from(packs)
    if json:
        _print({"rules": [_row(rule) for rule in rules.rules]})
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    console.print(_table(rules))


@rules_app.command("show")
def show_rule(
    rule: _Name,
    rules: _From = None,
    json: options.Json = False,  # noqa: FBT002 - an option of the command line
) -> None:
    """Print one rule as a rule file of its own, to be changed and used under another name.

    Example: cityeye rules show gas-burst > my-rules.yaml
    """
    content = _alone(rule, rules_from(rules))
    if json:
        _print(content)
    else:
        sys.stdout.write(yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=100))


@rules_app.command("explain")
def explain_rule(
    rule: _Name,
    rules: _From = None,
    city: options.City = None,
    zh: Annotated[  # noqa: FBT002 - an option of the command line
        bool, typer.Option("--zh", help="Chinese names of what is measured.")
    ] = False,
    json: options.Json = False,  # noqa: FBT002 - an option of the command line
) -> None:
    """Say in sentences what a rule watches and what becomes of its alarms.

    Actions are told as the city file arms them.

    Example: cityeye rules explain gas-burst
    """
    known = rules_from(rules)
    where = load_city(city or SETTINGS["city"].default)
    lines = list(Explanation(known.rule(rule), known, where, zh=zh).lines())
    if json:
        _print({"rule": rule, "sentences": lines})
    else:
        sys.stdout.write("\n".join(lines) + "\n")


@rules_app.command("check")
def check_rules(
    files: _Files,
    json: options.Json = False,  # noqa: FBT002 - an option of the command line
) -> None:
    """Validate rule files; say what is in them or what is wrong, and where.

    Example: cityeye rules check my-rules.yaml
    """
    sys.exit(check(files).show(as_json=json))


def rules_from(names: list[str] | None) -> RuleSet:
    """The rules of packs by name and of files by path; of all shipped packs where none is named.

    Raises:
        DocumentError: There is no such pack or file, or one is wrong.
    """
    shipped = shipped_packs()
    chosen = names or list(shipped)
    packs = [name for name in chosen if name in shipped or not Path(name).suffix]
    return load_packs(packs, files=[Path(name) for name in chosen if name not in packs])


def _table(rules: RuleSet) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in _HEADINGS:
        table.add_column(heading, overflow="fold")
    for rule in rules.rules:
        limits = list(reversed(rule.limits))
        standards = dict.fromkeys(limit.standard for limit in limits)
        table.add_row(
            rule.id,
            rule.kind,
            rule.head.signal.name,
            _limits(rule),
            ", ".join(dict.fromkeys(limit.severity for limit in limits)),
            ", ".join(standards),
        )
    return table


def _limits(rule: Rule) -> str:
    """`H 500, HH 800 ug/m3`; the conditions of a combination in short."""
    if isinstance(rule.condition, Leaf):
        numbers = ", ".join(f"{one.level} {one.limit:g}" for one in reversed(rule.limits))
        return numbers if rule.unit == "1" else f"{numbers} {rule.unit}"
    return f"{len(rule.leaves)} conditions"


def _row(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "pack": rule.pack,
        "kind": rule.kind,
        "quantity": rule.head.signal.name,
        "unit": rule.unit,
        "limits": [msgspec.to_builtins(limit) for limit in rule.limits],
        "message": rule.message,
        "message_zh": rule.message_zh,
    }


def _alone(name: str, rules: RuleSet) -> dict[str, Any]:
    """The head of its pack's file and the one rule, as they are written there."""
    rule = rules.rule(name)
    source = next(pack.source for pack in rules.packs if pack.id == rule.pack)
    content = Document.read(Path(source)).content
    kept = [entry for entry in content["rules"] if entry["id"] == name]
    whole: dict[str, Any] = content | {"rules": kept}
    return whole


def _print(content: dict[str, Any]) -> None:
    sys.stdout.write(jsonlib.dumps(content, ensure_ascii=False, default=str) + "\n")
