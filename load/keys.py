"""Live control of a load test: single keys from its terminal, and messages from afar.

Both say wishes; a `Dial` turns wishes into the factor that is ordered of the shards.

A message is JSON on `cityeye/v1/{city}/load/{run}/control` and holds exactly one of
`{"factor": 1.5}` (of the rate of the test), `{"rate": 20000}` (messages per second),
`{"pause": true}`, `{"pause": false}` and `{"stop": true}`.
"""

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, TextIO

import msgspec
import structlog

from broker.codec import Publish
from broker.loadmessages import FACTOR_MAX, LoadControl
from broker.session import Link

_log = structlog.get_logger(__name__)

STEP: Final = 1.1
"""A key changes the rate by 10 %."""

_FACTOR_MIN: Final = 0.0001
_PAYLOAD_MAX: Final = 1_024
_READ_MAX: Final = 64


class Wish(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody wants of a running test; one of these is set."""

    times: float | None = None
    """The present factor is multiplied by this."""
    factor: float | None = None
    """The factor becomes this."""
    rate: float | None = None
    """The rate becomes this [messages/s]."""
    pause: bool | None = None
    """Nothing is sent from now on, or again what was sent before the pause."""
    stop: bool = False


Tell = Callable[[Wish], None]

KEYS: Final = {
    "+": Wish(times=STEP),
    "=": Wish(times=STEP),
    "-": Wish(times=1 / STEP),
    "_": Wish(times=1 / STEP),
    "p": Wish(pause=True),
    "r": Wish(pause=False),
    "q": Wish(stop=True),
}
"""What a key wishes; `=` and `_` are `+` and `-` with or without the shift key."""


class Dial:
    """The factor that a test runs at, as wishes turn it."""

    def __init__(self, rate: float) -> None:
        """`rate` is the test's at factor 1 [messages/s]."""
        self._rate = rate
        self._factor = 1.0
        self._paused = False

    @property
    def factor(self) -> float:
        """What the pace of the phases is multiplied by now; 0 while paused."""
        return 0.0 if self._paused else self._factor

    def turn(self, wish: Wish) -> float | None:
        """The factor to order now; None where the wish changes nothing.

        A change of the rate during a pause holds once the pause is over.
        """
        before = self.factor
        if wish.pause is not None:
            self._paused = wish.pause
        wanted = self._wanted(wish)
        if wanted is not None:
            self._factor = min(max(wanted, _FACTOR_MIN), FACTOR_MAX)
        return None if self.factor == before else self.factor

    def _wanted(self, wish: Wish) -> float | None:
        if wish.times is not None:
            return self._factor * wish.times
        if wish.rate is not None:
            return wish.rate / self._rate
        return wish.factor


class Keys:
    """Single keys of a terminal, while the context is entered, each told as a wish.

    Without a terminal, or as a background job that must not touch it, nothing happens. Ctrl-C
    stays what it is. The terminal is as before once the context is left, however that happens;
    who ends the process without leaving it calls `restore`.
    """

    def __init__(self, tell: Tell, stream: TextIO | None = None) -> None:
        """`stream` is the terminal; default: standard input."""
        self._tell = tell
        self._stream = stream
        self._terminal: int | None = None
        self._before: list[Any] = []

    @property
    def listening(self) -> bool:
        """Whether keys are heard."""
        return self._terminal is not None

    def __enter__(self) -> Self:
        self._terminal = _terminal_of(sys.stdin if self._stream is None else self._stream)
        if self._terminal is not None:
            self._before = termios.tcgetattr(self._terminal)
            tty.setcbreak(self._terminal, termios.TCSANOW)
            asyncio.get_running_loop().add_reader(self._terminal, self._pressed, self._terminal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal is not None:
            asyncio.get_running_loop().remove_reader(self._terminal)
        self.restore()

    def restore(self) -> None:
        """Give the terminal back as it was; a second call does nothing."""
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            with contextlib.suppress(termios.error):  # it may be closed by now
                termios.tcsetattr(terminal, termios.TCSANOW, self._before)
            os.close(terminal)

    def _pressed(self, terminal: int) -> None:
        try:
            pressed = os.read(terminal, _READ_MAX)
        except BlockingIOError:
            return
        except OSError:
            pressed = b""
        if not pressed:  # the terminal is closed
            asyncio.get_running_loop().remove_reader(terminal)
        for key in pressed.decode("ascii", errors="replace"):
            wish = KEYS.get(key.lower())
            if wish is not None:
                self._tell(wish)


class Remote:
    """Wishes that arrive as messages; `receive` is what a `broker.session.Session` is given."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def receive(self, link: Link, messages: list[Publish]) -> None:
        """Tell the wishes in these messages; log what is none."""
        link.acknowledge([message.mid for message in messages if message.mid])
        for message in messages:
            if message.retain:
                _log.warning("control refused", why="it was retained: said before this test")
                continue
            try:
                wish = wish_in(message.payload)
            except ValueError as error:
                _log.warning("control refused", why=str(error))
                continue
            self._tell(wish)


def wish_in(payload: bytes) -> Wish:
    """The wish that a control message says.

    Raises:
        ValueError: It says none; the text says what is wrong and what is allowed.
    """
    if len(payload) > _PAYLOAD_MAX:
        raise ValueError(f"{len(payload):,} bytes; at most {_PAYLOAD_MAX:,} are read")
    try:
        said = msgspec.json.decode(payload, type=LoadControl)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{error}; {_ALLOWED}") from error
    given = {
        name: value for name, value in msgspec.structs.asdict(said).items() if value is not None
    }
    if len(given) != 1 or said.stop is False:
        raise ValueError(f"it is not one thing to do; {_ALLOWED}")
    return Wish(**given)


_ALLOWED: Final = (
    'allowed is one of {"factor": NUMBER}, {"rate": NUMBER}, {"pause": true}, {"pause": false}, '
    '{"stop": true}'
)


def _terminal_of(stream: TextIO) -> int | None:
    """A descriptor of our own of the terminal behind a stream, which never blocks.

    The stream's own descriptor is shared with other programs, which would not expect that.
    """
    try:
        shared = stream.fileno()
        if not os.isatty(shared) or _in_background(shared):
            return None
        return os.open(os.ttyname(shared), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return None


def _in_background(terminal: int) -> bool:
    """Whether this process would be stopped for changing the terminal that controls it."""
    try:
        return os.tcgetpgrp(terminal) != os.getpgrp()
    except OSError:  # it does not control us
        return False
