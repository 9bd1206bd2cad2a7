"""All dashboards, and the files that they are kept in."""

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from . import (
    airstation,
    alarmlist,
    emissions,
    gasnetwork,
    ingesthealth,
    loadtest,
    overview,
    river,
)
from .board import Board, render

FOLDER: Final = Path(__file__).parents[1] / "dashboards"
BOARDS: Final[tuple[Board, ...]] = tuple(
    module.BOARD
    for module in (
        overview, airstation, river, gasnetwork, emissions, alarmlist, ingesthealth, loadtest,
    )
)  # fmt: skip


def files() -> dict[str, str]:
    """What every file holds, by its name."""
    return {f"{board.name}.json": _text(board) for board in BOARDS}


def _text(board: Board) -> str:
    text = json.dumps(render(board), cls=JSONEncoder, indent=2, ensure_ascii=False, sort_keys=True)
    return f"{text}\n"
