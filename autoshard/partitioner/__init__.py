"""Tier 1: what Shardy's own passes make of a program."""
