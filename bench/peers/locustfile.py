"""The same fleet as users of Locust's own MQTT support, `locust.contrib.mqtt`.

The job comes in PEERS_PORT, PEERS_ROSTER and PEERS_INTERVAL_S.
"""

import json
import os
from pathlib import Path
from typing import Any

from locust import (  # type: ignore[import-not-found,unused-ignore]
    constant_pacing,
    events,
    task,
)
from locust.contrib.mqtt import (  # type: ignore[import-not-found,unused-ignore]
    MqttClient,
    MqttUser,
)
from paho.mqtt.client import MQTTMessageInfo

from bench.peers.devices import DRAIN_S, HOST, payload, read_roster

DEVICES = iter(read_roster(Path(os.environ["PEERS_ROSTER"])))
SENT = [0]


class OneNameClient(MqttClient):  # type: ignore[misc,unused-ignore]
    """All topics share one row of the statistics instead of one row each."""

    def _generate_event_name(self, event_type: str, qos: int, topic: str) -> str:  # noqa: ARG002 - Locust's interface
        return event_type


class DeviceUser(MqttUser):  # type: ignore[misc,unused-ignore]
    """One device; selectors instead of `select` allow more than 340 of them."""

    host = HOST
    port = int(os.environ["PEERS_PORT"])
    client_cls = OneNameClient
    use_loop_selectors = True
    wait_time = constant_pacing(float(os.environ["PEERS_INTERVAL_S"]))

    def __init__(self, environment: Any) -> None:
        self.device = next(DEVICES)
        self.client_id = self.device.client_id
        self.seq = 0
        self.last: MQTTMessageInfo | None = None
        super().__init__(environment)

    @task  # type: ignore[untyped-decorator,unused-ignore]
    def measure(self) -> None:
        """Publish one message at QoS 1, once the broker has taken us."""
        if self.client.is_connected():
            message = payload(self.device, self.seq)
            self.last = self.client.publish(self.device.topic, message, qos=1)
            self.seq += 1
            SENT[0] += 1

    def on_stop(self) -> None:
        """Wait for what is on its way, and say goodbye."""
        if self.last is not None:
            self.last.wait_for_publish(DRAIN_S)
        self.client.disconnect()


@events.init.add_listener  # type: ignore[untyped-decorator,unused-ignore]
def listen(environment: Any, **_: Any) -> None:
    """Tell when all users have stopped."""
    environment.events.quit.add_listener(lambda **_: tell(environment.stats))


def tell(stats: Any) -> None:
    """The last line: what Locust counted and timed itself."""
    row = stats.get("publish", "MQTT")
    ack_ms = {
        f"p{round(share * 100)}": row.get_response_time_percentile(share) for share in (0.5, 0.99)
    }
    done = row.num_requests - row.num_failures
    print(json.dumps({"sent": SENT[0], "acknowledged": done, "ack_ms": ack_ms}), flush=True)
