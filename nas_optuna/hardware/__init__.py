"""What a network costs: devices, compute, memory, and measured latency."""
