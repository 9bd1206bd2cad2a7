"""Grafana's dashboards as code: rows of data that `make.py` turns into files."""

import warnings

with warnings.catch_warnings():
    # the SDK prefers the second dashboard format, which provisioning from files does not need
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import dashboard as _dashboard
    from grafana_foundation_sdk.builders import geomap as _geomap

__all__: list[str] = []
del _dashboard, _geomap
