from collections import Counter
from datetime import UTC, timedelta, timezone
from io import StringIO
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

from broker.messages import AlarmEvent, Announcement
from city.cityfile import Address
from city.clock import Clock
from cli.ingesting import Ingesting
from cli.live import Rates, View, alarm_row
from cli.simulating import Simulating
from ingest.ledger import Ledger

EVENT = AlarmEvent(
    rule="gas-methane", event="raised", state="unacknowledged", severity="critical", level="HH",
    quantity="methane", value=56.25, limit=50.0, unit="%LEL", ts=1_000, raised=1_000,
    standard="GB/T 50493-2019", clause="5.5.2", grade="B",
)  # fmt: skip
ALARM = Announcement(Address("c", "d", "gas", "market", "detector-1"), EVENT)


def changed(**fields: Any) -> Announcement:
    """The alarm with some other content."""
    return Announcement(ALARM.address, msgspec.structs.replace(EVENT, **fields))


class Counts(SimpleNamespace):
    """What the alarms have counted."""

    standing, raised, cleared, unacknowledged = 1, 2, 3, 4


def simulating(*, refusals: Any = ()) -> Simulating:
    """As much of a simulated city as a view looks at."""
    fleet = SimpleNamespace(
        online=2, devices=[1, 2, 3], messages=40, readings=1_234, refusals=Counter(refusals)
    )
    return cast("Simulating", SimpleNamespace(fleet=fleet, clock=Clock(0, speed=float("inf"))))


def ingesting(*, newest: Any = (), standing: Any = (), trouble: str | None = None) -> Ingesting:
    """As much of ingest and alarms as a view looks at."""
    ledger = Ledger(received=40, written=39, pending=1)
    service = SimpleNamespace(
        ledger=lambda: ledger, writer=SimpleNamespace(values_written=1_200), trouble=trouble,
        store_name="a store",
    )  # fmt: skip
    alarms = SimpleNamespace(
        newest=newest, counts=Counts(), standing=lambda: list(standing), trouble=None
    )
    alerting = SimpleNamespace(service=alarms)
    return cast("Ingesting", SimpleNamespace(service=service, alarms=alerting))


def shown(view: View, *, width: int = 120) -> str:
    """The page of `view` on a terminal of that width."""
    console = Console(file=StringIO(), width=width)
    console.print(view.page(width))
    return cast("StringIO", console.file).getvalue()


class TestPage:
    """What a terminal shows."""

    @pytest.mark.parametrize(
        "text",
        ["Lanting", "a broker", "2 of 3 online", "40 messages", "1,234 readings", "1,200 readings",
         "a store", "received 40 = written 39 + duplicate 0", "pending 1", "1 standing", "4 unacknowledged", "Ctrl-C"],
    )  # fmt: skip
    def test_figures(self, text: str) -> None:
        """The page names the parts and says how far they are."""
        view = View("Lanting", "a broker", simulating=simulating(), ingesting=ingesting())

        assert text in shown(view)

    def test_refused(self) -> None:
        """Devices that the broker refuses are shown with the reason."""
        view = View("x", "b", simulating=simulating(refusals=[5, 5]))

        assert "the broker refused 2 connects: not authorised 2" in shown(view)

    def test_trouble(self) -> None:
        """What the store complains about is shown as it is."""
        view = View("x", "b", ingesting=ingesting(trouble="[disk] is full"))

        assert "[disk] is full" in shown(view)

    def test_newest_first(self) -> None:
        """The newest event stands above the older ones."""
        older = changed(event="raised", ts=1_000)
        newer = changed(event="cleared", state="normal", active=False, ts=2_000)
        page = shown(View("x", "b", ingesting=ingesting(newest=[older, newer])))

        assert page.index("cleared, critical") < page.index("raised, critical")

    def test_adopted(self) -> None:
        """An alarm that stands since an earlier run is shown, too."""
        page = shown(View("x", "b", ingesting=ingesting(standing=[ALARM])))

        assert "market/detector-1" in page

    @pytest.mark.parametrize("width", [60, 80, 200])
    def test_width(self, width: int) -> None:
        """The page fits its terminal, and its last line leaves room for what a terminal echoes."""
        view = View("x", "b", simulating=simulating(), ingesting=ingesting(newest=[ALARM] * 30))
        lines = shown(view, width=width).splitlines()

        assert max(len(line) for line in lines) <= width
        assert len(lines[-1].rstrip()) < width - 4

    def test_narrow(self) -> None:
        """On a narrow terminal the time, the event, the place and the limit can still be read."""
        view = View("x", "b", ingesting=ingesting(newest=[ALARM]))
        row = next(line for line in shown(view, width=80).splitlines() if "Methane" in line)

        assert [
            "00:00:01",
            "raised",
            "market/detector-1",
            "Methane",
            "56.25",
            "%LEL",
            ">",
            "50",
        ] == (row.strip("│ ").split())


class TestAlarmRow:
    """One alarm event as cells."""

    def test_cells(self) -> None:
        """A row says when, what happened, where, how much against which limit, by what standard."""
        cells = [cell.plain for cell in alarm_row(ALARM, UTC)]

        assert [
            "00:00:01", "raised, critical", "market/detector-1", "Methane 56.25 %LEL", "> 50",
            "GB/T 50493-2019 5.5.2 [grade B]",
        ] == cells  # fmt: skip

    def test_low(self) -> None:
        """A low limit is one that the value must not fall below."""
        assert "< 50" == alarm_row(changed(level="L"))[4].plain

    def test_zone(self) -> None:
        """The time is that of the city."""
        assert "08:00:01" == alarm_row(ALARM, timezone(timedelta(hours=8)))[0].plain

    def test_since(self) -> None:
        """An alarm that stands for long is shown with its day."""
        assert "01-02 00:00:00" == alarm_row(ALARM, UTC, since=86_400_000)[0].plain

    def test_unknown_quantity(self) -> None:
        """A quantity of another version is shown by its identifier."""
        assert "x-ray 56.25 %LEL" == alarm_row(changed(quantity="x-ray"))[3].plain


class TestRates:
    """How fast counters grow."""

    def test_steady(self) -> None:
        """A counter that grows by 50 every half second grows by 100 per second."""
        times = iter(range(100))
        rates = Rates(lambda: next(times) / 2)
        seen = [rates.per_s("sent", 50 * n) for n in range(20)]

        assert [0.0] + [100.0] * 19 == seen

    def test_separate(self) -> None:
        """Counters do not mix."""
        times = iter([0.0, 0.0, 1.0, 1.0])
        rates = Rates(lambda: next(times))
        rates.per_s("a", 0)
        rates.per_s("b", 1000)

        assert (1.0, 2.0) == (rates.per_s("a", 1), rates.per_s("b", 1002))

    def test_stopped(self) -> None:
        """A counter that stands still soon has the rate 0."""
        times = iter(range(100))
        rates = Rates(lambda: float(next(times)))
        for n in range(5):
            rates.per_s("sent", n)
        seen = [rates.per_s("sent", 4) for _ in range(8)]

        assert 0.0 == seen[-1]
