"""What a study remembers: its keys, its records, its storage and its queue."""
