"""Every error that CityEye raises on purpose.

CityEyeError
├── InputError               wrong usage or input: exit status 2
│   ├── DocumentError        a city, rule or settings file is wrong
│   └── SettingError         an option or environment variable is wrong
├── ServiceError             something that we depend on does not do its part: exit status 1
│   ├── BrokerError          the MQTT broker cannot be started or reached
│   ├── StoreError           the store cannot be started or reached
│   │   ├── StoreUnavailable the store does not answer, or asks us to wait
│   │   ├── StoreTooLarge    the store wants a smaller batch
│   │   └── StoreRefused     the store will never take (part of) this batch
│   ├── SpoolError           the spool cannot be written
│   │   └── SpoolFull        the disk or the spool's bound is reached
│   └── ArchiveError         the archive of alarms cannot be read or written
└── WireError                bytes from the network that are not what they should be
    ├── TopicError           a topic that is not one of ours
    ├── PayloadError         a payload that does not decode to its message
    └── ProtocolError        bytes that are not MQTT 3.1.1
"""


class CityEyeError(Exception):
    """The root of all errors raised on purpose; its text says what, where and what to do."""

    exit_status = 1


class InputError(CityEyeError):
    """The user's input is wrong; nothing was started."""

    exit_status = 2


class DocumentError(InputError):
    """A file does not say what it must; the text names file, line, path, found and allowed."""


class SettingError(InputError):
    """An option, environment variable or settings-file entry has an impossible value."""


class ServiceError(CityEyeError):
    """A part that we depend on does not do its part."""


class BrokerError(ServiceError):
    """The MQTT broker cannot be started or reached."""


class StoreError(ServiceError):
    """The store cannot be started or reached."""


class StoreUnavailable(StoreError):  # noqa: N818 - a state of the store, as HTTP names it
    """The store does not answer or asks to wait; the same batch may succeed later."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreTooLarge(StoreError):  # noqa: N818 - the same
    """The store wants a smaller batch."""


class StoreRefused(StoreError):  # noqa: N818 - the same
    """The store will never take (part of) this batch; the good points in it may be accepted."""


class SpoolError(ServiceError):
    """The spool cannot be read or written."""


class SpoolFull(SpoolError):  # noqa: N818 - a state of the spool
    """The disk or the spool's own bound is reached; nothing was appended."""


class ArchiveError(ServiceError):
    """The archive of alarms cannot be read or written; what was asked for was not done."""


class WireError(CityEyeError):
    """Bytes from the network that are not what they should be."""


class TopicError(WireError):
    """A topic that is not one of ours."""


class PayloadError(WireError):
    """A payload that does not decode to its message; `reason` is the ledger's key."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ProtocolError(WireError):
    """Bytes that are not MQTT 3.1.1."""
