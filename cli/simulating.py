"""The simulated city, assembled on a broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from broker.acl import Role
from broker.choice import RunningBroker
from city.cityfile import City
from city.clock import Clock, wall_ms
from city.quantities import Domain
from city.settings import Settings
from cli.access import Access
from sensors.engine import CityEngine
from sensors.fleet import Fleet
from sensors.network import solve_network
from sensors.timekeeper import Timekeeper
from sensors.truth import TruthLog
from sensors.truthteller import Truthteller

_log = structlog.get_logger(__name__)

_TELL_TIMEOUT_S: Final = 5.0


class Simulating(msgspec.Struct, frozen=True):
    """What runs while the city is simulated."""

    city: City
    seed: int
    fleet: Fleet
    clock: Clock
    teller: Truthteller

    async def play(self, settings: Settings, stop: asyncio.Event) -> bool:
        """Simulate until the time is over or `stop` is set; whether all was acknowledged."""
        duration_ms = settings.duration_ms
        until_ms = None if duration_ms is None else self.clock.start_ms + duration_ms
        async with asyncio.TaskGroup() as tasks:
            playing = tasks.create_task(self.fleet.run(until_ms=until_ms), name="fleet")
            stopping = tasks.create_task(stop.wait(), name="stop")
            await asyncio.wait([playing, stopping], return_when=asyncio.FIRST_COMPLETED)
            playing.cancel()
            stopping.cancel()
        done = await self.fleet.leave()
        if not done:
            _log.error(
                "the broker did not acknowledge everything in time", waiting=self.fleet.waiting
            )
        return done


@asynccontextmanager
async def simulating(
    settings: Settings, broker: RunningBroker, city: City, *, truth: Path | None = None
) -> AsyncIterator[Simulating]:
    """The simulated city with its fleet, ready to play; `truth` is where its truth log goes.

    Raises:
        SettingError: Credentials or certificates cannot be used.
        BrokerError: The broker refuses us, or cannot be reached within the patience.
    """
    seed = city.seed if settings.seed is None else settings.seed
    access = Access.to(settings, broker)
    session = access.session(Role.SIM, f"cityeye-clock-{city.city}", clean=True)
    logins = access.devices(city)
    async with asyncio.TaskGroup() as tasks:
        ticking = [tasks.create_task(session.run(), name="clock session")]
        await session.ready(patience_s=settings.patience_s)
        _log.info("preparing the city", city=city.city, seed=seed)
        if any(site.domain is Domain.GAS for site in city.sites):
            # takes seconds the first time: "now" is the start only after it
            await asyncio.to_thread(solve_network, city.gas.network)
        start_ms = settings.start_ms(city.start, wall_ms())
        engine = await asyncio.to_thread(CityEngine, city, seed=seed, start_ms=start_ms)
        clock = Clock(start_ms, speed=settings.simulated_speed)
        keeper = Timekeeper(session, clock, city=city.city, seed=seed)
        await keeper.announce()
        ticking.append(tasks.create_task(keeper.run(), name="clock"))
        fleet = Fleet(
            engine,
            clock,
            broker.address,
            password=settings.broker_password,
            logins=logins,
            tls=access.tls(),
        )
        with TruthLog(truth, append=True) if truth else nullcontext() as log:
            teller = Truthteller(session, engine, clock, city=city.city, log=log)
            telling = tasks.create_task(teller.run(), name="truth")
            yield Simulating(city, seed, fleet, clock, teller)
            telling.cancel()
            await asyncio.wait([telling])
            with suppress(TimeoutError):
                async with asyncio.timeout(_TELL_TIMEOUT_S):
                    await teller.tell(clock.start_ms + fleet.simulated_ms)
        session.disconnect()
        for task in ticking:
            task.cancel()
