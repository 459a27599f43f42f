"""The programs that serve images: a row and a file each.

Another package adds one by an entry point of the group "selma.image_servers".
"""

from __future__ import annotations

from selma.backbones.image_servers.aquiles import AQUILES
from selma.backbones.image_servers.dialect import Dialect
from selma.backbones.image_servers.openai import OPENAI
from selma.backbones.image_servers.selma import SELMA
from selma.backbones.image_servers.sglang import SGLANG
from selma.backbones.image_servers.vllm_omni import VLLM_OMNI
from selma.backbones.image_servers.xinference import XINFERENCE
from selma.registry import Table

DIALECTS: Table[Dialect] = Table(
    "server of images",
    "selma.image_servers",
    [SELMA, VLLM_OMNI, SGLANG, XINFERENCE, AQUILES, OPENAI],
)
