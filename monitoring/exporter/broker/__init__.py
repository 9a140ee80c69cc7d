"""The broker as the exporter shows it: its queues, and the inboxes of the devices."""
