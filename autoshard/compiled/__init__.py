"""Tier 2: what the TPU compiler says of a program, and what its schedule costs."""
