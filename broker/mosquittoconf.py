"""Mosquitto's configuration for a city that lets nobody in where he does not belong, as text.

All paths are relative to the folder of `mosquitto.conf`, so the same files work wherever Mosquitto is
started in that folder: by hand (`cd broker && mosquitto -c mosquitto.conf`), by systemd
(`WorkingDirectory`) and in a container (`working_dir`).
"""

import os
from typing import Final

PORT: Final = 8883
PLAIN_PORT: Final = 1883
PLAIN_HOST: Final = "127.0.0.1"
IMAGE: Final = "eclipse-mosquitto:2.0.22"

CONF_FILE: Final = "mosquitto.conf"
PASSWORD_FILE: Final = "passwd"  # noqa: S105 - the name of a file
ACL_FILE: Final = "acl"
CA_FILE: Final = "certs/ca.crt"
SERVER_FILE: Final = "certs/server.crt"
SERVER_KEY_FILE: Final = "certs/server.key"
DATA_FOLDER: Final = "data"
HEALTH_FILE: Final = "health/mosquitto_sub"

_CONFIGURATION: Final = """\
# Written by `cityeye broker init`; changes are lost. Paths are relative to this folder: start
# Mosquitto in it. After a change of passwords, ACL or certificates send it SIGHUP.
{user}
# With TLS, for everybody. The client id is the user name there, so that nobody can take over the
# session of another; a second connection of the same user replaces the first.
listener {port}{host}
cafile {ca}
certfile {server}
keyfile {server_key}
tls_version tlsv1.2
require_certificate {certificates}
use_identity_as_username false
use_username_as_clientid true

# Without TLS, for programs on this machine: health checks, people's consoles, a second ingest.
listener {plain_port} {plain_host}

allow_anonymous false
password_file {passwords}
acl_file {acl}

# Sessions, queues and retained messages outlive a stop, and a crash up to the last save.
persistence true
persistence_location {data}/
autosave_interval 30
autosave_on_changes false
persistent_client_expiration 14d

# How many messages a subscriber may hold unacknowledged; ingest relies on this window.
max_inflight_messages {window}
# Mosquitto acknowledges to the sender and then drops what a subscriber's full queue cannot take:
# room for hours of a stopped ingest.
max_queued_messages 10000000
max_queued_bytes 4294967296
queue_qos0_messages false
# A larger packet closes its sender's connection; `message_size_limit` would drop it unseen.
max_packet_size 1048576
max_connections -1
set_tcp_nodelay false
# The uptime is what the health check reads.
sys_interval 10

log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false
"""

_HEALTH: Final = """\
-h {plain_host}
-p {plain_port}
-u health
-P {secret}
-t $SYS/broker/uptime
-C 1
-W 3
"""

_UNIT: Final = """\
# Written by `cityeye broker init`. To use it:
#   cp -a broker /etc/cityeye-broker && chown -R mosquitto: /etc/cityeye-broker
#   cp cityeye-mosquitto.service /etc/systemd/system/
#   systemctl disable --now mosquitto; systemctl enable --now cityeye-mosquitto
# `systemctl reload` takes up new passwords, ACL and certificates; it disconnects whose login is gone.
[Unit]
Description=Mosquitto for CityEye, city {city}
After=network-online.target
Wants=network-online.target

[Service]
User=mosquitto
WorkingDirectory=/etc/cityeye-broker
ExecStart=mosquitto -c {conf}
ExecReload=kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
TimeoutStopSec=60
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectHome=yes
ProtectSystem=strict
ReadWritePaths=/etc/cityeye-broker/{data}

[Install]
WantedBy=multi-user.target
"""

_COMPOSE: Final = """\
# Written by `cityeye broker init`: the broker of city {city} as a service of Compose.
# The health check takes its login from a file, so that no secret stands in the list of processes.
services:
  mosquitto:
    image: {image}
    user: "{uid}:{gid}"
    working_dir: /mosquitto/config
    entrypoint: ["mosquitto", "-c", "{conf}"]
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
    stop_grace_period: 60s
    ulimits:
      nofile: 65536
    ports:
      - "127.0.0.1:{port}:{port}"
    volumes:
      - ./broker:/mosquitto/config:ro
      - ./broker/{data}:/mosquitto/config/{data}
    environment:
      XDG_CONFIG_HOME: /mosquitto/config/health
    healthcheck:
      test: ["CMD", "mosquitto_sub"]
      interval: 10s
      timeout: 5s
      retries: 3
      start_period: 20s
"""


def conf_text(
    *,
    port: int = PORT,
    host: str | None = None,
    plain_port: int = PLAIN_PORT,
    plain_host: str = PLAIN_HOST,
    client_certificates: bool = False,
    window: int = 20_000,
) -> str:
    """The text of `mosquitto.conf`; `host` None listens with TLS on every interface.

    As root, Mosquitto would become the user `mosquitto`, who may not read what root made; so the
    file then says `user root`, which counts only where Mosquitto is started as root too.
    """
    return _CONFIGURATION.format(
        user="user root\n" if os.geteuid() == 0 else "",
        port=port,
        host=f" {host}" if host else "",
        ca=CA_FILE,
        server=SERVER_FILE,
        server_key=SERVER_KEY_FILE,
        certificates="true" if client_certificates else "false",
        plain_port=plain_port,
        plain_host=plain_host,
        passwords=PASSWORD_FILE,
        acl=ACL_FILE,
        data=DATA_FOLDER,
        window=window,
    )


def health_text(secret: str, *, plain_port: int = PLAIN_PORT) -> str:
    """What `mosquitto_sub` reads when it runs with `XDG_CONFIG_HOME` set to the health folder."""
    return _HEALTH.format(secret=secret, plain_host=PLAIN_HOST, plain_port=plain_port)


def unit_text(city: str) -> str:
    """A systemd unit."""
    return _UNIT.format(city=city, conf=CONF_FILE, data=DATA_FOLDER)


def compose_text(city: str, *, port: int = PORT) -> str:
    """A Compose file with the broker alone, for `include` or as an example."""
    return _COMPOSE.format(
        city=city, image=IMAGE, port=port, conf=CONF_FILE, data=DATA_FOLDER,
        uid=os.getuid(), gid=os.getgid(),
    )  # fmt: skip
