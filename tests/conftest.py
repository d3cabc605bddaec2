"""Every test starts as from a terminal: Ctrl-C not ignored, and called by no launcher."""

import os
import signal

# A shell starts what it puts in the background with SIGINT ignored, which children would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.pop("TRIPTYCH_COMMAND", None)
