#!/bin/bash
# InfluxDB 1.x takes the passwords of its first start from variables; ours are in files. At every
# start two retention policies are put right: `autogen` keeps the readings for as long as RETENTION
# says, `rollup` keeps the downsampled ones for ever.
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

# Says a statement as the administrator, whose password stands in no command line.
ask() {
    INFLUX_USERNAME=$INFLUXDB_ADMIN_USER INFLUX_PASSWORD=$INFLUXDB_ADMIN_PASSWORD \
        influx -host "$address" -execute "$1" 2>&1
}

# Until it answers where others ask, it still makes its users.
keep() {
    local answer address=${INFLUXDB_ADDRESS:-$(hostname)} tries=0
    until answer=$(ask "SHOW DATABASES") && [[ $answer == *"$INFLUXDB_DB"* ]]; do
        [ $((tries += 1)) -lt 120 ] || {
            echo "influx1: the retention policies stay as they are: $answer" >&2
            return
        }
        sleep 1
    done
    local duration=${INFLUXDB_DB_RETENTION_POLICY#WITH DURATION }
    duration=${duration%% *}
    answer=$(ask "ALTER RETENTION POLICY autogen ON \"$INFLUXDB_DB\" DURATION $duration SHARD DURATION 1d DEFAULT") &&
        answer=$(ask "CREATE RETENTION POLICY rollup ON \"$INFLUXDB_DB\" DURATION INF REPLICATION 1") ||
        echo "influx1: the retention policies stay as they are: $answer" >&2
}
keep &
exec /entrypoint.sh influxd -config /etc/influxdb/influxdb.conf
