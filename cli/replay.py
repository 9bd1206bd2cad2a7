"""`cityeye replay`: recorded data, sent by devices of their own as if it were measured now."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
import typer
import uvloop

from broker.choice import RunningBroker, running_broker, tls_context
from broker.session import Session
from city.clock import Clock, wall_ms
from city.settings import Settings, resolve
from cli import options
from cli.logs import start_logging
from cli.stopping import Stop
from cli.summary import Outcome
from sensors.fleet import Fleet
from sensors.recording import read_map, read_rows
from sensors.replay import Replay
from sensors.timekeeper import Timekeeper

_log = structlog.get_logger(__name__)

FASTEST_MESSAGES_PER_S: Final = 5_000
"""What speed `max` makes of a recording, whose own pace may be a row per hour."""


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, CSV.GZ or Parquet.")],
    mapping: Annotated[
        Path, typer.Option("--mapping", metavar="FILE", help="What its columns mean (YAML).")
    ],
    start: options.Start = None,
    speed: options.Speed = None,
    for_: options.For = None,
    broker: options.Broker = None,
    broker_port: options.BrokerPort = None,
    broker_ca: options.BrokerCa = None,
    data: options.Data = None,
    patience_s: options.Patience = None,
    log: options.Log = None,
    config: options.Config = None,
    json: options.Json = False,  # noqa: FBT002 - an option of the command line
) -> None:
    """Publish recorded data as devices, at its own pace or faster, with all its gaps.

    Instants are the recording's own; with --start, the first row is moved there. Rows that do not
    parse are counted and the first few shown. Ctrl-C ends the replay in order, with its summary.

    Example: cityeye replay air.csv --mapping docs/replay/beijing-air.yaml --speed 3600
    """
    given: dict[str, Any] = {
        "start": start,
        "speed": speed,
        "for": for_,
        "broker": broker,
        "log": log,
    }
    given |= {"broker_port": broker_port, "broker_ca": broker_ca, "data": data}
    settings = resolve({**given, "patience_s": patience_s}, os.environ, config)
    start_logging(settings.log)
    sys.exit(uvloop.run(replay(settings, file, mapping)).show(as_json=json))


async def replay(settings: Settings, file: Path, mapping_file: Path) -> Outcome:
    """Replay the recording in `file` until its end or that of the duration.

    Raises:
        InputError: The file or its mapping is wrong.
        BrokerError: The broker cannot be started or reached.
    """
    stop = Stop()
    mapping = read_map(mapping_file)
    rows = await asyncio.to_thread(read_rows, file, mapping)
    recording = Replay(mapping, rows, start_ms=_start_ms(settings))
    for problem in recording.problems:
        _log.warning("row left out", why=problem)
    if more := recording.refused - len(recording.problems):
        _log.warning("row left out", why=f"and {more:,} more")
    async with running_broker(
        settings.broker,
        data_dir=settings.data,
        port=settings.broker_port,
        window=settings.window,
    ) as broker:
        _log.info("broker", name=broker.name, address=str(broker.address))
        fleet, complete = await _play(settings, broker, recording, mapping.city, stop)
    figures: dict[str, Any] = {
        "broker": broker.name,
        "recording": mapping.recording,
        "rows": len(recording),
        "rows_played": fleet.messages,
        "rows_left_out": recording.refused,
        "rows_repeated": recording.repeated,
        "devices": len(fleet.devices),
        "messages": fleet.messages,
        "readings": fleet.readings,
        "acknowledged": fleet.acknowledged,
        "dropped": fleet.dropped,
    }
    return Outcome(figures, complete and not fleet.dropped)


async def _play(
    settings: Settings, broker: RunningBroker, recording: Replay, city: str, stop: Stop
) -> tuple[Fleet, bool]:
    """The fleet after the replay or the wish to stop, and whether all was acknowledged."""
    tls = tls_context(broker.address, settings.broker_ca)
    password = settings.broker_password
    session = Session(
        broker.address,
        client_id=f"cityeye-clock-{city}",
        clean=True,
        password=password,
        tls=tls,
    )
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(session.run(), name="clock session")]
        await session.ready(patience_s=settings.patience_s)
        clock = Clock(recording.first_ms, speed=_speed(settings, recording))
        keeper = Timekeeper(session, clock, city=city, seed=0)
        await keeper.announce()
        running.append(tasks.create_task(keeper.run(), name="clock"))
        fleet = Fleet(recording, clock, broker.address, password=password, tls=tls)
        duration_ms = settings.duration_ms
        until_ms = recording.last_ms + 1
        if duration_ms is not None:
            until_ms = min(until_ms, recording.first_ms + duration_ms)
        stop.working()
        async with asyncio.TaskGroup() as playing:
            sending = playing.create_task(fleet.run(until_ms=until_ms), name="fleet")
            stopping = playing.create_task(stop.wanted.wait(), name="stop")
            await asyncio.wait([sending, stopping], return_when=asyncio.FIRST_COMPLETED)
            sending.cancel()
            stopping.cancel()
        done = await fleet.leave()
        if not done:
            waiting = fleet.waiting
            _log.error("the broker did not acknowledge everything in time", waiting=waiting)
        session.disconnect()
        for task in running:
            task.cancel()
    return fleet, done


def _start_ms(settings: Settings) -> int | None:
    """Where the first row is moved to; None for where it was."""
    return None if settings.start is None else settings.start_ms(None, wall_ms())


def _speed(settings: Settings, recording: Replay) -> float:
    """Simulated seconds per second; `max` is a steady pace that every broker takes."""
    if settings.speed != "max":
        return settings.simulated_speed
    span_s = max(1.0, (recording.last_ms - recording.first_ms) / 1000.0)
    return max(1.0, span_s * FASTEST_MESSAGES_PER_S / len(recording))
