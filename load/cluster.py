"""Dask's distributed scheduler: reached, checked, and with workers enough.

`--scheduler tcp://host:port` is one that runs already (`tls://` by Dask's own configuration);
`--local-cluster N` one of N worker processes on this machine, for as long as the command works.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

import dask
import structlog
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from city.errors import ServiceError, SettingError

_log = structlog.get_logger(__name__)

_CONNECT_S: Final = 10.0
_GLANCE_S: Final = 0.2
_QUIET: Final = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
}
"""A worker that looks at its own threads a hundred times per second is slower for it."""


@asynccontextmanager
async def connected(
    scheduler: str | None, local: int | None, *, workers: int, patience_s: float
) -> AsyncIterator[Client]:
    """A client of a cluster that has at least so many workers, all of our version.

    Raises:
        SettingError: Neither or both of scheduler and local workers are given, or no address.
        ServiceError: The scheduler is not reached, workers are too few for longer than the
            patience, or they run something else.
    """
    if (scheduler is None) == (local is None):
        raise SettingError("give either --scheduler tcp://HOST:PORT or --local-cluster NUMBER")
    if local is not None and local < 1:
        raise SettingError(f"--local-cluster: {local} is not allowed; give 1 worker or more")
    opening = _local(local) if local else _remote(scheduler or "", patience_s)
    async with opening as client:
        await _enough(client, local or workers, patience_s)
        await check_workers(client)
        yield client


async def workers_of(client: Client) -> tuple[str, ...]:
    """The addresses of the workers there are."""
    return tuple(sorted(await client.nthreads()))


async def check_workers(client: Client) -> None:
    """Refuse workers that run another CityEye, Python or distributed.

    Raises:
        ServiceError: There is such a worker; the text names the first.
    """
    ours = about()
    answers: Mapping[str, Any] = await client.run(about, on_error="return")
    for worker, theirs in sorted(answers.items()):
        if isinstance(theirs, ModuleNotFoundError):
            raise ServiceError(
                f"the worker {worker} has no CityEye ({theirs}); install cityeye "
                f"{ours['cityeye']} in the environment that `dask worker` is started from"
            )
        if isinstance(theirs, BaseException):
            raise ServiceError(f"the worker {worker} does not answer as it should: {theirs}")
        for name, wanted in ours.items():
            if theirs.get(name) != wanted:
                raise ServiceError(
                    f"the worker {worker} has {name} {theirs.get(name)}, we have {wanted}; "
                    "install the same on every machine"
                )


def about() -> dict[str, str]:
    """What must be the same on every machine."""
    return {
        "cityeye": version("cityeye"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "distributed": version("distributed"),
        "msgspec": version("msgspec"),
        "numpy": version("numpy"),
    }


class _NoInterrupt(WorkerPlugin):  # type: ignore[misc]  # distributed is untyped
    """Ctrl-C on a terminal reaches every process there; what it ends, the command decides."""

    def setup(self, worker: Worker) -> None:
        """In the worker's main thread."""
        del worker
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@asynccontextmanager
async def _remote(address: str, patience_s: float) -> AsyncIterator[Client]:
    try:
        client = await Client(
            address, asynchronous=True, set_as_default=False, timeout=min(_CONNECT_S, patience_s)
        )
    except (ValueError, TypeError) as error:
        raise SettingError(
            f"--scheduler: {address!r} is no address ({error}); write tcp://HOST:PORT"
        ) from error
    except (OSError, TimeoutError) as error:
        raise ServiceError(
            f"no Dask scheduler answers at {address}: start one with `dask scheduler`, and workers "
            f"with `dask worker {address} --nthreads 1 --memory-limit 0`"
        ) from error
    try:
        yield client
    finally:
        await _closed(client)


@asynccontextmanager
async def _local(workers: int) -> AsyncIterator[Client]:
    with dask.config.set(_QUIET):
        try:
            cluster = await LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0,
                dashboard_address="127.0.0.1:0", host="127.0.0.1", asynchronous=True,
            )  # fmt: skip
        except (OSError, TimeoutError, RuntimeError) as error:
            raise ServiceError(f"--local-cluster: its workers do not start: {error}") from error
        try:
            async with Client(cluster, asynchronous=True, set_as_default=False) as client:
                await client.register_plugin(_NoInterrupt(), name="cityeye-no-interrupt")
                yield client
        finally:
            await cluster.close(timeout=_CONNECT_S)


async def _closed(client: Client) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        await client.close()


async def _enough(client: Client, wanted: int, patience_s: float) -> None:
    """Wait until there are so many workers."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + patience_s
    said = -1
    while (there := len(await workers_of(client))) < wanted:
        if there != said:
            _log.info("waiting for workers", there=there, wanted=wanted)
            said = there
        if loop.time() >= deadline_s:
            address = client.scheduler.address
            raise ServiceError(
                f"the scheduler {address} has {there} workers, {wanted} are wanted; gave up after "
                f"{patience_s:.0f} s: start more with `dask worker {address} --nthreads 1 "
                "--memory-limit 0`, or ask for fewer"
            )
        await asyncio.sleep(_GLANCE_S)
