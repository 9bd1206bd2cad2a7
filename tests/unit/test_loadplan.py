"""From the options of `cityeye load` to a plan."""

import pytest

from city.errors import SettingError
from cli.loadplan import Wanted, faults_of, interval_of, ramp_of, run_name, sources_of
from load.plan import Faults


def test_rate() -> None:
    """A rate is that of all devices together."""
    assert 0.5 == interval_of(Wanted(devices=500, rate=1_000))


def test_interval() -> None:
    """An interval is every device's own, one second where nothing is said."""
    assert 2.5 == interval_of(Wanted(interval="2500ms"))
    assert 1.0 == interval_of(Wanted())


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted(rate=10, interval="1s"), "give one"),
        (Wanted(rate=-1), "is not allowed"),
        (Wanted(devices=200, rate=20_000), "give 2,000 to"),
        (Wanted(devices=200, rate=0.001), "give 1 to 86 --devices"),
        (Wanted(interval="10ms"), "100ms to 1d"),
        (Wanted(interval="2d"), "100ms to 1d"),
        (Wanted(interval="soon"), "not a duration"),
    ],
)
def test_impossible_rate(wanted: Wanted, says: str) -> None:
    """A rate that cannot be is refused with what is allowed."""
    with pytest.raises(SettingError, match=says):
        interval_of(wanted)


def test_ramp() -> None:
    """Without a ramp, devices connect as fast as brokers like it."""
    assert 9.5 == ramp_of(Wanted(devices=19_000))
    assert 2.0 == ramp_of(Wanted(devices=10))
    assert 30.0 == ramp_of(Wanted(ramp="30s"))


def test_faults() -> None:
    """Shares are given as per cent or as fractions."""
    faults = faults_of("missing=1%, late=0.02", late_s=3.0)

    assert Faults(missing=0.01, late=0.02, late_s=3.0) == faults


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lost=1%", "unknown fault 'lost'"),
        ("missing=much", "is no share"),
        ("missing=150%", "is no share"),
        ("missing=0.6,late=0.6", "exceed 1 together"),
    ],
)
def test_wrong_faults(text: str, says: str) -> None:
    """A fault that is unknown or no share is refused."""
    with pytest.raises(SettingError, match=says):
        faults_of(text, late_s=5.0)


def test_sources() -> None:
    """Addresses are single ones and ranges."""
    sources = sources_of("127.0.0.2,127.0.0.8-127.0.0.10")

    assert ("127.0.0.2", "127.0.0.8", "127.0.0.9", "127.0.0.10") == sources


@pytest.mark.parametrize("text", ["localhost", "127.0.0.9-127.0.0.2", "10.0.0.0-10.9.0.0"])
def test_wrong_sources(text: str) -> None:
    """What is no address, or no range of some, is refused."""
    with pytest.raises(SettingError, match="--source"):
        sources_of(text)


def test_names_differ() -> None:
    """Two tests that begin in one second have different names."""
    assert len({run_name(1_795_413_600_000) for _ in range(20)}) > 1
