"""Ctrl-C and SIGTERM: the first ends the work in order, the second ends it at once."""

import asyncio
import os
import signal
from collections.abc import Callable

import structlog

from cli.logs import CONSOLE

_log = structlog.get_logger(__name__)


class Stop:
    """The wish to stop, for one command in the running loop.

    Before the work begins there is nothing to bring to an end: then the first signal cancels the
    command, wherever it waits.
    """

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self._command = asyncio.current_task()
        self._working = False
        self._at_once: Callable[[], None] = lambda: None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)

    def working(self, at_once: Callable[[], None] | None = None) -> None:
        """From now on a signal lets the work come to its end; `at_once` runs at the second one."""
        self._working = True
        self._at_once = at_once or self._at_once

    def _signalled(self) -> None:
        if self.wanted.is_set():
            self._at_once()
            CONSOLE.show_cursor()
            os._exit(1)
        self.wanted.set()
        if self._working:
            _log.info("stopping, the rest is brought to its place; Ctrl-C again stops at once")
        elif self._command is not None:
            self._command.cancel()
