"""A federation small enough for a test: the digits, two clients, a chain of fifty steps."""

from evaluation.running.design import Design
from evaluation.running.federation import FederationPlan

TINY = Design(
    timesteps=50,
    cuts=(0.0, 0.4, 1.0),
    main_cut=0.4,
    seeds=(0, 1, 2),
    width=8,
    head_width=8,
    updates=3,
    head_updates=2,
    batch_size=8,
    server_steps=2,
    head_steps=2,
    images=16,
)
PLAN = FederationPlan("digits", clients=2, limit=240)
