"""What a chip, a torus, a collective and an einsum cost (numpy, no JAX)."""
