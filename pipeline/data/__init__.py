"""Samples: where they come from, how they are stored, and in what order they are read."""
