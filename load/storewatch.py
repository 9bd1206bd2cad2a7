"""How long until a reading can be read in the store, as CityEye's ingest keeps it.

A few devices are watched. The store is asked again and again for their points after the last one
that was seen, all in one query, and every point that is new is counted, not only the newest: a store
that stood still and then catches up shows it. The delay is counted up to the instant at which the
answer was here, so it is an upper bound: too long by one round at most, which is `POLL_S` and the
time of a query. What reaches the store after a later point of its device is not seen.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import msgspec
import structlog

from city.backoff import Backoff
from city.cityfile import Address
from city.clock import wall_ms
from city.errors import SettingError, StoreError
from ingest.influxhttp import Series, quoted
from ingest.storeurl import open_store
from load.line import Line, begun
from load.pace import Pace
from load.plan import LoadPlan, Part
from load.teller import Teller

_log = structlog.get_logger(__name__)

PROBES: Final = 25
"""So many devices are watched."""

POLL_S: Final = 0.05
"""The pause between two queries, at least."""

_PAUSES: Final = 9.0
"""A pause is so many times as long as the query before it, at least.

Measured with InfluxDB 1.6.7: 25 devices among 2,000 cost it a twentieth of a core."""

_QUIET_S: Final = 3.0
"""So long nothing new can be read when all has been written."""

_STALE_MS: Final = 30_000
"""A device so far behind the others is asked for apart, so that the others' answers stay short."""

_STALE_EVERY: Final = 20
"""And only in one of so many rounds."""

_BEHIND: Final = 2.0
"""A device that shows nothing of so many last intervals has something on its way."""


class Asks(Protocol):
    """A store that answers InfluxQL."""

    name: str

    async def open(self) -> None:
        """Connect."""

    async def query(self, statement: str) -> list[Series]:
        """The answer to a statement."""

    async def close(self) -> None:
        """Release the connection."""


class Probe(msgspec.Struct):
    """One device that is watched."""

    address: Address
    seen_ms: int
    """The instant of its newest point that was seen, or from which points count."""


class Round(msgspec.Struct, frozen=True):
    """What a round found: delays [us] of the points that were new."""

    delays_us: tuple[int, ...]
    took_s: float


class Eye:
    """Looks for new points of some devices."""

    def __init__(
        self, store: Asks, addresses: Sequence[Address], since_ms: int, *, stale_ms: int = _STALE_MS
    ) -> None:
        """Points from `since_ms` on count."""
        self._store = store
        self._stale_ms = stale_ms
        self._probes = {
            (str(one.domain), one.site, one.device): Probe(one, since_ms - 1) for one in addresses
        }
        self._rounds = 0

    @property
    def seen_ms(self) -> list[int]:
        """The instant of the newest point of every device that was seen."""
        return [probe.seen_ms for probe in self._probes.values()]

    async def look(self) -> Round:
        """Ask once.

        Raises:
            StoreError: The store does not answer.
        """
        began_s = time.monotonic()
        delays_us: list[int] = []
        self._rounds += 1
        for group in self._asked():
            tables = await self._store.query(statement_of(group))
            now_us = time.time_ns() // 1_000
            for table in tables:
                delays_us += self._new(table, now_us)
        return Round(tuple(delays_us), time.monotonic() - began_s)

    def _asked(self) -> Iterable[list[Probe]]:
        """The devices of each query of this round."""
        newest_ms = max(probe.seen_ms for probe in self._probes.values())
        fresh: list[Probe] = []
        stale: list[Probe] = []
        for probe in self._probes.values():
            (fresh if newest_ms - probe.seen_ms < self._stale_ms else stale).append(probe)
        yield from _by_domain(fresh)
        if self._rounds % _STALE_EVERY == 0:
            yield from _by_domain(stale)

    def _new(self, table: Series, now_us: int) -> list[int]:
        """Delays of the points of one device that were not seen before."""
        probe = self._probes.get(
            (table.name, table.tags.get("site", ""), table.tags.get("device", ""))
        )
        if probe is None:
            return []
        instants = sorted(row[0] for row in table.values if row[0] > probe.seen_ms)
        if instants:
            probe.seen_ms = instants[-1]
        return [now_us - ts_ms * 1_000 for ts_ms in instants]


def _by_domain(probes: Iterable[Probe]) -> Iterable[list[Probe]]:
    grouped: defaultdict[str, list[Probe]] = defaultdict(list)
    for probe in probes:
        grouped[probe.address.domain].append(probe)
    return grouped.values()


def statement_of(probes: Sequence[Probe]) -> str:
    """What asks for the points after the last seen one, of devices of one domain and city."""
    first = probes[0].address
    chosen = " OR ".join(
        f"(site = {_text(one.address.site)} AND device = {_text(one.address.device)})"
        for one in probes
    )
    since_ms = min(probe.seen_ms for probe in probes)
    return (
        f"SELECT seq FROM {quoted(first.domain)} WHERE time > {since_ms:d}ms "
        f"AND city = {_text(first.city)} AND ({chosen}) GROUP BY site, device"
    )


def _text(value: str) -> str:
    """`value` as InfluxQL writes a text."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


class Watch:
    """The part of the test that looks into the store, from its first word to its last."""

    def __init__(self, plan: LoadPlan, teller: Teller, store: Asks) -> None:
        self._plan = plan
        self._teller = teller
        self._store = store
        self._backoff = Backoff(first_s=0.1, cap_s=2.0)
        self._away = False
        self._new_at_s = time.monotonic()

    async def run(self, part: Part, line: Line) -> None:
        """Watch until everything can be read, or the end has been waited for."""
        pace = Pace(self._plan, part.start_ms)
        stale_ms = max(_STALE_MS, round(3_000 * self._plan.interval_s))
        eye = Eye(self._store, probes_of(self._plan), part.start_ms, stale_ms=stale_ms)
        self._teller.tell({})
        try:
            while not self._over(pace, eye):
                await asyncio.sleep(await self._look(eye))
                if orders := line.heard():
                    pace.follow(orders)
                if self._teller.is_due(pace):
                    self._teller.tell({})
        finally:
            self._teller.tell({}, last=True)

    async def _look(self, eye: Eye) -> float:
        """Ask once; how long to pause then [s]."""
        try:
            found = await eye.look()
        except StoreError as error:
            if not self._away:
                self._teller.warn(f"the delay until readable is unknown for a while: {error}")
            self._away = True
            return self._backoff.delay_s()
        self._away = False
        self._backoff.reset()
        if found.delays_us:
            self._new_at_s = time.monotonic()
            self._teller.delays.of("store").extend(found.delays_us)
        return max(POLL_S, found.took_s * _PAUSES)

    def _over(self, pace: Pace, eye: Eye) -> bool:
        after_s = (wall_ms() - pace.end_ms) / 1_000
        if after_s < 0:
            self._new_at_s = time.monotonic()
            return False
        behind = self._behind(pace, eye)
        if after_s < self._plan.drain_s:
            return not behind and time.monotonic() - self._new_at_s > _QUIET_S
        if behind:
            self._teller.warn(
                f"{after_s:.0f} s after the end the last readings of {behind} of {len(eye.seen_ms)} "
                f"watched devices could not be read in {self._store.name}; does `cityeye ingest "
                "--every-city` work with this broker and this store, and keep up?"
            )
        return True

    def _behind(self, pace: Pace, eye: Eye) -> int:
        """Of how many devices something is on its way."""
        lag_ms = _BEHIND * self._plan.interval_s * 1_000
        until_ms = pace.city_ms(pace.end_ms) - lag_ms
        return sum(pace.city_ms(seen_ms) < until_ms for seen_ms in eye.seen_ms)


async def watch_store(
    plan: LoadPlan,
    part: Part,
    line: Line,
    *,
    store: str,
    token: str | None = None,
    user: str | None = None,
    password: str | None = None,
) -> None:
    """Look into the store until the test is over; it is open before the first word.

    Args:
        plan: The test; its template is CityEye's own.
        part: Which part of it this is.
        line: To the conductor.
        store: One of `ingest.storeurl.SPECS` that is a server.
        token: For InfluxDB 2.x and 3.x.
        user: For InfluxDB 1.x.
        password: Of that user.

    Raises:
        SettingError: It is no store that a second process can read.
        StoreError: It cannot be reached, or does not let us read.
    """
    opened = store_of(plan, store, token=token, user=user, password=password)
    await opened.open()
    try:
        await opened.query("SHOW MEASUREMENTS LIMIT 1")
        teller = Teller("store", part.number, line)
        watch = Watch(plan, teller, opened)
        part = await begun(part, line)
        _log.info("delays until readable are upper bounds", store=opened.name, round_s=POLL_S)
        await watch.run(part, line)
    finally:
        await opened.close()


def store_of(
    plan: LoadPlan, spec: str, *, token: str | None, user: str | None, password: str | None
) -> Asks:
    """The store to look into, not yet opened.

    Raises:
        SettingError: It cannot be read by a second process, or holds no readings of the test.
    """
    word = spec.partition(":")[0]
    if word in {"duckdb", "influxd"}:
        raise SettingError(
            f"--store {spec}: it belongs to the process that writes to it; to see when readings "
            "can be read, let `cityeye ingest` write to a server (influx1://HOST:PORT/DATABASE or "
            "influx2://HOST:PORT/ORG/BUCKET) and name the same one here"
        )
    if plan.template.format != "native":
        raise SettingError(
            f"--store {spec}: `cityeye ingest` stores no messages of template "
            f"{plan.template.name!r}; leave --store out, or use the template native"
        )
    opened = open_store(spec, data_dir=Path(), token=token, user=user, password=password)
    return cast("Asks", opened)


def probes_of(plan: LoadPlan) -> list[Address]:
    """The devices to watch: some at random, the same ones for a seed."""
    addresses = [device.address for device in plan.city().devices()]
    chosen = random.Random(plan.seed)  # noqa: S311 - a sample, not a secret
    return chosen.sample(addresses, min(PROBES, len(addresses)))
