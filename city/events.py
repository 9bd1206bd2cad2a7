"""The kinds of event that a city file or scenario may name, as rows of data.

An event happens to the world (a leak, a failure, weather), to an instrument (a fault, maintenance)
or is a fraud: somebody makes an instrument show what is not so. Parameters have a unit, a default
and bounds. Magnitudes are engineering defaults (grade D) unless the sentence names a source.
"""

from enum import StrEnum
from typing import Final

import msgspec

from city.quantities import QUANTITIES, Domain


class Layer(StrEnum):
    """What an event changes."""

    WORLD = "world"
    """What is true."""
    INSTRUMENT = "instrument"
    """What a sensor makes of it, or whether it speaks at all."""
    FRAUD = "fraud"
    """What somebody makes a sensor show."""


class Aim(StrEnum):
    """What an event is aimed at."""

    CITY = "city"
    SITE = "site"
    """A site, or a device that stands for its site's place."""
    DEVICE = "device"
    """One device, or every device of a site."""


class Parameter(msgspec.Struct, frozen=True):
    """One number that says how an event is."""

    name: str
    unit: str
    default: float
    low: float
    high: float


class EventKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of event.

    `slot` names what it occupies at its target: two events in one slot, at one target and quantity
    and at one time, contradict each other.
    """

    id: str
    layer: Layer
    aim: Aim
    domains: frozenset[Domain]
    sentence: str
    expected: str
    """What a detector should see."""
    parameters: tuple[Parameter, ...] = ()
    takes_quantity: bool = False
    """Whether the event can name the quantity that it changes."""
    touches: tuple[str, ...] = ()
    """The only quantities that it can change; (): any."""
    spares: tuple[str, ...] = ()
    """The quantities that it never changes."""
    slot: str = ""

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of that name."""
        return next((row for row in self.parameters if row.name == name), None)


_AIR: Final = frozenset({Domain.AIR})
_WATER: Final = frozenset({Domain.WATER})
_GAS: Final = frozenset({Domain.GAS})
_EMISSION: Final = frozenset({Domain.EMISSION})
_ANY: Final = frozenset(Domain)
_ANALOGUE: Final = frozenset({"drift", "stuck", "spike", "noise", "calibration"})
"""Faults of a measurement: they leave positions alone."""

_LOADS: Final = ("effluent_cod", "effluent_ammonia_n", "effluent_total_p", "effluent_total_n")
_LIMITED: Final = ("stack_pm", "stack_so2", "stack_nox", *_LOADS)
_SAMPLED: Final = (
    "stack_o2", "stack_pm", "stack_so2", "stack_nox", "flue_temperature", "flue_humidity",
)  # fmt: skip


def _world(
    name: str,
    domains: frozenset[Domain],
    sentence: str,
    expected: str,
    *parameters: Parameter,
    aim: Aim = Aim.SITE,
    slot: str = "",
) -> EventKind:
    return EventKind(
        id=name, layer=Layer.WORLD, aim=aim, domains=domains, sentence=sentence,
        expected=expected, parameters=parameters, slot=slot or name,
    )  # fmt: skip


def _spared(name: str, slot: str) -> tuple[str, ...]:
    """What a fault never changes: a device that does not listen measures as before."""
    if slot == "ear":
        return tuple(QUANTITIES)
    return ("valve_position",) if name in _ANALOGUE else ()


def _fault(name: str, sentence: str, expected: str, *parameters: Parameter, slot: str) -> EventKind:
    return EventKind(
        id=name, layer=Layer.INSTRUMENT, aim=Aim.DEVICE, domains=_ANY, sentence=sentence,
        expected=expected, parameters=parameters, slot=slot,
        takes_quantity=slot not in {"voice", "ear"}, spares=_spared(name, slot),
    )  # fmt: skip


def _fraud(
    name: str,
    sentence: str,
    expected: str,
    *parameters: Parameter,
    touches: tuple[str, ...] = _LIMITED,
) -> EventKind:
    return EventKind(
        id=name, layer=Layer.FRAUD, aim=Aim.DEVICE, domains=_EMISSION, sentence=sentence,
        expected=expected, parameters=parameters, takes_quantity=touches is _LIMITED, touches=touches,
        slot="shown",
    )  # fmt: skip


_ROWS: Final = (
    # the world
    _world("smog", _AIR, "Stagnant air over the whole city: little wind, a low lid",
           "particulates, NO2 and CO rise together at every station over hours",
           Parameter("strength", "1", 1.0, 0.05, 1.0), aim=Aim.CITY, slot="moving air"),
    _world("rain", _WATER, "Rain over the whole city",
           "turbidity rises, conductivity falls, particulates are washed out",
           Parameter("rate_mm_h", "mm/h", 8.0, 0.1, 100.0), aim=Aim.CITY),
    _world("wind", _AIR, "The wind blows steadily from one direction",
           "plumes lie in one direction",
           Parameter("speed_m_s", "m/s", 3.0, 0.2, 30.0),
           Parameter("from_deg", "deg", 270.0, 0.0, 360.0), aim=Aim.CITY, slot="moving air"),
    _world("spill", _WATER, "Untreated sewage enters the river at a station",
           "ammonia, CODMn and conductivity pulse, oxygen sags; the pulse travels downstream",
           Parameter("mass_kg", "kg of COD", 400.0, 1.0, 1e6)),
    _world("treatment-failure", _EMISSION, "A plant's treatment unit fails",
           "concentrations at stack or outfall rise to several times the permit",
           Parameter("efficiency_lost", "1", 0.9, 0.05, 1.0)),
    _world("secret-discharge", _EMISSION, "A plant discharges past its treatment",
           "a pulse in the river or air downstream with no matching record at the outfall",
           Parameter("bypassed", "1", 0.5, 0.05, 1.0)),
    _world("inspection", _EMISSION, "Inspectors visit: frauds at the site stop for the visit",
           "levels change within minutes of the visit"),
    _world("gas-leak", _GAS, "Gas escapes through a small hole at a device's junction",
           "methane rises at the site's detectors, pressure falls a little",
           Parameter("hole_mm", "mm", 10.0, 1.0, 49.0), slot="hole"),
    _world("gas-burst", _GAS, "A pipe is torn at a device's junction",
           "pressure falls around the junction at the rate that hole and volume dictate",
           Parameter("hole_mm", "mm", 100.0, 50.0, 500.0), slot="hole"),
    # instruments: domain facts, section 6
    _fault("drift", "Zero and span wander off", "a slow trend that other stations do not show",
           Parameter("zero_pct_fs_per_day", "% of full scale/d", 0.5, -50.0, 50.0),
           Parameter("span_pct_per_day", "%/d", 0.5, -50.0, 50.0), slot="shown"),
    _fault("stuck", "The value hangs", "equal values for longer than the quantity ever shows",
           slot="shown"),
    _fault("spike", "Single wild values", "single values far from both neighbours",
           Parameter("size_pct_fs", "% of full scale", 40.0, 1.0, 100.0),
           Parameter("per_hour", "1/h", 6.0, 0.1, 3600.0), slot="spikes"),
    _fault("noise", "The value becomes noisy", "the variance grows, the mean stays",
           Parameter("factor", "1", 8.0, 1.0, 1000.0), slot="noise"),
    _fault("silence", "The device dies without a word", "no messages", slot="voice"),
    _fault("clock-skew", "The device's clock is wrong", "instants ahead of or behind the others'",
           Parameter("skew_s", "s", 120.0, -86400.0, 86400.0), slot="clock"),
    _fault("comm-loss", "The instrument does not answer its logger (flag B), data come late",
           "values flagged B; the messages arrive after the loss with their own instants",
           slot="voice"),
    _fault("deaf", "The device neither obeys nor answers commands",
           "its readings are right, its commands stay unanswered", slot="ear"),
    _fault("calibration", "Zero and span are checked (flag C) and set right",
           "zero gas, then span gas, flagged C; drift begins anew", slot="state"),
    _fault("maintenance", "The instrument is maintained (flag M)", "values flagged M", slot="state"),
    _fault("fault", "The instrument is broken and knows it (flag D)", "values flagged D",
           slot="state"),
    _fault("stopped", "The monitored unit is stopped (flag F)", "values flagged F", slot="state"),
    # fraud: domain facts, section 6
    _fraud("constant", "A convenient value with little variation is shown",
           "the variance falls below a tenth of the usual while the load varies",
           Parameter("level_of_limit", "1", 0.4, 0.1, 0.6), Parameter("cv", "1", 0.01, 0.0, 0.02)),
    _fraud("cap", "Nothing above a share of the limit is shown",
           "values pile up just below the limit, none exceeds it",
           Parameter("level_of_limit", "1", 0.95, 0.9, 0.99)),
    _fraud("scale", "A fixed share of the true value is shown",
           "a step of the level without a change of flow, oxygen or temperature",
           Parameter("k", "1", 0.4, 0.2, 0.6)),
    _fraud("air-dilution", "Ambient air leaks into the sample",
           "oxygen up and raw concentration down together, temperature and humidity fall",
           Parameter("share", "1", 0.5, 0.2, 0.8), touches=_SAMPLED),
    _fraud("o2-fake", "A low oxygen value is shown", "oxygen is flat while the load varies",
           Parameter("o2_percent", "%", 6.5, 5.0, 8.0), touches=("stack_o2",)),
    _fraud("sample-swap", "The sampling tube hangs in clean water",
           "COD and ammonia far below the industry's level, uncorrelated with pH and flow",
           Parameter("cod_mg_l", "mg/L", 10.0, 5.0, 20.0), touches=_LOADS),
)  # fmt: skip
EVENT_KINDS: Final = {row.id: row for row in _ROWS}
