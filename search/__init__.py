"""The decision problem and its solvers (numpy, no JAX)."""
