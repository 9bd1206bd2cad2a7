"""What a device does when it is told to: every command is answered exactly once."""

import asyncio
from typing import Final

from broker.messages import Command, Reply, decode
from city.clock import Clock
from city.errors import PayloadError
from sensors.device import VirtualDevice
from sensors.engine import CityEngine

_POSITIONS: Final = {"close_valve": 0.0, "open_valve": 100.0}
_DONE: Final = {"close_valve": "closed", "open_valve": "opened"}


class Commander:
    """Carries out commands on the simulated city and answers them."""

    def __init__(self, engine: CityEngine, clock: Clock) -> None:
        self.refused = 0
        self.underway = 0
        """Commands whose valve is still travelling, and which are answered when it arrives."""
        self._engine = engine
        self._clock = clock

    def obey(self, device: VirtualDevice, payload: bytes) -> None:
        """Carry out the command in `payload` on `device`, or say why not."""
        try:
            command = decode(Command, payload)
        except PayloadError as error:
            self.refused += 1
            self._answer(device, Reply(id="", ok=False, ts=self._now(), detail=str(error)))
            return
        if command.id in device.answered:
            return
        device.answered.append(command.id)
        problem = self._problem(device, command)
        if problem:
            self.refused += 1
            self._answer(device, Reply(id=command.id, ok=False, ts=self._now(), detail=problem))
            return
        self._move_valve(device, command)

    def _problem(self, device: VirtualDevice, command: Command) -> str | None:
        known = device.device.kind.commands
        if command.name not in known:
            allowed = ", ".join(known) or "none"
            return f"unknown command {command.name[:80]!r}; this device knows: {allowed}"
        if command.args:
            return (
                f"{command.name} takes no arguments, got: {', '.join(sorted(command.args))[:200]}"
            )
        if command.expires is not None and command.expires < self._now():
            return f"expired {(self._now() - command.expires) / 1000:.1f} s ago"
        return None

    def _move_valve(self, device: VirtualDevice, command: Command) -> None:
        now_ms = self._now()
        position = _POSITIONS[command.name]
        arrives_ms = self._engine.set_valve(device.device.name, position, now_ms)
        took_s = (arrives_ms - now_ms) / 1000
        reply = Reply(
            id=command.id, ok=True, ts=arrives_ms, detail=f"{_DONE[command.name]} in {took_s:.1f} s"
        )
        wait_s = 0.0 if self._clock.as_fast_as_possible else took_s / self._clock.speed
        self.underway += 1
        asyncio.get_running_loop().call_later(wait_s, self._arrived, device, reply)

    def _arrived(self, device: VirtualDevice, reply: Reply) -> None:
        self.underway -= 1
        self._answer(device, reply)

    def _answer(self, device: VirtualDevice, reply: Reply) -> None:
        device.reply(reply)

    def _now(self) -> int:
        return self._clock.now_ms()
