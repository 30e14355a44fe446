"""Phases planned together: one layout of what they share, and what one hands over to the next priced."""
