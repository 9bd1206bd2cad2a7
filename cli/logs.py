"""Logs go to standard error: coloured for people, one line of key=value pairs for programs."""

import logging
import sys
from typing import Final

import structlog
from rich.console import Console

CONSOLE: Final = Console(stderr=True)
"""Where people look while a command works; the live view and the logs share it."""


class _Through:
    """A file that writes through the console, so that a live view stays in one piece."""

    def write(self, text: str) -> int:
        if text.strip():
            CONSOLE.print(text.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        CONSOLE.file.flush()


def _for_people(_: object, __: str, event: structlog.typing.EventDict) -> str:
    """One line as a sentence: what happened, then what belongs to it."""
    when, level, what = event.pop("timestamp"), event.pop("level"), event.pop("event")
    trace = event.pop("exception", "")
    facts = ", ".join(
        str(value) if name == "name" else f"{name} {value}" for name, value in event.items()
    )
    urgency = "" if level in {"info", "debug"} else f"{level.upper()} "
    return f"{when} {urgency}{what}" + (f": {facts}" if facts else "") + (trace and f"\n{trace}")


def start_logging(level: str) -> None:
    """Log from `level` on."""
    terminal = CONSOLE.is_terminal
    renderer: structlog.typing.Processor = (
        _for_people
        if terminal
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(
                fmt="%H:%M:%S" if terminal else "iso", utc=not terminal
            ),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(_Through() if terminal else sys.stderr),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
