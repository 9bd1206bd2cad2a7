"""The dashboards tried without Grafana: their queries, filled in as it does, put to a real store."""
