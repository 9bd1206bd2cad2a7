"""Plays every shipped scenario and draws what its sensors show: the pictures of docs/scenarios.md.

    python bench/scenarios.py [--out docs/scenarios] [NAME ...]

Each picture is made from a real run of the engine, at the city's own seed. Those of a burst are made
from a run of `cityeye run` too, five times as fast as life: its timeline says when alarm,
command, reply and order came, and the valve of the picture closes when that run's valve did.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import msgspec
import numpy as np
from numpy.typing import NDArray

from city.cityfile import City, load_city
from city.quantities import QUANTITIES
from city.readings import Flag
from city.scenarios import Scenario, load_scenario, shipped_scenarios, with_scenario
from cli.generate import with_interval
from sensors.engine import CityEngine
from sensors.sampler import Frame
from sensors.valves import VALVE_TRAVEL_S

mpl.use("agg")
from matplotlib import pyplot as plt

SAMPLES_MAX: Final = 1_500
"""About as many per device as a picture can show."""

TRUTH_FROM: Final = 0.15
"""The truth is drawn where it differs by more than this share of the line's peak."""

GAP_STEPS: Final = 5.0

HIDDEN: Final = (Flag.C, Flag.M, Flag.B, Flag.F)
"""Readings with these flags say nothing about the city and are left out."""


class Panel(msgspec.Struct, frozen=True):
    """One diagram: a quantity at some devices; what is true is dashed where it differs."""

    quantity: str
    devices: tuple[str, ...]
    title: str


class Mark(msgspec.Struct, frozen=True):
    """Something that was done: when [hours since the start], and what."""

    hours: float
    what: str


class Line(msgspec.Struct, frozen=True, eq=False):
    """One quantity of one device: hours since the start, shown and true values, shape (n,)."""

    hours: NDArray[np.float64]
    shown: NDArray[np.float64]
    true: NDArray[np.float64]


_STATIONS: Final = ("air-kiln-hill", "air-north-mill", "air-willow-park", "air-lake-view")
_RIVER: Final = ("river-spring-ford", "river-old-bridge", "river-mill-weir", "river-reed-bend",
                 "river-lake-gate")  # fmt: skip
_AIR: Final = tuple(f"{name}/station-1" for name in _STATIONS)
_WATER: Final = tuple(f"{name}/station-1" for name in _RIVER)
_KILN: Final = ("plant-blue-glaze/stack-1",)
_SINTER: Final = ("plant-red-hearth/stack-1",)

_BURST: Final = (
    Panel("gas_pressure", ("gas-foundry-road/valve-1", "gas-foundry-road/node-1",
                           "gas-depot-square/node-1", "gas-orchard-close/node-1"),
          "Pressure falls most at the tear, behind the valve"),
    Panel("methane", ("gas-foundry-road/detector-1", "gas-foundry-road/detector-2"),
          "and the detectors beside it see methane"),
    Panel("valve_position", ("gas-foundry-road/valve-1",), "until the valve is closed"),
)  # fmt: skip
_WINDOW_S: Final = {"gas-burst": (290.0, 380.0), "gas-burst-deaf-valve": (290.0, 380.0)}
"""What a picture shows of a scenario that is over soon [s after its start]."""

_STEPS: Final = {
    "begins": "hole",
    "alarm gas-methane raised": "methane alarm",
    "repair order": "repair order",
    "alarm gas-burst raised": "burst alarm",
    "close_valve sent": "command",
    "close_valve done": "reply: closed",
    "close_valve retried": "command again",
    "alarm valve-unanswered": "alarm: no answer",
}
"""What of a timeline is drawn, and how it is named."""

_APART_S: Final = 1.5
"""Steps that are no farther apart share a line's name."""

PANELS: Final = {
    "smog-episode": (
        Panel("pm25", _AIR, "PM2.5 rises at every station together"),
        Panel("no2", _AIR, "so does NO2"),
        Panel("wind_speed", _AIR[:1], "until the wind comes back"),
    ),
    "ceramics-night-discharge": (
        Panel("stack_so2", _KILN, "What the stack's analyser shows, and what leaves (dashed)"),
        Panel("so2", _AIR, "SO2 rises downwind, at Kiln Hill; upwind nothing happens"),
        Panel("no2", _AIR, "and NO2 with it"),
    ),
    "river-spill": (
        Panel("ammonia_n", _WATER, "The pulse travels: each station later and weaker"),
        Panel("dissolved_oxygen", _WATER, "and oxygen sags"),
        Panel("conductivity", _WATER, "conductivity marks the water that carries it"),
    ),
    "gas-burst": _BURST,
    "gas-burst-deaf-valve": (
        *_BURST[:2],
        Panel("valve_position", ("gas-foundry-road/valve-1",), "and the valve stays open"),
    ),
    "gas-slow-leak": (
        Panel("methane", ("gas-harbour-row/detector-1", "gas-harbour-row/detector-2",
                          "gas-orchard-close/detector-1"), "Methane beside the joint"),
        Panel("gas_pressure", ("gas-harbour-row/node-1", "gas-orchard-close/node-1"),
              "Pressure falls by half a percent: no alarm"),
    ),
    "falsified-stack": (
        Panel("stack_so2", _SINTER, "SO2: a constant, then diluted, then scaled"),
        Panel("stack_nox", _SINTER, "NOx: capped, then diluted, then scaled"),
        Panel("stack_pm", _SINTER, "Dust: scaled, then diluted, then scaled"),
        Panel("stack_o2", _SINTER, "O2: up with the dilution, then set by hand"),
    ),
    "sensor-faults": (
        Panel("pm25", ("air-bell-gate/micro-1", "air-bell-gate/station-1"), "Drift"),
        Panel("pm10", ("air-willow-park/micro-1", "air-willow-park/station-1"), "A hanging value"),
        Panel("turbidity", ("river-old-bridge/sonde-1", "river-old-bridge/station-1"), "Spikes"),
        Panel("dissolved_oxygen", ("river-mill-weir/sonde-1", "river-mill-weir/station-1"),
              "Noise"),
        Panel("pm25", ("air-north-mill/micro-1", "air-north-mill/station-1"), "Silence"),
    ),
}  # fmt: skip


def play(
    city: City, scenario: Scenario, panels: Iterable[Panel], closing: tuple[str, int] | None = None
) -> dict[tuple[str, str], Line]:
    """What the devices of the panels show while the scenario plays.

    `closing` is a valve and when it is told to close [ms].
    """
    wanted = {(device, panel.quantity) for panel in panels for device in panel.devices}
    if scenario.for_s > 2.0 * SAMPLES_MAX:
        city = with_interval(city, scenario.for_s / SAMPLES_MAX)
    start_ms = round(city.start.timestamp() * 1000) if city.start else 0
    engine = CityEngine(city, seed=city.seed, start_ms=start_ms)
    parts: dict[tuple[str, str], list[NDArray[np.float64]]] = {key: [] for key in wanted}
    stop_ms = start_ms + round(scenario.for_s * 1000)
    for frame in _frames(engine, start_ms, stop_ms, closing):
        names = [device.name for device in frame.group.devices]
        for name, quantity in wanted:
            if name not in names or quantity not in frame.group.quantities:
                continue
            column = frame.group.quantities.index(quantity)
            own = (frame.rows == names.index(name)) & ~np.isin(frame.flags[:, column], HIDDEN)
            hours = (frame.ts[own] - start_ms) / 3.6e6
            shown = frame.values[own, column]
            true = shown if frame.truth is None else frame.truth[own, column]
            parts[name, quantity].append(np.stack([hours, shown, true]))
    return {key: _line(part) for key, part in parts.items()}


def _frames(
    engine: CityEngine, start_ms: int, stop_ms: int, closing: tuple[str, int] | None
) -> Iterator[Frame]:
    """The samples of the whole time, with a valve that closes on the way."""
    if closing is not None:
        valve, at_ms = closing
        yield from engine.frames(start_ms, at_ms, with_truth=True)
        engine.set_valve(valve, 0.0, at_ms)
        start_ms = at_ms
    yield from engine.frames(start_ms, stop_ms, with_truth=True)


def acted(name: str) -> list[dict[str, Any]]:
    """The timeline of a run of the shipped command with that scenario."""
    command = str(Path(sys.executable).parent / "cityeye")
    with tempfile.TemporaryDirectory(prefix="cityeye-bench-") as folder:
        words = ["--scenario", name, "--speed", "5", "--for", "7m", "--log", "warning"]
        done = subprocess.run(
            [command, "run", *words, "--json", "--data", folder],
            check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(done.stdout)["timeline"]
    return found


def marks(timeline: list[dict[str, Any]], start_ms: int) -> list[Mark]:
    """The first of each kind of step, by its instant."""
    found = []
    for words, shown in _STEPS.items():
        entry = next((e for e in timeline if words in e["what"]), None)
        if entry is not None:
            found.append(Mark((entry["ts"] - start_ms) / 3.6e6, shown))
    return found


def closed(timeline: list[dict[str, Any]]) -> tuple[str, int] | None:
    """The valve that closed, and when it began to."""
    entry = next((e for e in timeline if "close_valve done" in e["what"]), None)
    if entry is None:
        return None
    return entry["where"], entry["ts"] - round(1000 * VALVE_TRAVEL_S)


def _line(parts: list[NDArray[np.float64]]) -> Line:
    whole = np.concatenate(parts, axis=1)
    return Line(*_broken(whole[:, np.argsort(whole[0], kind="stable")]))


def draw(
    scenario: Scenario,
    panels: tuple[Panel, ...],
    lines: dict[tuple[str, str], Line],
    path: Path,
    did: Sequence[Mark] = (),
) -> None:
    """Draw the panels one below the other, and what was `did` across all of them."""
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(11, 2.0 * len(panels)), sharex=True, squeeze=False
    )
    minutes = scenario.for_s < 2 * 3600
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        for number, device in enumerate(panel.devices):
            _plot(axis, lines[device, panel.quantity], device, f"C{number}", 60 if minutes else 1)
        unit = QUANTITIES[panel.quantity].unit
        axis.set_ylabel(f"{panel.quantity} [{unit}]", fontsize=8)
        axis.set_title(panel.title, loc="left", fontsize=9)
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        for mark in did:
            axis.axvline(mark.hours * 60, color="0.4", linewidth=0.8, linestyle=":")
    _name(axes[-1, 0], did)
    if scenario.scenario in _WINDOW_S:
        axes[0, 0].set_xlim(*(second / 60 for second in _WINDOW_S[scenario.scenario]))
    axes[-1, 0].set_xlabel(f"{'minutes' if minutes else 'hours'} since the start", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)


def _name(axis: Any, did: Sequence[Mark]) -> None:
    """Say at the lowest panel what the lines across are; steps that coincide share one."""
    together: dict[float, list[str]] = {}
    for mark in did:
        at = next((one for one in together if abs(one - mark.hours) * 3600 < _APART_S), mark.hours)
        together.setdefault(at, []).append(mark.what)
    for hours, names in together.items():
        axis.annotate(
            "\n".join(names), (hours * 60, 0.5), xycoords=("data", "axes fraction"),
            rotation=90, fontsize=6, ha="right", va="center",
        )  # fmt: skip


def _plot(axis: Any, line: Line, device: str, colour: str, scale: float) -> None:
    axis.plot(line.hours * scale, line.shown, color=colour, linewidth=0.9, label=device)
    off = np.abs(line.true - line.shown) > TRUTH_FROM * np.nanmax(line.shown, initial=1e-9)
    if off.any():
        style = {"color": "black", "linewidth": 0.9, "linestyle": "--", "alpha": 0.8}
        axis.plot(line.hours * scale, line.true, label=f"{device}, true", **style)


def _broken(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """The line with its pen lifted where samples are missing."""
    steps = np.diff(line[0])
    gaps = np.flatnonzero(steps > GAP_STEPS * np.median(steps)) + 1
    return np.insert(line, gaps, np.nan, axis=1)


def main() -> None:
    """Draw the scenarios that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(shipped_scenarios()))
    parser.add_argument("--out", type=Path, default=Path("docs/scenarios"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        story = load_scenario(name)
        city = with_scenario(load_city(story.scenario.city), story)
        start_ms = round(city.start.timestamp() * 1000) if city.start else 0
        timeline = acted(name) if name in _WINDOW_S else []
        lines = play(city, story.scenario, PANELS[name], closed(timeline))
        path = arguments.out / f"{name}.png"
        draw(story.scenario, PANELS[name], lines, path, marks(timeline, start_ms))
        print(f"{path}: {story.scenario.sentence}")


if __name__ == "__main__":
    main()
