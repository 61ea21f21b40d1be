"""Runs setup.py, which is compiled once, as a module, and not on each start."""

import sys

sys.path.insert(0, "/usr/lib/mnagent-board")

from setup import main

sys.exit(main(sys.argv[1]))
