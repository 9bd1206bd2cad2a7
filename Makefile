# CityEye: `make` prints the targets. Every target works from a fresh checkout.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# passed through to `cityeye`; empty ones are left out
CITY  ?=
SCENARIO ?=
SPEED ?=
FOR   ?=
BROKER ?=
STORE ?=
ARGS  ?=
DEVICES ?=
RATE ?=
INTERVAL ?=
PROFILE ?=
OPTIONS = $(if $(CITY),--city $(CITY)) $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(SPEED),--speed $(SPEED)) $(if $(FOR),--for $(FOR)) \
          $(if $(BROKER),--broker $(BROKER)) $(if $(STORE),--store $(STORE)) $(ARGS)

# the stack in containers: the database, the devices of a load test, ports and more (docs/docker.md)
DATABASE ?= influx2
LOAD ?=
STACK = DATABASE=$(DATABASE) COMPOSE_PROFILES=$(DATABASE)$(if $(LOAD),$(comma)load) $(if $(LOAD),LOAD=$(LOAD)) \
        $(if $(CITY),CITY=$(CITY)) $(if $(SCENARIO),SCENARIO=$(SCENARIO)) $(if $(SPEED),SPEED=$(SPEED))
COMPOSE = docker compose -f docker/compose.yaml
EVERYTHING = COMPOSE_PROFILES=influx1,influx2,influx3,load,load-shared
comma := ,

.DEFAULT_GOAL := help
.PHONY: help setup run load test check fix bench bench-peers services clean dashboards secrets up down logs ps up-local compose

help: ## print this list
	@echo "CityEye"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make run SCENARIO=gas-burst SPEED=20 FOR=10m BROKER=mosquitto STORE=influxd ARGS=--json"

setup: $(VENV)/run.stamp ## make the environment in .venv (run and test do it themselves)

run: $(VENV)/run.stamp ## run the default city: broker, sensors, ingest, alarms
	@$(BIN)/cityeye run $(OPTIONS)

load: $(VENV)/run.stamp ## load-test a broker or a platform: DEVICES=, RATE=, INTERVAL=, PROFILE=, BROKER=, FOR=
	@$(BIN)/cityeye load $(if $(DEVICES),--devices $(DEVICES)) $(if $(RATE),--rate $(RATE)) $(if $(INTERVAL),--interval $(INTERVAL)) \
	  $(if $(PROFILE),--profile $(PROFILE)) $(if $(FOR),--for $(FOR)) $(if $(BROKER),--broker $(BROKER)) $(if $(STORE),--store $(STORE)) $(ARGS)

test: $(VENV)/dev.stamp ## run all tests; those that need a server that is not installed say so
	@$(BIN)/python -m pytest -n auto $(ARGS)

check: $(VENV)/dev.stamp ## judge: format, lint, types, import contract
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: $(VENV)/dev.stamp ## mend what the tools can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/dev.stamp ## measure the whole chain on this machine; bench/ has the parts
	@$(BIN)/python bench/chain.py $(ARGS)

bench-peers: $(VENV)/dev.stamp ## measure CityEye and others doing the same job, in one run
	@$(BIN)/python -m bench.peers $(ARGS)

dashboards: $(VENV)/dev.stamp ## write Grafana's dashboards anew
	@$(BIN)/python -m docker.grafana.make

secrets: $(VENV)/run.stamp ## make the stack's passwords, tokens and certificates, once
	@$(BIN)/python docker/keys.py
	@$(BIN)/cityeye broker init --city $(or $(CITY),lanting) --out docker/mosquitto >/dev/null
	@$(if $(LOAD),$(BIN)/cityeye broker init --city synthetic:$(LOAD) --out docker/mosquitto-load --host load-mosquitto --seat second --seat third >/dev/null)

up: compose secrets ## start the stack in containers: Mosquitto, InfluxDB, Grafana, simulated city, ingest
	@$(STACK) $(COMPOSE) up --build --detach --wait $(ARGS) || \
	  { echo "It did not start. 'make ps' and 'make logs' say why; a port in use is moved with"; \
	    echo "GRAFANA_PORT=3001, INFLUXDB_PORT=18086 or MQTT_PORT=18883 before 'make up' (docs/docker.md)."; exit 1; }
	@$(STACK) $(COMPOSE) kill --signal HUP mosquitto $(if $(LOAD),load-mosquitto) 2>/dev/null
	@echo "Grafana    http://127.0.0.1:$${GRAFANA_PORT:-3000}   admin, password in docker/secrets/grafana-admin-password"
	@echo "InfluxDB   http://127.0.0.1:$${INFLUXDB_PORT:-8086}   database cityeye ($(DATABASE))"
	@echo "Mosquitto  mqtts://127.0.0.1:$${MQTT_PORT:-8883}  certificates: docker/mosquitto/ca.crt, logins: docker/mosquitto/credentials.json"
	@$(if $(LOAD),echo "Load test  mqtts://127.0.0.1:$${LOAD_MQTT_PORT:-8884}  $(LOAD) devices: docker/mosquitto-load")
	@echo "'make logs' follows, 'make down' stops; what is stored stays (make down ARGS=--volumes gives it up)."

down: compose ## stop the stack; what is stored stays
	@$(EVERYTHING) $(COMPOSE) down $(ARGS)

logs: compose ## follow what the stack's services say (ARGS=ingest for one)
	@$(EVERYTHING) $(COMPOSE) logs --follow --tail 100 $(ARGS)

ps: compose ## the stack's services, and whether they are well
	@$(EVERYTHING) $(COMPOSE) ps --all $(ARGS)

up-local: secrets ## the stack without containers, on this machine's Mosquitto and InfluxDB 1.x
	@$(BIN)/python docker/local.py $(if $(CITY),--city $(CITY)) $(if $(SPEED),--speed $(SPEED)) $(ARGS)

compose:
	@docker compose version >/dev/null 2>&1 || \
	  { echo "This needs Docker with Compose 2.24 or newer (https://docs.docker.com/engine/install);"; \
	    echo "without containers: make up-local"; exit 1; }

services: ## install Mosquitto, InfluxDB and Chromium for real (Debian and Ubuntu)
	@if command -v apt-get >/dev/null; then \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -q && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
	    mosquitto mosquitto-clients influxdb influxdb-client victoria-metrics chromium; \
	else \
	  echo "This is no Debian or Ubuntu. Install by your system's means:"; \
	  echo "  Mosquitto 2 (https://mosquitto.org/download): mosquitto, mosquitto_sub"; \
	  echo "  InfluxDB 1.x (https://docs.influxdata.com/influxdb/v1): influxd, influx"; \
	  echo "CityEye finds them on PATH; 'cityeye doctor' says what it sees."; \
	fi

clean: ## remove the environment, caches and the data of runs
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache cityeye-data bench/out
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/run.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("CityEye needs Python 3.11 or newer, %s is %s; try make PYTHON=python3.12" % (sys.executable, sys.version.split()[0]) if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV) (once; a minute or two, most of it downloads) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@
