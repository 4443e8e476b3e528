"""A network in files that work without this package."""
