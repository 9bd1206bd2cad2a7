"""The words of `cityeye load`, in this process."""

from collections.abc import Iterator

import pytest
import structlog
from typer.testing import CliRunner

from city.errors import InputError
from cli.main import app


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command configures the logging of its process, which is ours."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--payload", "carrier-pigeon"), "no payload named 'carrier-pigeon'"),
        (("--profile", "sinking"), "'sinking' is no profile"),
        (("--rate", "10", "--interval", "1s"), "give one"),
        (("--faults", "lost=1%"), "unknown fault 'lost'"),
        (("--kinds", "air-macro"), "unknown kind 'air-macro'"),
        (("--bound", "ack=soon", "--find-limit"), "'soon' is not a duration"),
        (("--name", "Test 1"), "--name"),
        (("--broker", "mqtt://user:secret@127.0.0.1"), "a password does not belong"),
        (("--bound", "ack=500ms"), "add --find-limit"),
        (("compare", "nothing.json", "nothing.json"), "nothing.json: cannot be read"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], says: str) -> None:
    """What cannot be is said before anything connects, with exit status 2."""
    wrong = CliRunner().invoke(app, ["load", *words]).exception

    assert isinstance(wrong, InputError)
    assert 2 == wrong.exit_status
    assert says in str(wrong)


def test_dry_run() -> None:
    """A dry run says what would be sent when."""
    done = CliRunner().invoke(app, ["load", "--dry-run", "--profile", "spike", "--rate", "100"])

    assert 0 == done.exit_code
    assert ["phase", "connecting", "before", "spike", "after"] == [
        line.split()[0] for line in done.stdout.splitlines()
    ]


def test_example() -> None:
    """An example shows topic and payload of a preset."""
    done = CliRunner().invoke(app, ["load", "example", "thingsboard"])

    assert 0 == done.exit_code
    assert done.stdout.startswith("v1/devices/me/telemetry {")
