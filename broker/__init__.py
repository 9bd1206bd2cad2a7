"""The wire: topics, payloads, the MQTT codec, and the brokers that carry it."""
