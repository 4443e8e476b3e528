"""Costs of architectures: counted, measured or looked up in a table, and limits on them."""
