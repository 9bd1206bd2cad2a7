"""Live control: keys of a terminal, messages, and the dial that they turn."""

import asyncio
import contextlib
import io
import os
import pty
import termios
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TextIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from broker.codec import Publish
from broker.session import Link
from broker.topics import load_topic
from load.keys import STEP, Dial, Keys, Remote, Wish, wish_in

Until = Callable[[Callable[[], object]], Awaitable[None]]


class Terminal:
    """A terminal: what a person types arrives at the stream."""

    def __init__(self) -> None:
        self.person, shown = pty.openpty()
        self.stream: TextIO = os.fdopen(shown)

    def type(self, keys: bytes) -> None:
        """Press these keys."""
        os.write(self.person, keys)

    @property
    def modes(self) -> list[Any]:
        """How the terminal is set."""
        return termios.tcgetattr(self.stream)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal."""
    opened = Terminal()
    yield opened
    opened.stream.close()
    os.close(opened.person)


class AcknowledgingLink:
    """The link of a session, as far as a receiver needs it."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def acknowledge(self, mids: list[int]) -> None:
        """Take note."""
        self.acknowledged += mids


def received(*payloads: bytes, retain: bool = False) -> tuple[list[Wish], list[Any], list[int]]:
    """What these messages wish, what is logged of them, and which are acknowledged."""
    wishes: list[Wish] = []
    link = AcknowledgingLink()
    messages = [
        Publish(b"topic", payload, 1, retain, dup=False, mid=number)
        for number, payload in enumerate(payloads, 1)
    ]
    with capture_logs() as logs:
        Remote(wishes.append).receive(cast("Link", link), messages)
    return wishes, logs, link.acknowledged


async def test_keys(terminal: Terminal, until: Until) -> None:
    """Each key is heard at once, without a new line; other keys do nothing."""
    wishes: list[Wish] = []
    with Keys(wishes.append, terminal.stream):
        terminal.type(b"+-x\x1bpR=_q")
        await until(lambda: len(wishes) == 7)

    up, down = Wish(times=STEP), Wish(times=1 / STEP)
    assert [up, down, Wish(pause=True), Wish(pause=False), up, down, Wish(stop=True)] == wishes


async def test_restored(terminal: Terminal) -> None:
    """The terminal is as before at the end, and was not in between."""
    before = terminal.modes
    with Keys(lambda _: None, terminal.stream) as keys:
        between = terminal.modes
        assert keys.listening

    assert before == terminal.modes
    assert before != between


async def test_restored_after_error(terminal: Terminal) -> None:
    """The terminal is as before after an exception, too."""
    before = terminal.modes
    with pytest.raises(LookupError), Keys(lambda _: None, terminal.stream):
        raise LookupError

    assert before == terminal.modes


async def test_restored_when_cancelled(terminal: Terminal) -> None:
    """The terminal is as before after the task is cancelled, as by Ctrl-C."""
    before = terminal.modes
    listening = asyncio.Event()

    async def listen() -> None:
        with Keys(lambda _: None, terminal.stream):
            listening.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(listen())
    await listening.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert before == terminal.modes


async def test_twice_restored(terminal: Terminal) -> None:
    """Giving the terminal back twice does nothing."""
    with Keys(lambda _: None, terminal.stream) as keys:
        keys.restore()
        keys.restore()

    assert not keys.listening


async def test_signals_stay(terminal: Terminal) -> None:
    """Ctrl-C stays a signal while keys are heard."""
    with Keys(lambda _: None, terminal.stream):
        local_modes = cast("int", terminal.modes[3])

    assert local_modes & termios.ISIG


async def test_stream_stays_blocking(terminal: Terminal) -> None:
    """What other programs share with us, the stream's own descriptor, goes on to block."""
    with Keys(lambda _: None, terminal.stream):
        blocking = os.get_blocking(terminal.stream.fileno())

    assert blocking


async def test_no_terminal() -> None:
    """Without a terminal nothing happens."""
    with Keys(lambda _: None, io.StringIO()) as keys:
        assert not keys.listening


async def test_file(tmp_path: Any) -> None:
    """A file is no terminal."""
    with (tmp_path / "keys").open("w+") as stream, Keys(lambda _: None, stream) as keys:
        assert not keys.listening


async def test_hung_up() -> None:
    """A terminal that is closed while keys are heard is listened to no longer, without an error."""
    opened = Terminal()
    loop = asyncio.get_running_loop()
    errors: list[Any] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    with Keys(lambda _: None, opened.stream) as keys:
        assert keys._terminal is not None
        os.close(opened.person)
        for _ in range(10):
            await asyncio.sleep(0)
        still_listened_to = loop.remove_reader(keys._terminal)
    opened.stream.close()

    assert not still_listened_to
    assert [] == errors


@pytest.mark.parametrize(
    ("payload", "wish"),
    [
        (b'{"factor": 1.5}', Wish(factor=1.5)),
        (b'{"rate": 20000}', Wish(rate=20_000.0)),
        (b'{"pause": true}', Wish(pause=True)),
        (b'{"pause": false}', Wish(pause=False)),
        (b'{"stop": true}', Wish(stop=True)),
    ],
)
def test_message(payload: bytes, wish: Wish) -> None:
    """A message says one wish."""
    assert ([wish], [], [1]) == received(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{}", b"[]", b"stop", b'"stop"', b"\xff\xfe", b'{"factor": "2"}', b'{"factor": true}',
        b'{"factor": -1}', b'{"factor": 0}', b'{"factor": NaN}', b'{"factor": 1e999}',
        b'{"rate": 1e12}', b'{"pause": 1}', b'{"stop": false}', b'{"stop": null}',
        b'{"factor": 1, "rate": 5}', b'{"fcator": 1}', b'{"factor": 1' + b" " * 2_000 + b"}",
    ],
)  # fmt: skip
def test_refused(payload: bytes) -> None:
    """A message that says no wish, or several, is acknowledged, logged and does nothing."""
    wishes, logs, acknowledged = received(payload)

    assert ([], 1, [1]) == (wishes, len(logs), acknowledged)
    assert "control refused" == logs[0]["event"]


def test_others_follow() -> None:
    """The wishes beside a refused message count."""
    assert [Wish(factor=2.0), Wish(stop=True)] == received(
        b'{"factor": 2}', b"rubbish", b'{"stop": true}'
    )[0]


def test_retained() -> None:
    """A retained message was not said to this test."""
    wishes, logs, _ = received(b'{"stop": true}', retain=True)

    assert ([], 1) == (wishes, len(logs))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_hostile(payload: bytes) -> None:
    """Whatever arrives says one wish or is refused by the one error that says why."""
    with contextlib.suppress(ValueError):
        wish = wish_in(payload)
        said = (wish.factor, wish.rate, wish.pause, wish.stop or None)

        assert 1 == sum(value is not None for value in said)


def test_topic() -> None:
    """The topic names the city and the run."""
    assert "cityeye/v1/lanting/load/monday/control" == load_topic("lanting", "monday", "control")


def test_turn() -> None:
    """Wishes multiply the factor, set it, or set the rate."""
    dial = Dial(10_000.0)

    assert [1.1, 2.0, 0.5] == pytest.approx(
        [dial.turn(Wish(times=1.1)), dial.turn(Wish(factor=2.0)), dial.turn(Wish(rate=5_000.0))]
    )


def test_pause() -> None:
    """A pause is factor 0; after it the factor is that of before."""
    dial = Dial(10_000.0)
    dial.turn(Wish(factor=2.0))

    assert [0.0, None, 2.0] == [dial.turn(Wish(pause=one)) for one in (True, True, False)]


def test_turned_in_pause() -> None:
    """What is wished during a pause holds after it."""
    dial = Dial(10_000.0)
    dial.turn(Wish(pause=True))

    assert [None, 3.0] == [dial.turn(Wish(factor=3.0)), dial.turn(Wish(pause=False))]


@settings(deadline=None)
@given(st.lists(st.sampled_from([STEP, 1 / STEP]), max_size=300))
def test_bounded(steps: list[float]) -> None:
    """However often the keys are pressed, the factor stays one that can be ordered."""
    dial = Dial(1.0)
    for step in steps:
        dial.turn(Wish(times=step))

    assert 0 < dial.factor <= 10_000


def test_stop_turns_nothing() -> None:
    """A stop is no factor."""
    assert Dial(1.0).turn(Wish(stop=True)) is None
