"""Roaming between real access points over simulated radios, in a small virtual machine."""
