"""From the words of `cityeye load` to a plan: durations, rates, faults, profiles, addresses."""

import ipaddress
import random
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Final

import msgspec

from broker.choice import BrokerAddress, RunningBroker
from city.cityfile import IDENTIFIER, IDENTIFIER_MAX
from city.clock import wall_ms
from city.documents import suggestion
from city.errors import SettingError
from city.kinds import DEVICE_KINDS
from city.settings import Settings, seconds_in
from city.synthetic import FOUR_QUANTITY_KINDS
from load.payloads import Template
from load.plan import FAULTS, Faults, LoadPlan, Phase

CONNECTS_PER_S: Final = 2_000
"""How fast devices connect where no ramp is given; brokers with TLS take fewer."""

_RAMP_MIN_S: Final = 2.0
_RATE_MAX: Final = 10_000_000.0
_INTERVAL_S: Final = (0.1, 86_400.0)
"""The bounds of a city's intervals."""
_SOURCES_MAX: Final = 4_096


NO_BROKER: Final = BrokerAddress("", 0)
"""Of a plan that goes nowhere yet."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `cityeye load` that are no settings."""

    devices: int = 1_000
    rate: float | None = None
    interval: str | None = None
    ramp: str | None = None
    qos: int = 1
    kinds: str | None = None
    faults: str | None = None
    late_by: str = "5s"
    certificates: Path | None = None
    source: str | None = None
    in_flight: int = 16
    keep_alive: str = "60s"
    subscribers: int = 1
    name: str | None = None


def plan_of(
    wanted: Wanted, settings: Settings, *, template: Template, phases: tuple[Phase, ...]
) -> LoadPlan:
    """The plan of a test, against whatever broker.

    Raises:
        SettingError: An option has an impossible value; the text says what is allowed.
    """
    interval_s = interval_of(wanted)
    now_ms = wall_ms()
    return LoadPlan(
        run=_named(wanted.name) or run_name(now_ms),
        broker=NO_BROKER,
        devices=wanted.devices,
        interval_s=interval_s,
        ramp_s=ramp_of(wanted),
        phases=phases,
        kinds=_kinds(wanted.kinds),
        seed=1 if settings.seed is None else settings.seed,
        city_start_ms=settings.start_ms(None, now_ms),
        qos=wanted.qos,
        template=template,
        faults=faults_of(wanted.faults, late_s=seconds_in(wanted.late_by, "--late-by")),
        password=settings.broker_password,
        credentials=_absolute(settings.broker_credentials),
        ca=_absolute(settings.broker_ca),
        certificate=_absolute(settings.broker_certificate),
        key=_absolute(settings.broker_key),
        certificates=_absolute(wanted.certificates),
        sources=sources_of(wanted.source),
        window=wanted.in_flight,
        keep_alive_s=max(5, round(seconds_in(wanted.keep_alive, "--keep-alive"))),
        subscribers=wanted.subscribers,
        drain_s=settings.drain_s,
    )


def against(plan: LoadPlan, broker: RunningBroker) -> LoadPlan:
    """The plan with the broker that it goes to; a guarded one of our own knows its logins."""
    return msgspec.structs.replace(
        plan,
        broker=broker.address,
        credentials=plan.credentials or _absolute(broker.credentials),
        ca=plan.ca or _absolute(broker.ca),
    )


def run_name(now_ms: int) -> str:
    """A name for a test that nobody named: when it began, and something random."""
    began = datetime.fromtimestamp(now_ms / 1000, UTC)
    return f"{began:%Y%m%d-%H%M%S}-{random.SystemRandom().randrange(16**4):04x}"


def interval_of(wanted: Wanted) -> float:
    """How often a device sends at pace 1 [s], by --rate or --interval; one second without them.

    Raises:
        SettingError: Both are given, or one is out of bounds.
    """
    least_s, most_s = _INTERVAL_S
    if wanted.rate is None:
        given_s = 1.0 if wanted.interval is None else seconds_in(wanted.interval, "--interval")
        if not least_s <= given_s <= most_s:
            raise SettingError(
                f"--interval: {wanted.interval} is not allowed; give 100ms to 1d, and more --devices "
                "for a higher rate"
            )
        return given_s
    if wanted.interval is not None:
        raise SettingError("--rate and --interval say the same thing in two ways; give one")
    if not 0 < wanted.rate <= _RATE_MAX:
        raise SettingError(f"--rate: {wanted.rate:g} is not allowed; give 0 to 10,000,000 per s")
    interval_s = wanted.devices / wanted.rate
    if not least_s <= interval_s <= most_s:
        raise SettingError(
            f"--rate {wanted.rate:g} of {wanted.devices:,} devices is one message per "
            f"{interval_s:g} s of each, and {least_s:g} to {most_s:,.0f} s are allowed; give "
            f"{ceil(wanted.rate * least_s):,} to {int(wanted.rate * most_s):,} --devices"
        )
    return interval_s


def ramp_of(wanted: Wanted) -> float:
    """Over which time the devices connect [s]."""
    if wanted.ramp is not None:
        return seconds_in(wanted.ramp, "--ramp")
    return max(_RAMP_MIN_S, wanted.devices / CONNECTS_PER_S)


def faults_of(text: str | None, *, late_s: float) -> Faults:
    """The shares in a text such as `missing=0.1%,repeated=0.02`.

    Raises:
        SettingError: A fault is unknown, or a share is none, or together they exceed 1.
    """
    shares: dict[str, float] = {}
    for word in filter(None, (part.strip() for part in (text or "").split(","))):
        name, _, share = word.partition("=")
        if name not in FAULTS:
            raise SettingError(f"--faults: unknown fault {name!r}; {suggestion(name, FAULTS)}")
        shares[name] = _share(name, share.strip())
    if sum(shares.values()) > 1.0:
        raise SettingError(
            "--faults: the shares exceed 1 together; a message has one fault at most"
        )
    return msgspec.convert(shares | {"late_s": late_s}, Faults)


def sources_of(text: str | None) -> tuple[str, ...]:
    """The addresses in `127.0.0.2,127.0.0.8-127.0.0.15`.

    Raises:
        SettingError: One is no address, or a range runs backwards or has too many.
    """
    sources: list[str] = []
    for word in filter(None, (part.strip() for part in (text or "").split(","))):
        first, _, last = word.partition("-")
        low, high = _address(first), _address(last or first)
        if low.version != high.version or not 0 <= int(high) - int(low) < _SOURCES_MAX:
            raise SettingError(
                f"--source: {word!r} is no range of 1 to {_SOURCES_MAX:,} addresses; write e.g. "
                "127.0.0.2-127.0.0.9"
            )
        sources += [str(low + step) for step in range(int(high) - int(low) + 1)]
    return tuple(sources)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text.strip())
    except ValueError as error:
        raise SettingError(f"--source: {text!r} is no IP address of this machine") from error


def _share(name: str, text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise SettingError(
            f"--faults: {name}={text!r} is no share; write e.g. {name}=0.5% or 0.005"
        )
    return share


def _named(name: str | None) -> str | None:
    if name is not None and (len(name) > IDENTIFIER_MAX or not IDENTIFIER.fullmatch(name)):
        raise SettingError(
            f"--name: {name[:80]!r} is not allowed; small letters, digits and hyphens, "
            f"{IDENTIFIER_MAX} at most"
        )
    return name


def _kinds(text: str | None) -> tuple[str, ...]:
    kinds = tuple(part.strip() for part in text.split(",")) if text else FOUR_QUANTITY_KINDS
    for kind in kinds:
        if kind not in DEVICE_KINDS:
            raise SettingError(f"--kinds: unknown kind {kind!r}; {suggestion(kind, DEVICE_KINDS)}")
    return kinds


def _absolute(path: Path | None) -> Path | None:
    """Where a file is for processes with other working directories."""
    return None if path is None else path.absolute()
