from datetime import date, datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.calendars import Calendar, Duty, HolidayHours, Rota
from alerts.signals import WEEKDAYS, Shift

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Calendar(shifts=(Shift(begins=time(22), ends=time(6)),))
ALWAYS = Calendar(shifts=(Shift(),))


def ms(text: str, zone: ZoneInfo = SHANGHAI) -> int:
    """The instant of a local time."""
    return round(1000 * datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())


def office(on_holidays: HolidayHours = "closed") -> Calendar:
    """Working hours with a holiday on Thursday, 1 October 2026."""
    return Calendar(
        shifts=(Shift(begins=time(8), ends=time(18), days=frozenset(WEEKDAYS[:5])),),
        holidays=frozenset({date(2026, 10, 1)}),
        on_holidays=on_holidays,
    )


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ("2026-09-30T07:59:59", False),
        ("2026-09-30T08:00", True),
        ("2026-09-30T17:59:59", True),
        ("2026-09-30T18:00", False),
        ("2026-10-03T12:00", False),
        ("2026-10-01T12:00", False),
    ],
)
def test_working_hours(when: str, *, holds: bool) -> None:
    """Hours begin sharp and end sharp, on their days of the week, and not on holidays."""
    assert holds == office().holds(ms(when), SHANGHAI)


@pytest.mark.parametrize(
    ("on_holidays", "noon", "night"),
    [("closed", False, False), ("as-usual", True, False), ("all-day", True, True)],
)
def test_holidays(on_holidays: HolidayHours, *, noon: bool, night: bool) -> None:
    """A holiday has no hours, the usual ones, or is open all day."""
    calendar = office(on_holidays)
    found = [calendar.holds(ms(f"2026-10-01T{hour}:00"), SHANGHAI) for hour in (12, 23)]

    assert [noon, night] == found


@pytest.mark.parametrize(
    ("when", "holds"),
    [("2026-09-30T23:00", True), ("2026-10-01T05:59", True), ("2026-10-01T23:00", False)],
)
def test_holiday_night(when: str, *, holds: bool) -> None:
    """The night before a holiday goes on into it; the night that begins on it is no night."""
    night = Calendar(shifts=NIGHT.shifts, holidays=frozenset({date(2026, 10, 1)}))

    assert holds == night.holds(ms(when), SHANGHAI)


@pytest.mark.parametrize(
    ("when", "ends"),
    [
        ("2026-06-01T12:00", "2026-06-01T12:00"),
        ("2026-06-01T22:00", "2026-06-02T06:00"),
        ("2026-06-02T05:59:59", "2026-06-02T06:00"),
        ("2026-06-02T06:00", "2026-06-02T06:00"),
    ],
)
def test_end_of_quiet_hours(when: str, ends: str) -> None:
    """Quiet hours end in the morning, and at once where there are none."""
    assert ms(ends) == NIGHT.ends(ms(when), SHANGHAI)


def test_end_over_a_weekend() -> None:
    """Hours that join one another end with the last of them."""
    weekend = Shift(days=frozenset({"sat", "sun"}))
    calendar = Calendar(shifts=(*NIGHT.shifts, weekend))

    assert ms("2026-06-08T06:00") == calendar.ends(ms("2026-06-05T23:00"), SHANGHAI)


@pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24"])
def test_change_of_clocks(day: str) -> None:
    """Quiet hours end at six by the clock in the nights in which clocks change too."""
    begun = ms(f"{day}T23:00", BERLIN)
    ends = NIGHT.ends(begun, BERLIN)

    assert ends is not None
    assert time(6) == datetime.fromtimestamp(ends / 1000, BERLIN).time()


def test_never_ends() -> None:
    """Hours that cover all of every week never end; others do."""
    assert [True, False] == [ALWAYS.never_ends, NIGHT.never_ends]
    assert ALWAYS.ends(0, SHANGHAI) is None


@given(st.integers(ms("2026-01-01T00:00"), ms("2027-12-31T00:00")))
def test_nothing_between(ts: int) -> None:
    """Hours hold from an instant until their end, and not at it."""
    for calendar in (NIGHT, office()):
        ends = calendar.ends(ts, SHANGHAI)

        assert ends is not None
        assert not calendar.holds(ends, SHANGHAI)
        between = (ts, (ts + ends) // 2, ends - 1) if ends > ts else ()
        assert all(calendar.holds(at, SHANGHAI) for at in between)


ROTA = Rota(
    people=(Duty("Lin", ("lin",)), Duty("Mo", ("mo",)), Duty("Qi", ("qi", "qi-mail"))),
    begins=date(2026, 1, 5),
    handover=time(8),
)


@pytest.mark.parametrize(
    ("when", "name"),
    [
        ("2026-01-05T07:59:59", "Qi"),
        ("2026-01-05T08:00", "Lin"),
        ("2026-01-12T07:59:59", "Lin"),
        ("2026-01-12T08:00", "Mo"),
        ("2026-01-19T08:00", "Qi"),
        ("2026-01-26T08:00", "Lin"),
        ("2025-12-29T08:00", "Qi"),
    ],
)
def test_rota(when: str, name: str) -> None:
    """Turns change at the handover, one week after the other, round and round."""
    assert name == ROTA.on_call(ms(when), SHANGHAI).name


def test_turns_of_two_weeks() -> None:
    """A turn may last several weeks."""
    rota = Rota(people=ROTA.people, begins=ROTA.begins, weeks=2)
    names = [
        rota.on_call(ms(f"2026-01-{day:02}T12:00"), SHANGHAI).name for day in (5, 12, 18, 19, 31)
    ]

    assert ["Lin", "Lin", "Lin", "Mo", "Mo"] == names


@given(st.integers(ms("2020-01-01T00:00"), ms("2030-01-01T00:00")))
def test_a_turn_comes_again(ts: int) -> None:
    """Where clocks do not change, whoever is on call is so again when all had their turn."""
    week_ms = 7 * 86_400_000

    assert ROTA.on_call(ts, SHANGHAI) == ROTA.on_call(ts + 3 * week_ms, SHANGHAI)
