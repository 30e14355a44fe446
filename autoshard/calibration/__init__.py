"""A chip's numbers measured on the devices at hand (`autoshard calibrate`)."""
