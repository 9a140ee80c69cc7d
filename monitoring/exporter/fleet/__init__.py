"""The devices as the exporter shows them: what they report through the broker, as far as it is believed."""
