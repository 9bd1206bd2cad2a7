#!/bin/bash
# InfluxDB 1.x takes the passwords of its first start from variables; ours are in files.
set -euo pipefail
for name in admin ingest grafana; do
    file=/keys/influx1-$name-password
    [ -r "$file" ] || {
        echo "influx1: $file is missing: run 'make secrets' on the host, then 'make up'" >&2
        exit 1
    }
done
INFLUXDB_ADMIN_PASSWORD=$(</keys/influx1-admin-password)
INFLUXDB_USER_PASSWORD=$(</keys/influx1-ingest-password)
INFLUXDB_READ_USER_PASSWORD=$(</keys/influx1-grafana-password)
export INFLUXDB_ADMIN_PASSWORD INFLUXDB_USER_PASSWORD INFLUXDB_READ_USER_PASSWORD
exec /entrypoint.sh influxd -config /etc/influxdb/influxdb.conf
