"""Heads on their way from their owner to the devices: announced, sent in pieces, rolled out by cohorts."""
