"""Boards in the loop: one scenario on a namespace, an emulated board, a real one, a farm of them.

A labgrid environment (``mnagent/rig/env/*.yaml``) says what the mobile node is and how it is
reached. `drivers` plug it into the rig's network, `strategy` takes it from off to roaming, `remote`
runs programs on it as if it were a namespace, and `bench` puts all of it around a scenario. Only
this package imports labgrid.
"""

import os

# The rig starts programs while labgrid is connected to a coordinator, with nothing of gRPC in them:
# its preparations for them would now and then end one before it began.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
