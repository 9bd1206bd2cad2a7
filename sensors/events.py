"""What goes wrong at the devices of a group: when, at which columns, how strongly.

Events of the city file, events that are drawn at the city's rates, and those that a command
causes have one shape: spells. Spells are arrays, so that any number of them costs a tile a
handful of calls. What a spell does is for `faults` and `fraud` to say.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, Event
from city.documents import suggestion
from city.errors import InputError
from city.events import EVENT_KINDS, EventKind, Layer
from sensors.fields import Group
from sensors.instruments import INSTRUMENTS
from sensors.randomness import Lanes

DAY_MS: Final = 86_400_000
FOR_EVER_MS: Final = 2**53
"""An instant that no run reaches."""

_LOOK_BACK_DAYS: Final = 3
"""No drawn event lasts longer."""
_DAYS_PER_YEAR: Final = 365.2425
_DAYS_KEPT: Final = 4
_EXTRA_DRAWS: Final = 3
"""Besides the parameters: start, duration, quantity."""

STACK_GASES: Final = ("stack_pm", "stack_so2", "stack_nox")
WATER_LOADS: Final = (
    "effluent_cod", "effluent_ammonia_n", "effluent_total_p", "effluent_total_n",
)  # fmt: skip


class Chance(msgspec.Struct, frozen=True):
    """What a drawn event looks like: duration [h] (evenly in its logarithm) and parameters."""

    hours: tuple[float, float]
    ranges: tuple[tuple[float, float], ...] = ()
    one_quantity: bool = False


CHANCES: Final = {
    "drift": Chance((24.0, 72.0), ((0.05, 0.5), (0.05, 0.5)), one_quantity=True),
    "stuck": Chance((2.0, 72.0), one_quantity=True),
    "spike": Chance((0.5, 6.0), ((10.0, 60.0), (1.0, 20.0)), one_quantity=True),
    "noise": Chance((1.0, 48.0), ((3.0, 15.0),), one_quantity=True),
    "silence": Chance((0.2, 48.0)),
    "clock-skew": Chance((1.0, 72.0), ((-300.0, 300.0),)),
    "comm-loss": Chance((0.05, 6.0)),
    "maintenance": Chance((0.5, 4.0)),
    "fault": Chance((0.5, 24.0)),
    "stopped": Chance((2.0, 48.0)),
    "constant": Chance((4.0, 72.0), ((0.1, 0.6), (0.0, 0.02))),
    "cap": Chance((4.0, 72.0), ((0.9, 0.99),)),
    "scale": Chance((4.0, 72.0), ((0.2, 0.6),)),
    "air-dilution": Chance((2.0, 48.0), ((0.2, 0.8),)),
    "o2-fake": Chance((4.0, 72.0), ((5.0, 8.0),)),
    "sample-swap": Chance((2.0, 48.0), ((5.0, 20.0),)),
}
"""Ranges of drift, stuck and the frauds are those of the domain's catalogue (grade D); durations
that it does not give are engineering defaults. Calibration is not drawn: it is done every day."""


class Spells(msgspec.Struct, frozen=True, eq=False):
    """Spells of one kind at one group's devices.

    `rows`, `from_ms` and `until_ms` have the shape (e,), `columns` says which quantities are
    touched, shape (e, q), and `params`, shape (e, p), has the kind's parameters in their order.
    """

    rows: NDArray[np.int64]
    from_ms: NDArray[np.int64]
    until_ms: NDArray[np.int64]
    columns: NDArray[np.bool_]
    params: NDArray[np.float64]


class Spell(msgspec.Struct, frozen=True):
    """One spell, before it becomes a row of arrays; `event` is what it belongs to."""

    event: str
    kind: str
    row: int
    from_ms: int
    until_ms: int
    columns: tuple[int, ...]
    params: tuple[float, ...]


class Tile(msgspec.Struct, frozen=True, eq=False):
    """Samples computed at once: `repeats` rounds of the same devices in the same order.

    `rows` and `ts` have the shape (m,), m = `repeats` * devices; `place`, shape (n,), is each
    device's position within a round, outside of it for devices that the tile lacks.
    """

    rows: NDArray[np.int64]
    ts: NDArray[np.int64]
    place: NDArray[np.int64]
    repeats: int

    def hits(
        self, spells: Spells, *, after_ms: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The samples that lie in spells (or up to `after_ms` after), and the spells' indices."""
        devices = len(self.rows) // self.repeats
        until_ms = spells.until_ms + after_ms
        near = (spells.from_ms <= self.ts.max()) & (until_ms > self.ts.min())
        place = self.place[spells.rows]
        spell = np.flatnonzero(near & (place >= 0) & (place < devices))
        rounds = devices * np.arange(self.repeats, dtype=np.int64)
        samples = (place[spell][:, None] + rounds).ravel()
        spell = np.repeat(spell, self.repeats)
        ts = self.ts[samples]
        inside = (spells.from_ms[spell] <= ts) & (ts < until_ms[spell])
        return samples[inside], spell[inside]

    def cells(
        self, spells: Spells
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The single values that lie in spells: sample, spell and column, shape (c,) each."""
        samples, spell = self.hits(spells)
        hit, columns = np.nonzero(spells.columns[spell])
        return samples[hit], spell[hit], columns


def touched_columns(kind: str, quantities: Sequence[str], quantity: str | None) -> tuple[int, ...]:
    """The columns that an event of `kind` changes by itself, at most that of `quantity`."""
    row = EVENT_KINDS[kind]
    names = set(row.touches or quantities) & set(quantities)
    if row.spares:
        names -= {*row.spares, *(name for name in quantities if name.endswith("_corrected"))}
    if kind == "calibration":
        names = {name for name in names if INSTRUMENTS[name].calibration_min} or names
    if quantity is not None:
        whole = row.takes_quantity
        names &= {quantity, quantity.removesuffix("_corrected")} if whole else names
    return tuple(column for column, name in enumerate(quantities) if name in names)


def as_arrays(spells: Iterable[Spell], quantities: int) -> dict[str, Spells]:
    """The spells by kind, as arrays."""
    kinds: dict[str, list[Spell]] = {}
    for spell in spells:
        kinds.setdefault(spell.kind, []).append(spell)
    return {kind: _arrays(rows, quantities) for kind, rows in kinds.items()}


def _arrays(spells: Sequence[Spell], quantities: int) -> Spells:
    columns = np.zeros((len(spells), quantities), dtype=np.bool_)
    for index, spell in enumerate(spells):
        columns[index, list(spell.columns)] = True
    return Spells(
        rows=np.array([spell.row for spell in spells], dtype=np.int64),
        from_ms=np.array([spell.from_ms for spell in spells], dtype=np.int64),
        until_ms=np.array([spell.until_ms for spell in spells], dtype=np.int64),
        columns=columns,
        params=np.array([spell.params for spell in spells], dtype=np.float64),
    )


class Script:
    """All spells of instruments and frauds at one group, scripted, drawn and commanded."""

    def __init__(self, city: City, group: Group, *, seed: int, start_ms: int) -> None:
        """Bind the city's events to the group.

        Raises:
            InputError: The city gives a rate for a kind of event that is not drawn.
        """
        self._group = group
        self._inspections = _inspections(city, start_ms)
        self._scripted = list(self._bound(city.events, start_ms))
        self._commanded: list[Spell] = []
        self._draws = Draws(city.rates, group, seed=seed, start_ms=start_ms)
        self._merged: dict[tuple[int, int], dict[str, Spells]] = {}

    def during(self, first_ms: int, last_ms: int) -> Mapping[str, Spells]:
        """By kind, all spells that may touch samples between these instants."""
        days = (first_ms // DAY_MS, last_ms // DAY_MS) if self._draws.possible else (0, 0)
        found = self._merged.get(days)
        if found is None:
            drawn = self.drawn(*days) if self._draws.possible else ()
            everything = [*self._scripted, *self._commanded, *drawn]
            found = as_arrays(everything, len(self._group.quantities))
            while len(self._merged) >= _DAYS_KEPT:
                self._merged.pop(next(iter(self._merged)))
            self._merged[days] = found
        return found

    def drawn(self, first_day: int, last_day: int) -> list[Spell]:
        """The drawn spells that may touch the days since the epoch, both included."""
        days = range(first_day - _LOOK_BACK_DAYS, last_day + 1)
        spells = [spell for day in days for spell in self._draws.of_day(day)]
        return [part for spell in spells for part in self._uninspected(spell)]

    def starting(self, from_ms: int, until_ms: int) -> list[Spell]:
        """The drawn spells, uncut, that start with `from_ms <= start < until_ms`."""
        if not self._draws.possible:
            return []
        days = range(from_ms // DAY_MS, (until_ms - 1) // DAY_MS + 1)
        spells = [spell for day in days for spell in self._draws.of_day(day)]
        return [spell for spell in spells if from_ms <= spell.from_ms < until_ms]

    def command(self, kind: str, rows: Iterable[int], from_ms: int, until_ms: int) -> None:
        """Add a spell that a command causes at devices `rows`."""
        columns = touched_columns(kind, self._group.quantities, None)
        params = tuple(parameter.default for parameter in EVENT_KINDS[kind].parameters)
        for row in rows:
            spell = Spell("", kind, row, from_ms, until_ms, columns, params)
            self._commanded.append(spell)
        self._merged.clear()

    def label(
        self, key: str, kind: str, rows: Iterable[int], names: Iterable[str], span: tuple[int, int]
    ) -> None:
        """Say that a command changes what is true of `names` at devices `rows` during `span`.

        It changes no reading by itself. What was said before under the same key ends where this
        begins.
        """
        from_ms, until_ms = span
        wanted = set(names)
        quantities = self._group.quantities
        columns = tuple(column for column, name in enumerate(quantities) if name in wanted)
        added = [Spell(key, kind, row, from_ms, until_ms, columns, ()) for row in rows]
        if not added or not columns:
            return
        self._commanded = [
            msgspec.structs.replace(spell, until_ms=min(spell.until_ms, from_ms))
            if spell.event == key
            else spell
            for spell in self._commanded
        ]
        self._commanded += added
        self._merged.clear()

    def _bound(self, events: Iterable[Event], start_ms: int) -> Iterable[Spell]:
        for event in events:
            kind = EVENT_KINDS[event.kind]
            if kind.layer is Layer.WORLD:
                continue
            columns = touched_columns(event.kind, self._group.quantities, event.quantity)
            from_ms = start_ms + round(event.at_s * 1000)
            until_ms = from_ms + round(event.for_s * 1000)
            params = tuple(event.param(parameter.name) for parameter in kind.parameters)
            for row, device in enumerate(self._group.devices):
                if columns and event.target in {device.name, device.site.id}:
                    spell = Spell(event.id, event.kind, row, from_ms, until_ms, columns, params)
                    yield from self._uninspected(spell)

    def _uninspected(self, spell: Spell) -> Iterable[Spell]:
        """The spell; a fraud's without the times of inspections at its site."""
        if EVENT_KINDS[spell.kind].layer is not Layer.FRAUD:
            return [spell]
        visits = self._inspections.get(self._group.devices[spell.row].site.id, [])
        return [
            msgspec.structs.replace(spell, from_ms=low, until_ms=high)
            for low, high in _without(spell.from_ms, spell.until_ms, visits)
        ]


class Draws:
    """Events that are drawn per device and day, at most one of a kind; the same in any shard."""

    def __init__(
        self, rates: Mapping[str, float], group: Group, *, seed: int, start_ms: int
    ) -> None:
        self._group = group
        self._start_ms = start_ms
        self._rates = {
            kind: rate for kind, rate in rates.items() if rate > 0 and _fits(kind, group)
        }
        self._lanes = {kind: self._lanes_of(kind, seed) for kind in self._rates}
        self._kept: dict[int, list[Spell]] = {}

    @property
    def possible(self) -> bool:
        """Whether anything is drawn at all."""
        return bool(self._rates)

    def of_day(self, day: int) -> list[Spell]:
        """The spells that start on that day since the epoch, not before the simulation."""
        found = self._kept.get(day)
        if found is None:
            spells = [spell for kind in self._rates for spell in self._draw(kind, day)]
            found = [spell for spell in spells if spell.from_ms >= self._start_ms]
            while len(self._kept) > 2 * _LOOK_BACK_DAYS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[day] = found
        return found

    def _lanes_of(self, kind: str, seed: int) -> Lanes:
        columns = 2 + _EXTRA_DRAWS + len(CHANCES[kind].ranges)
        stream = f"events/{kind}/{self._group.stream}"
        count = len(self._group.devices)
        return Lanes(seed, stream, first=self._group.first, count=count, columns=columns)

    def _draw(self, kind: str, day: int) -> list[Spell]:
        drawn = self._lanes[kind].draw(day)
        likely = -math.expm1(-self._rates[kind] / _DAYS_PER_YEAR)
        rows = np.flatnonzero(uniform(drawn[:, :2]) < likely)
        return [self._spell(kind, day, row, _shares(drawn[row, 2:])) for row in rows.tolist()]

    def _spell(self, kind: str, day: int, row: int, shares: list[float]) -> Spell:
        chance = CHANCES[kind]
        start, duration, which, *rest = shares
        columns = touched_columns(kind, self._group.quantities, None)
        if chance.one_quantity:
            columns = (columns[int(which * len(columns))],)
        low_h, high_h = chance.hours
        from_ms = day * DAY_MS + int(start * DAY_MS)
        until_ms = from_ms + round(3_600_000 * low_h * (high_h / low_h) ** duration)
        params = tuple(
            low + share * (high - low)
            for share, (low, high) in zip(rest, chance.ranges, strict=True)
        )
        name = self._group.devices[row].name.replace("/", "-")
        return Spell(f"{kind}-{day}-{name}", kind, row, from_ms, until_ms, columns, params)


def uniform(normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers evenly spread over (0, 1) from two independent normal ones each, shape (m, 2)."""
    numbers: NDArray[np.float64] = np.exp(-0.5 * (normals * normals).sum(axis=1))
    return numbers


def _shares(normals: NDArray[np.float64]) -> list[float]:
    """Numbers evenly spread over [0, 1) from as many normal ones: their distribution function."""
    return [0.5 * (1.0 + math.erf(number / math.sqrt(2.0))) for number in normals.tolist()]


def _fits(kind: str, group: Group) -> bool:
    """Whether events of `kind` can happen to the group."""
    if kind not in CHANCES:
        raise InputError(f"rates: {kind!r} cannot be drawn; {suggestion(kind, CHANCES)}")
    row: EventKind = EVENT_KINDS[kind]
    return group.kind.domain in row.domains and bool(touched_columns(kind, group.quantities, None))


def deaf_spans(city: City, start_ms: int) -> tuple[tuple[str, int, int], ...]:
    """`site` or `site/device`, from [ms] and until [ms] of every time of deafness."""
    return tuple(
        (event.target, from_ms, from_ms + round(event.for_s * 1000))
        for event in city.events
        if event.kind == "deaf"
        for from_ms in (start_ms + round(event.at_s * 1000),)
    )


def _inspections(city: City, start_ms: int) -> dict[str, list[tuple[int, int]]]:
    visits: dict[str, list[tuple[int, int]]] = {}
    for event in city.events:
        if event.kind == "inspection":
            from_ms = start_ms + round(event.at_s * 1000)
            window = (from_ms, from_ms + round(event.for_s * 1000))
            visits.setdefault(event.target.partition("/")[0], []).append(window)
    return {site: sorted(windows) for site, windows in visits.items()}


def _without(
    from_ms: int, until_ms: int, gaps: Iterable[tuple[int, int]]
) -> Iterable[tuple[int, int]]:
    """What is left of [from, until) without the gaps, which are sorted."""
    for low, high in gaps:
        if low < until_ms and high > from_ms:
            if low > from_ms:
                yield from_ms, low
            from_ms = max(from_ms, high)
    if from_ms < until_ms:
        yield from_ms, until_ms
