"""Whether InfluxQL finds a bucket of InfluxDB 2: the mapping of database and retention policy.

Writing goes to a bucket by its name. Reading by InfluxQL, as Grafana and CityEye do it, names a
database, and InfluxDB 2 finds its bucket by a mapping (DBRP). A bucket without one takes every
reading and shows none.
"""

from typing import Final
from urllib.parse import unquote, urlsplit

import aiohttp

from ingest.storeurl import PORT

_SCHEMES: Final = {"influx2": "http", "influx2s": "https"}
_QUERY: Final = "SHOW MEASUREMENTS LIMIT 1"
_SIGNS: Final = ("database not found", "dbrp", "no database")
"""What the answers of InfluxDB 2 say of a database without a mapping, in small letters."""


def bucket_of(spec: str) -> tuple[str, str, str] | None:
    """Address, organisation and bucket of a store `influx2://HOST:PORT/ORG/BUCKET`, else None.

    Args:
        spec: One of `ingest.storeurl.SPECS`, as `open_store` has accepted it.
    """
    parts = urlsplit(spec)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        return None
    org, bucket = (unquote(name) for name in parts.path.strip("/").split("/"))
    address = parts.netloc if parts.port else f"{parts.netloc.rstrip(':')}:{PORT}"
    return f"{scheme}://{address}", org, bucket


async def mapping_problem(
    url: str, bucket: str, *, org: str, token: str | None = None, timeout_s: float = 10.0
) -> str | None:
    """What keeps InfluxQL from reading the bucket, with the remedy; None when nothing does.

    Whether the server is there and knows the token is not judged here: that says `Store.open`.

    Args:
        url: Where the server answers, e.g. `http://127.0.0.1:8086`.
        bucket: The bucket, and the database that it shall be found by.
        org: The organisation that owns it.
        token: Who asks.
        timeout_s: How long the answer may take.
    """
    headers = {"Authorization": f"Token {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
            session.get(f"{url}/query", params={"db": bucket, "q": _QUERY}) as answer,
        ):
            said = (await answer.read()).decode(errors="replace").lower()
    except (aiohttp.ClientError, TimeoutError):
        return None
    if not any(sign in said for sign in _SIGNS):
        return None
    return (
        f"InfluxQL finds no bucket for the database {bucket!r}: it has no mapping, so nothing can be "
        f"read; make it with `influx v1 dbrp create --org {org} --db {bucket} --rp autogen --default "
        f"--bucket-id $(influx bucket list --org {org} --name {bucket} --hide-headers | cut -f 1)`"
    )
