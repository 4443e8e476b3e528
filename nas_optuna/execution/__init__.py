"""Who runs a trial, and how its value comes about."""
