"""What is written in images: the measures by hand, and a real OCR program on drawn letters."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from selma.applications.evaluation.lettering import (
    asked_text,
    bare,
    compared,
    measures,
    score_text,
)
from selma.cli import app
from selma.errors import DataError
from selma.prompts.skills import load_skills


class Told:
    """A reader that is told what is written, by the shade of the image."""

    name = fingerprint = "told"

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.asked = 0

    def read(self, image: Image.Image) -> str:
        self.asked += 1
        return self.texts[int(np.asarray(image)[0, 0, 0])]


def written(folder: Path, *ids: str) -> Path:
    folder.mkdir()
    for number, id in enumerate(ids):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{id}.png")
    return folder


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a sign that reads "Lake Trail"', "Lake Trail"),
        ("a sign that reads “Lake Trail” by night", "Lake Trail"),
        ('"One" over "two"', "One two"),
        ("une enseigne « Boulangerie »", " Boulangerie "),
        ("招牌上写着「欢迎」", "欢迎"),
        ("the dog's bowl isn't 'empty'", None),
        ("a dog", None),
        ('an inch is 1" long', None),
    ],
)
def test_what_is_asked_for_stands_in_quotation_marks(prompt: str, text: str | None) -> None:
    assert asked_text(prompt) == text


def test_only_letters_digits_and_single_blanks_count() -> None:
    assert bare("  Lake—Trail,  No. 2!\n") == "LakeTrail No 2"
    assert bare("欢 迎, A1") == "欢迎A1"
    assert bare("Größe") == "Größe"


def test_an_image_is_held_against_what_was_asked() -> None:
    assert compared("Fresh Bread!", "Fresh Bread") == (0, True, 2, 2, 11)
    assert compared("Fresh Bread", "Fresh Brad") == (1, False, 1, 2, 11)
    assert compared("Fresh Bread", "fresh bread") == (2, False, 0, 2, 11), "case counts"
    assert compared("go go", "go") == (3, False, 1, 2, 5), "each word once"
    assert compared("Open", "") == (4, False, 0, 1, 4)
    assert compared("欢迎", "迎") == (1, False, 1, 2, 2)


def test_the_text_score_is_oneigs() -> None:
    """By hand: 2 images, 3 edits, 1 without a fault, 3 of 4 words."""
    (row,) = measures(np.array([[2, 3, 1, 3, 4, 20, 17.0]]), most=100)["text_score"][:, None]
    assert row[0] == pytest.approx(100 * (1 - 1.5 * 0.5 * 0.25 / 100))
    far = measures(np.array([[1, 400, 0, 0, 2, 9, 0.0]]), most=100)
    assert far["text_score"][0] == 0 and far["letters"][0] == 0


def test_a_folder_is_scored_and_read_once(tmp_path: Path) -> None:
    images = written(tmp_path / "images", "a", "b", "stranger")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text('id,text\na,"a sign ""Lake Trail"""\nb,"a cake ""Happy 40th"""\nc,a dog\n')
    reader = Told("Lake Trail", "Hapy 40th", "x")
    found = score_text(images, prompts, reader=reader, resamples=200)
    assert found["prompts"] == 2 and found["images_of_no_prompt"] == ["stranger"]
    assert found["per_prompt"]["b"] == {
        "asked": "Happy 40th", "read": "Hapy 40th", "edits": 1, "whole": False, "found": 1,
        "words": 2, "letters": 10,
    }  # fmt: skip
    assert found["whole"]["mean"] == 50 and found["words"]["mean"] == 75
    assert found["letters"]["mean"] == 95 and found["edits"]["mean"] == 0.5
    assert found["text_score"]["mean"] == pytest.approx(100 * (1 - 0.5 * 0.5 * 0.25 / 100))
    assert found["whole"]["low"] <= 50 <= found["whole"]["high"] and found["most_edits"] == 100
    assert reader.asked == 2
    score_text(images, prompts, reader=reader, resamples=200)
    assert reader.asked == 2, "what was read is kept"


def test_oneigs_own_file_and_chinese(tmp_path: Path) -> None:
    images = written(tmp_path / "images", "000", "001")
    prompts = tmp_path / "text_content_zh.csv"
    prompts.write_text("id,text_content\n000,欢迎光临\n001,出口\n", "utf-8")
    found = score_text(images, prompts, reader=Told("欢迎光临", "人口"), resamples=100)
    assert found["most_edits"] == 50 and found["words"]["mean"] == pytest.approx(100 * 5 / 6)


def test_one_prompt_has_one_text_and_damage_is_named(tmp_path: Path) -> None:
    images, prompts = written(tmp_path / "images", "a"), tmp_path / "text_content.csv"
    prompts.write_text("id,text_content\na,HELLO\na,Bye\n")
    with pytest.raises(DataError, match=r"line 3: 'a' came before"):
        score_text(images, prompts, reader=Told("x"))
    prompts.write_text("id,text_content\na,HELLO,more\n")
    with pytest.raises(DataError, match="line 2"):
        score_text(images, prompts, reader=Told("x"))


def test_missing_images_and_texts_are_named(tmp_path: Path) -> None:
    images, prompts = written(tmp_path / "images", "a"), tmp_path / "prompts.txt"
    prompts.write_text("a dog\n")
    with pytest.raises(DataError, match="in quotation marks, but has none"):
        score_text(images, prompts, reader=Told("x"))
    prompts.write_text('a sign "Open"\n')
    with pytest.raises(DataError, match=r"1 of 1 are missing"):
        score_text(images, prompts, reader=Told("x"))


def test_the_skill_asks_for_texts_in_quotation_marks() -> None:
    (skill,) = load_skills(["text_rendering"])
    assert all(asked_text(seed) for seed in skill.seeds)
    assert skill.lacks("A sign that says hello") and not skill.lacks('A sign that says "hello"')


@pytest.mark.skipif(find_spec("rapidocr") is None, reason="needs the extra ocr")
def test_a_real_program_reads_drawn_letters(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    font = ImageFont.load_default(size=40)
    for id, lines in (("a", ("HELLO 42", "open today")), ("b", ("Fresh Brad",)), ("c", ())):
        image = Image.new("RGB", (320, 192), (240, 235, 220))
        for number, line in enumerate(lines):
            ImageDraw.Draw(image).text((24, 24 + 72 * number), line, (20, 30, 60), font=font)
        image.save(images / f"{id}.png")
    rows = {"a": "HELLO 42 open today", "b": "Fresh Bread", "c": "Exit"}
    lines = [json.dumps({"id": id, "text": f'a sign "{text}"'}) for id, text in rows.items()]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out.json"
    command = ["score", "text", str(images), "--prompts", str(tmp_path / "prompts.jsonl")]
    result = CliRunner().invoke(app, [*command, "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "text score" in result.output and "rapidocr" in result.output
    found = json.loads(out.read_text())["per_prompt"]
    assert found["a"]["whole"] and found["a"]["read"] == rows["a"]
    assert found["b"]["edits"] == 1 and found["b"]["found"] == 1
    assert found["c"]["read"] == "" and found["c"]["edits"] == 4


@pytest.mark.parametrize("layout", ["prompts", "oneig"])
def test_prompts_that_ask_for_no_text_are_listed(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither counted, nor strangers, nor gone unseen."""
    folder = written(tmp_path / "images", "1", "2", "3")
    texts = tmp_path / "texts.csv"
    rows = {"prompts": 'id,text\n1,"a sign ""Lake"""\n2,a dog\n3,"an empty "" "" sign"\n'}
    rows["oneig"] = "id,text_content\n1,Lake\n2,\n3,!?\n"
    texts.write_text(rows[layout])
    result = score_text(folder, texts, reader=Told("Lake", "x", "x"), resamples=50)
    assert result["prompts"] == 1 and result["whole"]["mean"] == 100
    assert result["prompts_without_text"] == ["2", "3"]
    assert result["images_of_no_prompt"] == []
    from selma.applications.evaluation import lettering

    monkeypatch.setattr(lettering, "RapidReader", lambda: Told("Lake", "x", "x"))
    done = CliRunner().invoke(app, ["score", "text", str(folder), "--prompts", str(texts)])
    assert "Left out: 2 prompts that ask for no text, '2' first." in " ".join(done.output.split())
