"""Black box: a tester with a codec of its own talks to the real daemons with real packets."""
