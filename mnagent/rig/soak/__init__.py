"""The attack and chaos suite: real daemons under everything that goes wrong and everybody who
means ill, with invariants that are watched from outside all the while.

`attacks` makes the packets, `faults` does the steps, `watch` judges every frame of every link as
it passes, `resources` looks into the kernel and at memory, `story` runs rounds of steps drawn from
a seed, `page` writes the report. ``python -m mnagent.rig.soak`` is the program.
"""
