"""For all tests."""

import signal

# Shells start background jobs with Ctrl-C ignored, and so would be the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
