"""Three annotators click through a study in a real browser."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from applications.study.browser import CHROMIUM, Browser, Page, browser
from applications.study.little import little_run
from applications.study.serving import Served, served
from PIL import Image

from selma.applications.study.ballot import Vote, read_ballot
from selma.applications.study.database import study_file
from selma.applications.study.summary import summarise

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")

PROMPTS = 5
LOADED = (
    "new Set(performance.getEntriesByType('resource').filter(e => e.responseEnd)"
    ".map(e => e.name).filter(name => name.includes('/image/')))"
)
"""The addresses of images that have come whole."""
SETTINGS = ("--model", "quagga", "--against", "okapi", "--prompts", str(PROMPTS))


def join(chromium: Browser, server: Served, name: str) -> Page:
    page = chromium.open(server.url)
    page.click("#name")
    page.write(name)
    page.press("Enter")
    page.ready(0)
    return page


def pair(page: Page) -> tuple[str, str, str]:
    """Caption and both images' addresses, as they are shown."""
    caption, left, right = page.evaluate(
        "['caption', 'left', 'right'].map(id => document.getElementById(id))"
        ".map(shown => shown.src ?? shown.innerText)"
    )
    return caption, left, right


def test_three_annotators_click_through_a_study(tmp_path: Path) -> None:
    little_run(tmp_path)
    texts: dict[str, list[str]] = {"Ada": [], "Ben": [], "Cleo": []}
    with browser(tmp_path / "profile") as chromium:
        with served(tmp_path, *SETTINGS) as server:
            pages = {name: join(chromium, server, name) for name in texts}
            first = {name: pair(page) for name, page in pages.items()}
            assert len({address for shown in first.values() for address in shown[1:]}) == 6
            by_keys(pages["Ada"], texts["Ada"])
            by_mouse(pages["Ben"], texts["Ben"])
            on_a_phone(pages["Cleo"], texts["Cleo"])
            before = pair(pages["Cleo"])
            # Of two pairs answered, the one shown, and the one that is loaded ahead.
            pages["Cleo"].wait(f"({LOADED}).size >= 8")
            server.process.kill()
        # On the same port the page would resume unseen; here the command has another.
        with served(tmp_path, *SETTINGS) as server:
            other = chromium.open(server.url)
            other.click("#name")
            other.write("cleo")
            other.press("Enter")
            other.wait("document.body?.innerText?.includes('takes part already')")
            again = chromium.open(server.url, beside=pages["Cleo"])
            again.click("#name")
            again.write("cleo")
            again.press("Enter")
            again.click("[name=again]")
            again.ready(2)
            assert pair(again)[0] == before[0]
            for step in range(2, PROMPTS):
                texts["Cleo"].append(pair(again)[0])
                again.press("2")
                again.ready(step + 1)
            assert again.evaluate("document.querySelector('#end').innerText").startswith(
                "Thank you, Cleo."
            )
    check(tmp_path, texts)
    # What a page preloads may meet the server that was killed.
    expected = ('"level": "info"', "net::ERR_CONNECTION", "status of 422")
    assert not [e for e in chromium.errors if not any(text in e for text in expected)]


def by_keys(page: Page, texts: list[str]) -> None:
    """1, 2, 3, arrows, an undone answer, and a key that is held down."""
    for step, key in enumerate(("1", "ArrowRight", "2", "3")):
        texts.append(pair(page)[0])
        page.press(key)
        page.ready(step + 1)
    page.press("Backspace")
    page.ready(3)
    assert pair(page)[0] == texts[3]
    page.press("1", repeat=True)  # held down: no answer
    page.press("ArrowLeft")
    page.ready(4)
    texts.append(pair(page)[0])
    page.press("ArrowDown")
    page.ready(5)
    assert page.evaluate("document.querySelector('#pair').hidden")
    assert page.evaluate("document.activeElement.id") == "end"


def by_mouse(page: Page, texts: list[str]) -> None:
    """Double clicks count once; enlarging an image is no answer, nor are keys meanwhile."""
    page.click(".frame")
    page.wait("document.querySelector('#large').open")
    page.press("1")
    page.click("#large button")
    page.wait("!document.querySelector('#large').open")
    for step in range(PROMPTS):
        texts.append(pair(page)[0])
        page.click("[data-choice=right]", times=2)
        page.ready(step + 1)


def on_a_phone(page: Page, texts: list[str]) -> None:
    """One image above the other, all in sight without scrolling; words say upper and lower."""
    page.size(390, 844, phone=True)
    page.wait("document.body.classList.contains('stacked')")
    boxes = page.evaluate(
        "['#left', '#right', '[data-choice=tie]'].map(s => {"
        "const b = document.querySelector(s).getBoundingClientRect(); return [b.top, b.bottom] })"
    )
    assert boxes[0][1] <= boxes[1][0] and boxes[1][1] <= boxes[2][0] and boxes[2][1] <= 844
    label = page.evaluate("document.querySelector('[data-choice=left]').innerText")
    assert "Upper" in label and "Left" not in label
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for step in range(2):
        texts.append(pair(page)[0])
        page.click("[data-choice=left]")
        page.ready(step + 1)


def check(run: Path, texts: dict[str, list[str]]) -> None:
    """The clicks are the votes that count, in the order of the captions."""
    ballot = read_ballot(study_file(run, "votes"))
    text = {pair.id: pair.text for pair in ballot.study.pairs}
    votes: dict[str, list[Vote]] = {name: [] for name in texts}
    for vote in ballot.votes:
        if vote.undone is None:
            votes[vote.annotator].append(vote)
    for name, captions in texts.items():
        assert [text[vote.pair] for vote in votes[name]] == captions
    assert len({tuple(captions) for captions in texts.values()}) == 3  # an order for each
    choices = {name: [vote.choice for vote in own] for name, own in votes.items()}
    assert choices == {
        "Ada": ["left", "right", "tie", "left", "tie"],
        "Ben": ["right"] * 5,
        "Cleo": ["left"] * 2 + ["tie"] * 3,
    }
    summary = summarise(ballot, resamples=200)
    outcomes = Counter(vote.outcome for own in votes.values() for vote in own)
    assert (summary.all.win, summary.all.lose, summary.all.tie) == (
        outcomes["win"], outcomes["lose"], outcomes["tie"],
    )  # fmt: skip
    assert summary.votes == 15 and summary.unfinished == () and len(ballot.votes) == 16


def test_the_page_waits_for_a_server_that_is_away(tmp_path: Path) -> None:
    """A vote without a receipt is sent again until there is one; the page stays where it is."""
    little_run(tmp_path)
    with browser(tmp_path / "profile") as chromium:
        with served(tmp_path, *SETTINGS) as server:
            page = join(chromium, server, "Ada")
            port = server.url.rsplit(":", 1)[1]
            before = pair(page)
            server.process.kill()
            server.process.wait()
            page.press("1")
            page.wait("document.querySelector('#notice').innerText.includes('not saved yet')")
            assert pair(page) == before
        with served(tmp_path, *SETTINGS, "--port", port):
            page.ready(1)
            assert page.evaluate("document.querySelector('#notice').hidden")
            page.dark(True)
            page.screenshot(tmp_path / "dark.png")
            with Image.open(tmp_path / "dark.png") as shot:
                assert max(shot.convert("RGB").getpixel((5, 5))) < 60  # type: ignore[arg-type,type-var]
    votes = read_ballot(study_file(tmp_path, "votes")).votes
    assert [(vote.step, vote.choice) for vote in votes] == [(0, "left")]
