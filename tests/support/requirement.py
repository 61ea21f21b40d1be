"""The marker that ties a test to the rows of the conformance list it covers."""

from __future__ import annotations

import pytest


def requirement(section: str, *rows: str) -> pytest.MarkDecorator:
    """Mark a test with an RFC section (``RFC6275-11.7.1``) and conformance rows (``MN-01``)."""
    return pytest.mark.requirement(section, *rows)
