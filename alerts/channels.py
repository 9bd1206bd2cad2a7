"""Channels: how a message reaches people. The log, an MQTT topic, a webhook, or a service of apprise.

A channel either has delivered a notice when `send` returns, or raises: `ChannelError` when the
channel is in trouble and any notice would have fared the same, `ChannelRefused` when the answer is
about this notice. Either way the same notice may be handed in again, with the same id.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import time
from collections.abc import Awaitable, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, assert_never

import aiohttp
import msgspec
import structlog

from alerts.mails import Occasion
from alerts.tellingfile import (
    AppriseSpec,
    ChannelSpec,
    LogSpec,
    MqttSpec,
    TellingFile,
    WebhookSpec,
    url_problem,
)
from broker.messages import AlarmEvent, Severity, encode
from broker.topics import ROOT
from city.errors import ServiceError, SettingError

if TYPE_CHECKING:
    from apprise import Apprise, NotifyType

_log = structlog.get_logger(__name__)

_ACCEPTED: Final = range(200, 300)
_IN_TROUBLE: Final = frozenset({408, 425, 429, 502, 503, 504})
"""Answers of HTTP that are about the service and not about the notice."""
_SECRET_MAX: Final = 65_536
_MARKS: Final[Mapping[Severity, str]] = {
    "low": "info", "medium": "warning", "high": "failure", "critical": "failure",
}  # fmt: skip
"""How apprise colours a message."""


class ChannelError(ServiceError):
    """A channel to people does not answer, or asks to wait."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ChannelRefused(ChannelError):  # noqa: N818 - as the stores' errors are named
    """A channel to people does not take this notice; it may take others."""


class NoticeLine(msgspec.Struct, frozen=True, kw_only=True):
    """One alarm event in a notice; `event` is as on the alarm's topic."""

    happening: Occasion
    district: str
    domain: str
    site: str
    device: str
    event: AlarmEvent


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A message to people as channels get it: the JSON body of webhooks and of the MQTT topic."""

    id: str
    """The same whenever this notice is sent again: receivers tell repeats by it."""
    city: str
    route: str
    channel: str
    person: str
    """Who is on call; empty: nobody by name."""
    group: str
    ts: int
    """When it was due [ms since the epoch, UTC, simulated]."""
    severity: Severity
    """The greatest of its events."""
    resolved: bool
    """Whether every alarm in it is over."""
    title: str
    body: str
    more: int
    """Events that are counted but not listed."""
    alarms: tuple[NoticeLine, ...]


class Publish(Protocol):
    """How a message reaches the broker."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool) -> Awaitable[None]:
        """Publish one message and return when the broker has it."""


class Channel(Protocol):
    """Delivers notices; `timeout_s` and `give_up_s` are what the mailroom holds it to."""

    @property
    def timeout_s(self) -> float:
        """How long one attempt may take."""

    @property
    def give_up_s(self) -> float:
        """How long after it was due a notice is given up."""

    async def send(self, notice: Notice) -> None:
        """Deliver `notice`.

        Raises:
            ChannelError: It is not known to be delivered.
        """

    async def close(self) -> None:
        """Let go of connections."""


class _Timed:
    """What all channels have."""

    def __init__(self, spec: ChannelSpec) -> None:
        self.timeout_s = spec.timeout_s
        self.give_up_s = spec.give_up_s

    async def close(self) -> None:
        """Nothing is open."""


class LogChannel(_Timed):
    """Writes notices to the service's log."""

    async def send(self, notice: Notice) -> None:
        """Write one entry."""
        say = _log.warning if notice.severity in {"high", "critical"} else _log.info
        say(notice.title, id=notice.id, channel=notice.channel, text=notice.body)


class MqttChannel(_Timed):
    """Publishes notices on the channel's topic, not retained."""

    def __init__(self, spec: MqttSpec, name: str, city: str, publish: Publish) -> None:
        super().__init__(spec)
        self.topic = f"{ROOT}/{city}/notifications/{name}"
        self._publish = publish

    async def send(self, notice: Notice) -> None:
        """Publish it; the broker has it when this returns."""
        await self._publish(self.topic, encode(notice), retain=False)


class WebhookChannel(_Timed):
    """Posts notices as JSON."""

    def __init__(self, spec: WebhookSpec, url: str, secret: str | None) -> None:
        super().__init__(spec)
        self._url = url
        self._secret = secret.encode() if secret else None
        self._session: aiohttp.ClientSession | None = None

    async def send(self, notice: Notice) -> None:
        """Post it; any 2xx is success, redirections are not followed."""
        body = encode(notice)
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            async with self._session.post(
                self._url, data=body, headers=self._headers(notice, body), allow_redirects=False
            ) as response:
                status, wait = response.status, response.headers.get("Retry-After")
        except aiohttp.ClientError as error:
            raise ChannelError(f"no answer: {type(error).__name__}") from error
        if status in _IN_TROUBLE:
            raise ChannelError(f"HTTP status {status}", retry_after_s=_waiting_s(wait))
        if status not in _ACCEPTED:
            raise ChannelRefused(f"HTTP status {status}", retry_after_s=_waiting_s(wait))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _headers(self, notice: Notice, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": notice.id}
        if self._secret is not None:
            digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers["X-CityEye-Signature"] = f"sha256={digest}"
        return headers


class AppriseChannel(_Timed):
    """Hands notices to one service that apprise knows.

    Apprise is synchronous and is called in a thread. A call that is late cannot be stopped, and its
    own timeout would leave it running unseen: so when a notice is handed in again, the end of the
    late call is waited for, and if that has delivered it, it is not sent twice.
    """

    def __init__(self, spec: AppriseSpec, service: "Apprise") -> None:
        super().__init__(spec)
        self._service = service
        self._late: tuple[str, asyncio.Task[bool]] | None = None

    async def send(self, notice: Notice) -> None:
        """Send its title and body, as plain text."""
        if self._late is not None:
            late, task = self._late
            delivered = await asyncio.shield(task)
            self._late = None
            if late == notice.id and delivered:
                return
        task = asyncio.create_task(
            asyncio.to_thread(self._notify, notice), name=f"apprise {notice.channel}"
        )
        self._late = (notice.id, task)
        delivered = await asyncio.shield(task)
        self._late = None
        if not delivered:
            raise ChannelError("the service did not take it")

    async def close(self) -> None:
        """Wait for what is late, as long as one attempt may take."""
        if self._late is not None:
            await asyncio.wait({self._late[1]}, timeout=self.timeout_s)

    def _notify(self, notice: Notice) -> bool:
        kind: NotifyType | str = "success" if notice.resolved else _MARKS[notice.severity]
        try:
            return bool(
                self._service.notify(
                    title=notice.title,
                    body=notice.body,
                    notify_type=_mark(kind),
                    body_format="text",
                )
            )
        except Exception as error:  # noqa: BLE001 - plug-ins of apprise raise what they like
            _log.debug("apprise failed", channel=notice.channel, error=type(error).__name__)
            return False


def open_channels(
    file: TellingFile, city: str, publish: Publish, environ: Mapping[str, str] | None = None
) -> dict[str, Channel]:
    """The channels of a telling file; their URLs and secrets are read now.

    Raises:
        SettingError: An URL or secret is missing or not usable; the text does not repeat it.
    """
    secrets = _Secrets(file.folder, os.environ if environ is None else environ)
    return {spec.id: _open(spec, spec.id, city, publish, secrets) for spec in file.channels}


def _open(
    spec: ChannelSpec, name: str, city: str, publish: Publish, secrets: "_Secrets"
) -> Channel:
    match spec:
        case LogSpec():
            return LogChannel(spec)
        case MqttSpec():
            return MqttChannel(spec, name, city, publish)
        case WebhookSpec():
            url = spec.url or secrets.required(name, "url", spec.url_file, spec.url_env)
            problem = url_problem(url)
            if problem is not None:
                raise SettingError(f"channel {name}: {problem}")
            key = secrets.optional(name, "secret", spec.secret_file, spec.secret_env)
            return WebhookChannel(spec, url, key)
        case AppriseSpec():
            url = secrets.required(name, "url", spec.url_file, spec.url_env)
            return AppriseChannel(spec, _service(name, url))
        case _:
            assert_never(spec)


class _Secrets:
    """Reads secrets from files, relative to a folder, and from the environment."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ

    def required(self, channel: str, what: str, file: str | None, variable: str | None) -> str:
        """The secret, which must be there."""
        secret = self.optional(channel, what, file, variable)
        if secret is None:
            raise SettingError(f"channel {channel}: no {what}; give {what}_file or {what}_env")
        return secret

    def optional(
        self, channel: str, what: str, file: str | None, variable: str | None
    ) -> str | None:
        """The secret if one is asked for; then it must be there."""
        if file is None and variable is None:
            return None
        if file is not None:
            place, text = f"{what}_file {file}", self._read(channel, what, file)
        else:
            place, text = f"variable {variable}", self._environ.get(variable or "", "")
        if not text.strip() or len(text.strip().splitlines()) != 1:
            raise SettingError(f"channel {channel}: {place} must hold one line, the {what}")
        return text.strip()

    def _read(self, channel: str, what: str, file: str) -> str:
        path = self._folder / file
        try:
            with path.open(encoding="utf-8") as stream:
                return stream.read(_SECRET_MAX)
        except (OSError, UnicodeDecodeError) as error:
            trouble = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise SettingError(
                f"channel {channel}: {what}_file {path} cannot be read: {trouble}"
            ) from error


def _service(name: str, url: str) -> "Apprise":
    import apprise  # noqa: PLC0415 - slow, and only some cities need it

    # its messages may repeat URLs, which hold credentials
    logging.getLogger("apprise").disabled = True
    asset = apprise.AppriseAsset(app_id="CityEye", app_desc="CityEye", async_mode=False)
    service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        raise SettingError(
            f"channel {name}: apprise does not understand the URL; see "
            "https://github.com/caronc/apprise/wiki for what each service needs"
        )
    return apprise.Apprise([service], asset=asset)


def _mark(kind: str) -> "NotifyType":
    from apprise import NotifyType  # noqa: PLC0415 - see `_service`

    return NotifyType(kind)


def _waiting_s(header: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, as a number or as a date."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
