"""Ctrl-C and SIGTERM: the first ends the work in order, the second ends it at once."""

import asyncio
import os
import signal

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
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)

    def working(self) -> None:
        """From now on a signal lets the work come to its end."""
        self._working = True

    def _signalled(self) -> None:
        if self.wanted.is_set():
            CONSOLE.show_cursor()
            os._exit(1)
        self.wanted.set()
        if self._working:
            _log.info("stopping, the rest is brought to its place; Ctrl-C again stops at once")
        elif self._command is not None:
            self._command.cancel()
