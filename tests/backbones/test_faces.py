"""Landmarks of faces by MediaPipe's networks: the geometry by itself; a real photograph where the
networks are at hand (SELMA_FACE_MODELS names MediaPipe's wheel; pip install 'selma[faces]')."""

from __future__ import annotations

import math
import os
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selma.applications.control.measures import landmark_row
from selma.backbones.perception import faces
from selma.backbones.perception.faces import (
    DETECTORS,
    MESHES,
    Face,
    FaceLocator,
    centers,
    crop,
    evenly,
    has_networks,
    networks_in,
    of_68,
    placed,
)
from selma.backbones.perception.locating import load_locator
from selma.errors import ModelError

WHEEL = os.environ.get("SELMA_FACE_MODELS", "")
needs_networks = pytest.mark.skipif(
    not WHEEL or find_spec("ai_edge_litert") is None,
    reason="needs SELMA_FACE_MODELS and ai-edge-litert",
)


def test_the_detectors_grid_has_its_896_places() -> None:
    places = centers(128)
    assert places.shape == (896, 2)
    assert tuple(places[0]) == tuple(places[1]) == (4 / 128, 4 / 128)
    assert tuple(places[2]) == (12 / 128, 4 / 128), "along a row first"
    assert tuple(places[512]) == tuple(places[517]) == (8 / 128, 8 / 128)
    assert tuple(places[-1]) == (120 / 128, 120 / 128)


@pytest.mark.parametrize("turn", [0.0, 0.4, -1.2, math.pi])
def test_what_is_cropped_is_put_back_where_it_was(turn: float) -> None:
    image = Image.new("RGB", (200, 160))
    image.paste((255, 255, 255), (117, 67, 124, 74))  # around (120.5, 70.5)
    face = Face(110, 80, 90, turn)
    array = np.asarray(crop(image, face, px=180))[..., 0]
    ys, xs = np.nonzero(array > 127)
    mid = np.array([[(xs.mean() + 0.5) / 180, (ys.mean() + 0.5) / 180]])
    assert np.abs(placed(mid, face)[0] - (120.5, 70.5)).max() < 0.6


def test_an_eye_line_lies_level_in_the_crop() -> None:
    """turn is the direction from the one eye to the other, in the image."""
    face = Face(0, 0, 2, 0.3)
    left, right = placed(np.array([[0.3, 0.4], [0.7, 0.4]]), face)
    assert math.atan2(*(right - left)[::-1]) == pytest.approx(0.3)


def test_points_along_a_path_are_evenly_apart() -> None:
    path = np.array([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0], [4.0, 4.0]])
    points = evenly(path, 5)
    assert points.tolist() == [[0, 0], [2, 0], [4, 0], [4, 2], [4, 4]]


def test_68_points_of_any_mesh() -> None:
    mesh = np.random.default_rng(0).random((478, 2))
    points = of_68(mesh)
    assert points.shape == (68, 2)
    assert (points[8] != points[9]).any() and tuple(points[36]) == tuple(mesh[33])
    assert len({*faces._REST}) == len(faces._REST), "each point once"


def archive(path: Path, **networks: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in networks.items():
            file.writestr(f"mediapipe/modules/{name}/{name}.tflite", content)
    return path


def test_networks_are_found_in_wheels_tasks_and_folders(tmp_path: Path) -> None:
    stems = [name.removesuffix(".tflite") for name in (DETECTORS[0], MESHES[0])]
    wheel = archive(
        tmp_path / "mediapipe-0.10.21.whl", **dict(zip(stems, (b"d", b"m"), strict=True))
    )
    assert networks_in(wheel) == {"detector": b"d", "mesh": b"m"}
    with zipfile.ZipFile(tmp_path / "face_landmarker.task", "w") as file:
        file.writestr(DETECTORS[1], b"d")
        file.writestr(MESHES[1], b"m")
    assert networks_in(tmp_path / "face_landmarker.task") == {"detector": b"d", "mesh": b"m"}
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "folder")
    assert has_networks(tmp_path / "folder")
    assert networks_in(tmp_path / "folder") == {"detector": b"d", "mesh": b"m"}


def test_what_has_no_networks_is_refused_with_where_to_get_them(tmp_path: Path) -> None:
    newer = archive(tmp_path / "mediapipe-1.2.2.whl", other=b"x")
    with pytest.raises(ModelError, match=r"mediapipe==0\.10\.21"):
        load_locator(str(newer), setting="control.scores.reader")
    (tmp_path / "broken.task").write_bytes(b"no archive")
    with pytest.raises(ModelError, match="must be a wheel or a"):
        load_locator(str(tmp_path / "broken.task"), setting="control.scores.reader")


def test_a_network_larger_than_any_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "_MOST_BYTES", 10)
    big = archive(tmp_path / "a.whl", face_detection_short_range=b"x" * 11, face_landmark=b"m")
    with pytest.raises(ModelError, match="larger than any"):
        networks_in(big)


@pytest.mark.skipif(find_spec("ai_edge_litert") is not None, reason="the package is there")
def test_without_the_package_the_extra_is_named(tmp_path: Path) -> None:
    wheel = archive(tmp_path / "a.whl", face_detection_short_range=b"d", face_landmark=b"m")
    with pytest.raises(ModelError, match=r"selma\[faces\]"):
        FaceLocator(wheel)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut())


def pixels(locator: FaceLocator, image: Image.Image) -> np.ndarray | None:
    (points,) = locator.locate([image], [("model", "id")])
    return None if points is None else np.array([[p.x, p.y] for p in points]) * image.size


@needs_networks
def test_the_face_of_a_photograph(photograph: Image.Image) -> None:
    """Eileen Collins' eyes, nose and mouth, as one sees them in the image."""
    locator = load_locator(WHEEL, setting="control.scores.reader")
    assert isinstance(locator, FaceLocator) and len(locator.fingerprint) == 16
    points = pixels(locator, photograph)
    assert points is not None and points.shape == (68, 2)
    seen = {
        "one eye": (slice(36, 42), (203, 102)), "the other": (slice(42, 48), (247, 104)),
        "nose": (slice(30, 31), (225, 127)), "mouth": (slice(48, 60), (223, 146)),
        "chin": (slice(8, 9), (222, 175)),
    }  # fmt: skip
    for part, (which, (x, y)) in seen.items():
        assert np.abs(points[which].mean(axis=0) - (x, y)).max() < 6, part
    assert (np.diff(points[:17, 0]) > 0).all(), "the jaw goes from left to right"
    (given,) = locator.locate([photograph], [("m", "1")])
    assert given is not None and landmark_row(given, given)["error"] == 0


@needs_networks
@pytest.mark.parametrize("way", ["mirrored", "turned", "small", "wide", "grey"])
def test_points_go_with_the_face(photograph: Image.Image, way: str) -> None:
    locator = FaceLocator(Path(WHEEL))
    truth, image = pixels(locator, photograph), photograph
    assert truth is not None
    if way == "mirrored":
        image = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        truth = np.array([511, 0]) + truth * [-1, 1]
    elif way == "turned":
        image = photograph.rotate(20)  # against the clock, around the middle
        cos, sin = math.cos(math.radians(20)), math.sin(math.radians(20))
        truth = (truth - 256) @ np.array([[cos, -sin], [sin, cos]]) + 256
    elif way == "small":
        image, truth = photograph.resize((256, 256)), truth / 2
    elif way == "wide":
        image = Image.new("RGB", (700, 512), "white")
        image.paste(photograph, (100, 0))
        truth = truth + np.array([100, 0])
    else:
        image = photograph.convert("L")
    found = pixels(locator, image)
    assert found is not None
    apart = np.linalg.norm(found - truth, axis=1)
    if way == "mirrored":  # the numbers change sides
        apart = np.abs(found[[8, 27, 30, 33, 51, 57]] - truth[[8, 27, 30, 33, 51, 57]]).max(axis=1)
    assert apart.mean() < 4, apart.round(1)


@needs_networks
def test_no_face_is_none(photograph: Image.Image) -> None:
    from skimage import data

    locator = FaceLocator(Path(WHEEL))
    for image in (data.coffee(), data.chelsea(), np.zeros((64, 64, 3), np.uint8)):
        assert pixels(locator, Image.fromarray(image)) is None


@needs_networks
def test_a_network_of_something_else_is_refused(tmp_path: Path) -> None:
    networks = networks_in(Path(WHEEL))
    broken = archive(
        tmp_path / "a.whl", face_detection_short_range=b"junk", face_landmark=networks["mesh"]
    )
    with pytest.raises(ModelError, match="a detector of faces"):
        FaceLocator(broken).locate([Image.new("RGB", (8, 8))], [("m", "1")])
