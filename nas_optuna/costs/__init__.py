"""What an architecture costs: counted, measured, looked up, and limited."""
