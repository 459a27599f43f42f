"""Guides: methods that change how a base generates an image, and train nothing.

Another package adds one by an entry point of the group "selma.guides".
"""

from __future__ import annotations

from selma.config.guides import GROUP
from selma.images.guides import structure_diffusion, syngen
from selma.images.guides.guide import GuideKind
from selma.registry import Table

GUIDES: Table[GuideKind] = Table("guide", GROUP, [syngen.SYNGEN, structure_diffusion.STRUCTURE])
