"""Landmarks of a face, read by MediaPipe's networks out of a file that the user has.

Two small networks in TensorFlow Lite's format, run by the package ai-edge-litert: one tells where a
face is and how it is turned (BlazeFace, arXiv:1907.05047), the other finds 468 points of its mesh
in an upright crop (arXiv:1907.06724). Of these the 68 points of the usual scheme are taken.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selma.disk import read_regular
from selma.errors import ModelError
from selma.image_modes import plain_rgb
from selma.records.landmarks import Landmark

Array = NDArray[np.float64]
PACKAGE = "ai-edge-litert"
DETECTORS = ("face_detection_short_range.tflite", "face_detector.tflite")
MESHES = ("face_landmark.tflite", "face_landmarks_detector.tflite")
"""The networks by their names in MediaPipe's wheel (up to 0.10.21), and in its .task file."""
ARCHIVES = (".whl", ".task", ".zip")
_MOST_BYTES = 50_000_000
"""Of one network; the larger has 3 million."""
_LEAST_SCORE = 0.5  # of a face, as MediaPipe's own
_AROUND = 1.5
"""How much larger than the face's box the crop is, as the mesh was trained with."""
_STRIDES = {8: 2, 16: 6}
"""Pixels from one place of the detector's grid to the next → faces that it tells there."""

# Paths over the mesh, each of which is cut into points at equal distances.
_JAW = (
    *(127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152),
    *(377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356),
)
_BRIDGE = (168, 6, 197, 195, 5, 4)
# Each point is the middle of a brow's upper and lower edge.
_BROWS = (
    *((70, 46), (63, 53), (105, 52), (66, 65), (107, 55)),
    *((336, 285), (296, 295), (334, 282), (293, 283), (300, 276)),
)
_REST = (
    *(98, 97, 2, 326, 327),  # under the nose
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91),  # lips, outside
    *(78, 81, 13, 311, 308, 402, 14, 178),  # and inside
)


class Face(NamedTuple):
    """A square around a face, in pixels of the image."""

    x: float
    y: float
    """Its middle."""
    side: float
    turn: float
    """By how much it is turned, radians, clockwise as y points down."""


class FaceLocator:
    """The 68 points of the face that is surest in each image; None without one.

    path: MediaPipe's wheel, its face_landmarker.task, or a folder with both networks. Raises
    ModelError without them, or without the package that runs them.
    """

    def __init__(self, path: Path) -> None:
        self._models = networks_in(path)
        if find_spec("ai_edge_litert") is None:
            raise ModelError(
                f"Faces are read by the package {PACKAGE}: pip install 'selma[faces]'."
            )

    @property
    def name(self) -> str:
        return "MediaPipe's face mesh, 68 points"

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"68 points, 1, {PACKAGE} {version(PACKAGE)}\n".encode())
        for name in sorted(self._models):
            digest.update(hashlib.sha256(self._models[name]).digest())
        return digest.hexdigest()[:16]

    @cached_property
    def _detector(self) -> _Network:
        return _Network(self._models["detector"], of="a detector of faces")

    @cached_property
    def _mesh(self) -> _Network:
        return _Network(self._models["mesh"], of="a mesh of a face")

    def locate(
        self, images: Sequence[Image.Image], names: Sequence[tuple[str, str]]
    ) -> list[tuple[Landmark, ...] | None]:
        """The points of each image, 0..1 of its sides, named "0" to "67"; None without a face."""
        return [self._points(plain_rgb(image)) for image in images]

    def _points(self, image: Image.Image) -> tuple[Landmark, ...] | None:
        face = self._face(image)
        if face is None:
            return None
        px = self._mesh.px
        outputs = self._mesh.run(np.asarray(crop(image, face, px=px)) / 255)
        mesh = max(outputs, key=lambda output: output.size).reshape(-1, 3)[:, :2].astype(float)
        surety = next(float(o.reshape(-1)[0]) for o in outputs if o.size == 1)
        if _sigmoid(surety) < _LEAST_SCORE:
            return None
        points = placed(of_68(mesh) / px, face) / np.array(image.size)
        return tuple(
            Landmark(name=str(number), x=float(x), y=float(y))
            for number, (x, y) in enumerate(points)
        )

    def _face(self, image: Image.Image) -> Face | None:
        """The face of the highest score."""
        px, side = self._detector.px, max(image.size)
        left, top = (side - image.width) // 2, (side - image.height) // 2
        square = Image.new("RGB", (side, side))
        square.paste(image, (left, top))
        small = square.resize((px, px), Image.Resampling.BILINEAR)
        boxes, scores = self._detector.run(np.asarray(small) / 127.5 - 1)
        if boxes.shape[-1] < scores.shape[-1]:
            boxes, scores = scores, boxes
        best = int(scores.reshape(-1).argmax())
        if _sigmoid(float(scores.reshape(-1)[best])) < _LEAST_SCORE:
            return None
        row = boxes.reshape(len(centers(px)), -1)[best].astype(float) / px
        middle = centers(px)[best]
        x, y = (middle + row[:2]) * side - (left, top)
        found = Face(
            float(x),
            float(y),
            side=_AROUND * side * float(row[2:4].max()),
            turn=math.atan2(row[7] - row[5], row[6] - row[4]),  # from the one eye to the other
        )
        return found if found.side > 0 else None


class _Network:
    """One network of TensorFlow Lite, on one thread of the processor."""

    def __init__(self, content: bytes, *, of: str) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
            self._input = self._interpreter.get_input_details()[0]
            self._outputs = self._interpreter.get_output_details()
            _, self.px, width, channels = map(int, self._input["shape"])
        except (ValueError, RuntimeError, IndexError) as error:
            raise ModelError(f"The file's network must be {of}, but is not: {error}.") from error
        if (width, channels) != (self.px, 3) or len(self._outputs) < 2:
            raise ModelError(f"The file's network must be {of}, but reads {self._input['shape']}.")

    def run(self, pixels: Array) -> list[NDArray[Any]]:
        """pixels: [px, px, 3]."""
        self._interpreter.set_tensor(self._input["index"], pixels[None].astype(np.float32))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(output["index"]) for output in self._outputs]


def networks_in(path: Path) -> dict[str, bytes]:
    """ "detector" and "mesh" → the network's file, out of a wheel, a .task file or a folder. Raises
    ModelError where one is missing."""
    names, read = _entries(path)
    networks = {}
    for role, known in (("detector", DETECTORS), ("mesh", MESHES)):
        entry = next((n for n in sorted(names) if n.rpartition("/")[2] in known), None)
        if entry is None:
            raise ModelError(
                f"{path} must have {' or '.join(known)}, but has neither. Name MediaPipe's wheel "
                "up to 0.10.21 (pip download --no-deps mediapipe==0.10.21), which need not be "
                "installed, or its face_landmarker.task."
            )
        networks[role] = read(entry)
    return networks


def has_networks(folder: Path) -> bool:
    """Whether a folder has a network that finds faces."""
    return any(any(folder.rglob(name)) for name in DETECTORS)


def _entries(path: Path) -> tuple[Sequence[str], Callable[[str], bytes]]:
    if path.is_dir():
        files = {p.relative_to(path).as_posix(): p for p in path.rglob("*.tflite")}
        return list(files), lambda name: read_regular(files[name], most=_MOST_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes: Mapping[str, int] = {i.filename: i.file_size for i in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} must be a wheel or a .task file, but: {error}.") from error

    def read(name: str) -> bytes:
        if sizes[name] > _MOST_BYTES:
            raise ModelError(f"{path}: {name} is larger than any such network.")
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise ModelError(f"{path}: {name} cannot be read: {error}.") from error

    return list(sizes), read


def centers(px: int) -> Array:
    """[n, 2]: where each of the detector's boxes lies if it says 0, 0..1 of the image's sides."""
    places = []
    for stride, count in _STRIDES.items():
        middles = (np.arange(px // stride) + 0.5) * stride / px
        grid = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)
        places.append(np.repeat(grid, count, axis=0))
    return np.concatenate(places)


def crop(image: Image.Image, face: Face, *, px: int) -> Image.Image:
    """The face upright, as a square of this side."""
    corners = placed(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), face)
    across, down = (corners[1] - corners[0]) / px, (corners[2] - corners[0]) / px
    numbers = (across[0], down[0], corners[0][0], across[1], down[1], corners[0][1])
    return image.transform(
        (px, px), Image.Transform.AFFINE, numbers, resample=Image.Resampling.BILINEAR
    )


def placed(points: Array, face: Face) -> Array:
    """Points [n, 2] of the crop, 0..1 of its side → in pixels of the image."""
    cos, sin = math.cos(face.turn), math.sin(face.turn)
    turned = (points - 0.5) @ np.array([[cos, sin], [-sin, cos]])
    return face.side * turned + np.array([face.x, face.y])


def of_68(mesh: Array) -> Array:
    """[68, 2] in the usual order (jaw, brows, nose, eyes, lips) of a mesh's points [n, 2]."""
    brows = mesh[np.array(_BROWS)].mean(axis=1)
    jaw, bridge = evenly(mesh[list(_JAW)], 17), evenly(mesh[list(_BRIDGE)], 4)
    return np.concatenate([jaw, brows, bridge, mesh[list(_REST)]])


def evenly(path: Array, count: int) -> Array:
    """[count, 2]: points at equal distances along a path [n, 2], with its ends."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0, along[-1], count)
    return np.stack([np.interp(wanted, along, path[:, axis]) for axis in (0, 1)], axis=1)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-100.0, min(100.0, value))))
