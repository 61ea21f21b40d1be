"""Boards in the loop: one scenario on a namespace, an emulated board, a real one, a farm of them.

A labgrid environment (``mnagent/rig/env/*.yaml``) says what the mobile node is and how it is
reached. `drivers` plug it into the rig's network, `strategy` takes it from off to roaming, `remote`
runs programs on it as if it were a namespace, and `bench` puts all of it around a scenario. Only
this package imports labgrid.
"""

import os

# It tells of every program that is started while a coordinator is connected.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
