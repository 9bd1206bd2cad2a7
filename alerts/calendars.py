"""Calendars of people: working hours, quiet hours, holidays, and who is on call."""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, Literal

import msgspec

from alerts.signals import Shift

_LOOK_AHEAD_DAYS: Final = 400
"""No quiet hours are waited for longer."""

HolidayHours = Literal["closed", "as-usual", "all-day"]


class Calendar(msgspec.Struct, frozen=True, kw_only=True):
    """Weekly hours in local time, and what becomes of them on holidays.

    Hours over midnight belong to the day on which they begin: those of the eve of a holiday go on
    into it.
    """

    shifts: tuple[Shift, ...]
    holidays: frozenset[date] = frozenset()
    on_holidays: HolidayHours = "closed"

    def holds(self, ts: int, zone: tzinfo) -> bool:
        """Whether the instant `ts` [ms] lies within the hours."""
        local = datetime.fromtimestamp(ts / 1000, zone)
        if self.on_holidays == "all-day" and local.date() in self.holidays:
            return True
        return any(self._within(shift, ts, local, zone) for shift in self.shifts)

    def ends(self, ts: int, zone: tzinfo) -> int | None:
        """The first instant [ms] from `ts` on that is not within the hours.

        None: there is none in the 400 days that follow.
        """
        if not self.holds(ts, zone):
            return ts
        today = datetime.fromtimestamp(ts / 1000, zone).date()
        for days in range(_LOOK_AHEAD_DAYS):
            for edge in self._edges(today + timedelta(days=days), zone):
                if edge > ts and not self.holds(edge, zone):
                    return edge
        return None

    @property
    def never_ends(self) -> bool:
        """Whether it holds at every hour of every day."""
        noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
        return self.ends(round(1000 * noon.timestamp()), UTC) is None

    def _within(self, shift: Shift, ts: int, local: datetime, zone: tzinfo) -> bool:
        if not shift.holds(ts, zone):
            return False
        begun_yesterday = shift.begins > shift.ends and local.time() < shift.ends
        day = local.date() - timedelta(days=1) if begun_yesterday else local.date()
        return self.on_holidays == "as-usual" or day not in self.holidays

    def _edges(self, day: date, zone: tzinfo) -> list[int]:
        times = {time(0)} | {edge for shift in self.shifts for edge in (shift.begins, shift.ends)}
        return sorted(_instant(day, edge, zone) for edge in times)


class Duty(msgspec.Struct, frozen=True):
    """A person of a rota and the channels that reach them."""

    name: str
    channels: tuple[str, ...]


class Rota(msgspec.Struct, frozen=True, kw_only=True):
    """People who take turns of so many weeks, beginning with the first on a given day."""

    people: tuple[Duty, ...]
    begins: date
    handover: time = time(8)
    """The local time of day at which a turn begins."""
    weeks: int = 1

    def on_call(self, ts: int, zone: tzinfo) -> Duty:
        """Whose turn it is at the instant `ts` [ms]; the rota goes on before its beginning too."""
        local = datetime.fromtimestamp(ts / 1000, zone)
        days = (local.date() - self.begins).days - (local.time() < self.handover)
        return self.people[days // (7 * self.weeks) % len(self.people)]


def _instant(day: date, at: time, zone: tzinfo) -> int:
    return round(1000 * datetime.combine(day, at, zone).timestamp())
