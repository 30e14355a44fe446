"""The compiler's collectives against those of a plan, by source line (`autoshard audit`)."""
