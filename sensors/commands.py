"""What a device does when it is told to: every command is answered exactly once."""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from broker.messages import Command, Reply, decode
from city.clock import Clock
from city.errors import InputError, PayloadError
from sensors.device import VirtualDevice
from sensors.engine import ORDERS

_SOON_S: Final = 10.0
"""What takes longer is answered when it begins, not when it is done."""


class Obedient(Protocol):
    """Whatever carries out commands: the engine."""

    def obey(self, order: str, device_name: str, args: Mapping[str, float], ts_ms: int) -> int:
        """Carry out `order` at a device and return when that is done [ms]."""

    def hears(self, device_name: str, ts_ms: int) -> bool:
        """Whether the device listens to commands at that instant."""


class Commander:
    """Carries out commands on the simulated city and answers them."""

    def __init__(self, engine: Obedient, clock: Clock) -> None:
        self.refused = 0
        self.underway = 0
        """Commands whose valve is still travelling, and which are answered when it arrives."""
        self._engine = engine
        self._clock = clock

    def obey(self, device: VirtualDevice, payload: bytes) -> None:
        """Carry out the command in `payload` on `device`, or say why not; not if it is deaf."""
        if not self._engine.hears(device.device.name, self._now()):
            return
        try:
            command = decode(Command, payload)
        except PayloadError as error:
            self.refused += 1
            self._answer(device, Reply(id="", ok=False, ts=self._now(), detail=str(error)))
            return
        if command.id in device.answered:
            return
        device.answered.append(command.id)
        try:
            self._carry_out(device, command)
        except InputError as error:
            self.refused += 1
            self._answer(device, Reply(id=command.id, ok=False, ts=self._now(), detail=str(error)))

    def _carry_out(self, device: VirtualDevice, command: Command) -> None:
        """Obey and see to the reply.

        Raises:
            InputError: The device does not know the command, its arguments are wrong, or it is
                too late.
        """
        known, now_ms = device.device.kind.commands, self._now()
        if command.name not in known:
            allowed = ", ".join(known) or "none"
            raise InputError(f"unknown command {command.name[:80]!r}; this device knows: {allowed}")
        order = ORDERS[command.name]
        args = order.checked(command.args)
        if command.expires is not None and command.expires < now_ms:
            raise InputError(f"expired {(now_ms - command.expires) / 1000:.1f} s ago")
        done_ms = self._engine.obey(order.name, device.device.name, args, now_ms)
        if order.name == "set_interval":
            device.retime(args["interval_s"])
        took_s = (done_ms - now_ms) / 1000
        if took_s > _SOON_S:
            detail = f"under way, {order.done} in {took_s:.0f} s"
            self._answer(device, Reply(id=command.id, ok=True, ts=now_ms, detail=detail))
            return
        detail = f"{order.done} in {took_s:.1f} s"
        reply = Reply(id=command.id, ok=True, ts=done_ms, detail=detail)
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
