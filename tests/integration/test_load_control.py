"""A load test is controlled by messages on a real broker, and by keys until Ctrl-C."""

import asyncio
import os
import pty
import signal
import sys
import termios
from collections.abc import Awaitable, Callable
from typing import Any

from broker.choice import BrokerAddress
from broker.session import Session
from broker.topics import load_topic
from load.keys import Remote, Wish

Until = Callable[..., Awaitable[None]]

PROGRAM = """
import asyncio
from load.keys import Keys

async def listen():
    with Keys(lambda wish: print(wish, flush=True)) as keys:
        print("listening", keys.listening, flush=True)
        await asyncio.Event().wait()

asyncio.run(listen())
"""


async def test_messages(
    broker: BrokerAddress, topic: str, connect: Callable[..., Awaitable[Any]], until: Until
) -> None:
    """What is published on the control topic is wished, in its order."""
    wishes: list[Wish] = []
    at = load_topic("lanting", topic.rpartition("/")[2], "control")
    session = Session(
        broker, client_id=topic.rpartition("/")[2], subscriptions=[(at, 1)], clean=True,
        receive=Remote(wishes.append).receive,
    )  # fmt: skip
    running = asyncio.create_task(session.run(), name="session")
    await session.ready(patience_s=30.0)
    peer = await connect(broker)
    for payload in (b'{"rate": 20000}', b"rubbish", b'{"stop": true}'):
        await peer.publish(at, payload)
    await until(lambda: len(wishes) == 2, deadline_s=30.0)
    session.disconnect()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert [Wish(rate=20_000.0), Wish(stop=True)] == wishes


async def test_ctrl_c() -> None:
    """A program that is interrupted while it hears keys gives the terminal back as it was."""
    person, shown = pty.openpty()
    before = termios.tcgetattr(shown)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdin=shown, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(60.0):
        assert b"listening True\n" == await process.stdout.readline()
        between = termios.tcgetattr(shown)
        os.write(person, b"p")
        said = await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        await process.wait()
    after = termios.tcgetattr(shown)
    os.close(person)
    os.close(shown)

    assert b"Wish(times=None, factor=None, rate=None, pause=True, stop=False)\n" == said
    assert before == after
    assert before != between
