"""Optimisation, exact noise and checkpoints."""
