#!/bin/bash
# The job `bucket`: what InfluxQL and the services need of InfluxDB 2. It runs at every start and
# changes nothing that is right: the mapping of database and retention policy to the bucket, the
# bucket's retention, and one token for each service that may no more than it must. The same for the
# second bucket, of the downsampled readings: it is retention policy `rollup` of the same database.
set -euo pipefail
umask 027

fail() {
    echo "bucket: $1" >&2
    exit 1
}

keys=${KEYS:-/keys}
token_file=$keys/influxdb/influxdb-admin-token
[ -r "$token_file" ] || fail "$token_file is missing: run 'make secrets' on the host, then 'make up'"
INFLUX_TOKEN=$(<"$token_file")
export INFLUX_TOKEN

answer=$(influx bucket list --name "$BUCKET" --hide-headers 2>&1) || case $answer in
*[Uu]nauthorized*) fail "InfluxDB does not know the token in docker/secrets/influxdb-admin-token: it was set up with another one. Put that one back, or give up the stored data with 'make down ARGS=--volumes'" ;;
*) fail "there is no bucket $BUCKET in $INFLUX_ORG: $answer. Give up the stored data with 'make down ARGS=--volumes', or make the bucket by hand: influx bucket create --name $BUCKET" ;;
esac
bucket=$(cut -f 1 <<<"$answer")
influx bucket update --id "$bucket" --retention "$RETENTION" >/dev/null

rollup=${BUCKET}_rollup
kept=${ROLLUP_RETENTION:-0} # 0: for ever
if ! answer=$(influx bucket list --name "$rollup" --hide-headers 2>&1) || [ -z "$answer" ]; then
    answer=$(influx bucket create --name "$rollup" --retention "$kept" --hide-headers 2>&1) ||
        fail "there is no bucket $rollup for downsampled readings, and it cannot be made: $answer. By hand: influx bucket create --name $rollup --retention $kept"
fi
rollup_bucket=$(cut -f 1 <<<"$answer")
influx bucket update --id "$rollup_bucket" --retention "$kept" >/dev/null

# mapping POLICY BUCKET-ID [--default]
mapping() {
    local policy=$1 id=$2 answer
    shift 2
    if ! answer=$(influx v1 dbrp create --db "$BUCKET" --rp "$policy" --bucket-id "$id" "$@" 2>&1); then
        case $answer in
        *"already exists"* | *[Cc]onflict*) ;;
        *) fail "InfluxQL finds no bucket without a mapping, and it cannot be made: $answer. By hand: influx v1 dbrp create --db $BUCKET --rp $policy --bucket-id $id $*" ;;
        esac
    fi
}

mapping autogen "$bucket" --default
mapping rollup "$rollup_bucket"

# sees BUCKET: whether the token in INFLUX_TOKEN may know of it
sees() {
    [ -n "$(influx bucket list --name "$1" --hide-headers 2>/dev/null)" ]
}

# token FILE DESCRIPTION PERMISSION...
token() {
    local file=$1 description=$2 made
    shift 2
    if [ -s "$file" ] && INFLUX_TOKEN=$(<"$file") sees "$BUCKET" && INFLUX_TOKEN=$(<"$file") sees "$rollup"; then
        return
    fi
    made=$(influx auth create --description "$description" "$@" --json) || fail "no token for $description: $made"
    sed -n 's/.*"token": *"\([^"]*\)".*/\1/p' <<<"$made" >"$file.new"
    [ -s "$file.new" ] || fail "InfluxDB's answer holds no token for $description"
    mv "$file.new" "$file"
}

token "$keys"/ingest/influxdb/token "CityEye ingest" --read-bucket "$bucket" --write-bucket "$bucket" --read-bucket "$rollup_bucket" --write-bucket "$rollup_bucket"
token "$keys"/grafana/influxdb/token "CityEye Grafana" --read-bucket "$bucket" --read-bucket "$rollup_bucket"
echo "bucket: $BUCKET keeps $RETENTION, $rollup keeps downsampled readings, and both answer InfluxQL"
