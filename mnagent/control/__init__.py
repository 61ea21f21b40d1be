"""Talking to a running agent through its Unix socket; `mnagent.control.schema` has the format."""
