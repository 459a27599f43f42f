"""What else the parts of SELMA can do, one folder each, with all that only it needs.

An application stands beside the six stages: it uses their parts, and none of them knows it.
Applications never import one another.
"""

from __future__ import annotations

APPLICATIONS = ("publishing", "study", "sur", "control", "angles", "subjects")
"""Folders here, in the order of their commands; each has a `command.register`."""
