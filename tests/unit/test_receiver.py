import asyncio
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker import codec
from broker.choice import BrokerAddress
from broker.session import Link, Session
from ingest.receiver import Arrivals, Receiver


class Wire(asyncio.Transport):
    """The network below a link: keeps what is sent, and whether anybody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.reading = True
        self.closed = False

    def write(self, data: Any) -> None:
        """Keep `data`."""
        self.sent += bytes(data)

    def is_closing(self) -> bool:
        """Whether the connection is gone."""
        return self.closed

    def pause_reading(self) -> None:
        """Take note."""
        self.reading = False

    def resume_reading(self) -> None:
        """Take note."""
        self.reading = True


def make_link() -> tuple[Link, Wire]:
    """A connected link and its network; in a running loop."""
    link, wire = Link(Session(BrokerAddress("127.0.0.1", 1), client_id="test")), Wire()
    link.connection_made(wire)
    link.establish()
    return link, wire


def messages(*mids: int, size: int = 1) -> list[codec.Publish]:
    """Messages of those identifiers; 0 is QoS 0."""
    return [codec.Publish(b"topic", b"x" * size, int(mid > 0), False, False, mid) for mid in mids]


def mids(arrivals: Arrivals) -> list[int]:
    """The identifiers of the messages in a group."""
    return [message.mid for chunk in arrivals.messages() for message in chunk]


async def within(receiver: Receiver, *, deadline_s: float = 60.0) -> Arrivals:
    """The next group, before a deadline."""
    async with asyncio.timeout(deadline_s):
        return await receiver.group()


async def test_a_group_has_everything_in_order() -> None:
    """What arrived on several links is one group, in the order of arrival."""
    receiver, (one, _), (two, _) = Receiver(), make_link(), make_link()
    receiver.receive(one, messages(1, 2))
    receiver.receive(two, messages(7))
    receiver.receive(one, messages(3))
    arrivals = await within(receiver)

    assert ([1, 2, 7, 3], 4) == (mids(arrivals), arrivals.count)


async def test_a_message_is_in_one_group() -> None:
    """What was taken is not waiting any more."""
    receiver, (link, _) = Receiver(), make_link()
    receiver.receive(link, messages(1))
    await within(receiver)
    receiver.receive(link, messages(2))

    assert (1, [2]) == (receiver.waiting, mids(await within(receiver)))


async def test_nothing_is_acknowledged_by_taking() -> None:
    """Taking a group sends nothing; only `acknowledge` does."""
    receiver, (link, wire) = Receiver(), make_link()
    receiver.receive(link, messages(1))
    arrivals = await within(receiver)
    before = wire.sent
    arrivals.acknowledge()

    assert (b"", codec.puback(1)) == (before, wire.sent)


async def test_each_link_gets_its_own_acknowledgements() -> None:
    """Messages are acknowledged where they came from, in their order, without those of QoS 0."""
    receiver, (one, first), (two, second) = Receiver(), make_link(), make_link()
    receiver.receive(one, messages(5, 0, 3))
    receiver.receive(two, messages(5))
    (await within(receiver)).acknowledge()

    assert (codec.pubacks([5, 3]), codec.puback(5)) == (first.sent, second.sent)


async def test_a_lost_link_is_not_acknowledged() -> None:
    """The acknowledgements of a connection that is gone go nowhere."""
    receiver, (link, wire) = Receiver(), make_link()
    receiver.receive(link, messages(1))
    wire.closed = True
    (await within(receiver)).acknowledge()

    assert b"" == wire.sent


async def test_groups_keep_a_distance() -> None:
    """After a small group the next one waits until the distance has passed."""
    receiver, (link, _) = Receiver(distance_s=0.05), make_link()
    receiver.receive(link, messages(1))
    began_s = time.monotonic()
    await within(receiver)
    receiver.receive(link, messages(2))
    await within(receiver)

    assert time.monotonic() - began_s >= 0.05


async def test_a_large_group_is_followed_at_once() -> None:
    """After a group that is worth its commit, the next one need not wait."""
    receiver, (link, _) = Receiver(distance_s=3600), make_link()
    receiver.receive(link, messages(*range(1, 1001)))
    await within(receiver)
    receiver.receive(link, messages(2))

    assert [2] == mids(await within(receiver))


async def test_a_link_is_held_back() -> None:
    """A link that has delivered is read again when its messages were taken, not before."""
    receiver, (link, wire) = Receiver(distance_s=0), make_link()
    receiver.receive(link, messages(1))
    held = not wire.reading
    await within(receiver)
    still_held = not wire.reading
    waiting = asyncio.create_task(receiver.group(), name="next group")
    for _ in range(10):
        await asyncio.sleep(0)
    waiting.cancel()

    assert (True, True, True) == (held, still_held, wire.reading)


async def test_a_stopped_receiver_reads_no_more() -> None:
    """After `stop` what had arrived can still be taken, and the link stays held back."""
    receiver, (link, wire) = Receiver(), make_link()
    receiver.receive(link, messages(1))
    receiver.stop()
    taken = mids(await within(receiver))

    assert ([1], False) == (taken, wire.reading)


async def test_a_stopped_receiver_holds_back_new_links() -> None:
    """A link that comes up after `stop` is held back with the first message on it."""
    receiver, (link, wire) = Receiver(), make_link()
    receiver.stop()
    receiver.receive(link, messages(1))

    assert not wire.reading


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 65_535), min_size=1, max_size=5), max_size=12))
def test_nothing_is_lost_or_repeated(chunks: list[list[int]]) -> None:
    """However arrivals are cut into groups, every message is in exactly one, in order."""

    async def collect() -> list[int]:
        receiver, (link, _) = Receiver(distance_s=0), make_link()
        taken: list[int] = []
        for chunk in chunks:
            receiver.receive(link, messages(*chunk))
            if len(chunk) % 2:
                taken += mids(await within(receiver))
        if receiver.waiting:
            taken += mids(await within(receiver))
        return taken

    assert [mid for chunk in chunks for mid in chunk] == asyncio.run(collect())
