"""A server of images in OpenAI's protocol, which draws with a real pipeline or misbehaves.

It speaks every dialect at once: what is asked is read by diffusers' names, wherever they stand.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image
from scripted import send

from selma.adapters.applying import applied
from selma.backbones.text_to_image import TextToImage
from selma.image_files import png_bytes
from selma.records.adapters import AppliedAdapter

Asked = dict[str, Any]
Act = Callable[[BaseHTTPRequestHandler, "Asked"], bool]
"""Answers in place of the server, and says whether it did."""


@dataclass
class ImageServer:
    """What it draws with, what it was asked, and how it goes wrong."""

    model: TextToImage
    ignores: frozenset[str] = frozenset()
    """Names of what is asked without effect, as "seed", "steps", "guidance", "size", "adapter"."""
    acts: list[Act] = field(default_factory=list)
    """Tried in their order before an image is drawn."""
    tells: dict[str, Any] = field(default_factory=dict)
    """Path → the JSON that is there."""
    says: dict[str, Any] = field(default_factory=dict)
    """What a reply has beside its image."""
    asked: list[Asked] = field(default_factory=list)
    """All that was posted for images, as it came."""
    posted: list[tuple[str, Asked]] = field(default_factory=list)
    """(path, body) of what was posted elsewhere."""
    keys: list[str] = field(default_factory=list)
    active: list[Asked] = field(default_factory=list)
    """Adapters that the whole server has."""
    url: str = ""
    port: int = 0
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def texts(self) -> list[str]:
        """The prompts that were asked for, without those by which the server was tried."""
        from selma.backbones.served_base import PROBE

        return [asked["prompt"] for asked in self.asked if asked["prompt"] != PROBE]

    def draw(self, asked: Asked) -> bytes:
        """The PNG; one after the other, as the real ones do."""
        wish = asked | json.loads(asked.get("kwargs") or "{}")
        side = int("".join(c if c.isdigit() else " " for c in asked["size"]).split()[0])
        self.count += 1
        seed = wish.get("seed", self.count)
        guidance = wish.get("guidance_scale", wish.get("true_cfg_scale", 3.0))
        steps = wish.get("num_inference_steps", 2)
        given = {"seed": (0, seed), "steps": (2, steps), "guidance": (3.0, guidance)}
        seed, steps, guidance = (
            given[name][name not in self.ignores] for name in ("seed", "steps", "guidance")
        )
        if "same" in self.ignores:
            seed = self.count
        lora = wish.get("lora") or next(iter(self.active), None)
        adapter = nullcontext()
        if lora and "adapter" not in self.ignores:
            path = Path(lora.get("path") or lora["lora_path"])
            strength = lora.get("scale", lora.get("strength", 1.0))
            adapter = applied(self.model, [AppliedAdapter(path=path, strength=strength)])
        with adapter:
            (image,) = self.model.generate(
                [asked["prompt"]], seeds=[seed], steps=steps, guidance=guidance, batch_size=1
            )
        if "size" in self.ignores:
            image = image.resize((2 * side, 2 * side))
        return png_bytes(image)

    def reply(self, png: bytes) -> bytes:
        data = [{"b64_json": base64.b64encode(png).decode()}]
        return json.dumps({"created": 0, "data": data} | self.says).encode()


@contextmanager
def drawing(server: ImageServer, *, port: int = 0) -> Iterator[ImageServer]:
    """`server.url` answers while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/v1/list_loras":
                active = [{"nickname": each["lora_nickname"]} for each in server.active]
                told: Any = {"loaded_adapters": [], "active": {"transformer": active}}
            else:
                told = server.tells.get(path)
            send(self, 404 if told is None else 200, json.dumps(told).encode())

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.keys.append(self.headers.get("Authorization", ""))
            if self.path != "/v1/images/generations":
                server.posted.append((self.path, asked))
                if self.path == "/v1/set_lora":
                    server.active[:] = [asked]
                elif self.path == "/v1/unmerge_lora_weights":
                    server.active.clear()
                return send(self, 200, b'{"status": "ok"}')
            with server.lock:
                server.asked.append(asked)
                if any(act(self, asked) for act in server.acts):
                    return None
                png = server.draw(asked)
            return send(self, 200, server.reply(png))

        def log_message(self, *_: object) -> None:
            """Nothing: the test's own output matters more."""

    class Server(ThreadingHTTPServer):
        allow_reuse_address = True
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients may leave."""

    http = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.port = http.server_port
    server.url = f"http://127.0.0.1:{server.port}/v1"
    try:
        yield server
    finally:
        with suppress(OSError):
            http.shutdown()
            http.server_close()


def once(number: int, act: Callable[[BaseHTTPRequestHandler], None]) -> Act:
    """The act, for the n-th request alone, from 1."""
    seen: list[Asked] = []

    def acts(handler: BaseHTTPRequestHandler, asked: Asked) -> bool:
        seen.append(asked)
        if len(seen) != number:
            return False
        act(handler)
        return True

    return acts


def noise_png(px: int) -> bytes:
    """An image that is this large."""
    return png_bytes(Image.new("RGB", (px, px), (10, 20, 30)))
