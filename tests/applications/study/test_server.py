"""The served study over real HTTP, from a process of its own that is killed while people vote."""

from __future__ import annotations

import csv
import http.client
import io
import itertools
import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit

import pytest
from applications.study.little import SHARES, little_run
from applications.study.serving import Answer, Served, Voter, ask, served
from attacks import Attack, dice, numbers
from PIL import Image
from typer.testing import CliRunner

from selma.applications.study.ballot import CHOICES, read_ballot
from selma.applications.study.database import study_file
from selma.applications.study.server import COOKIE
from selma.cli import app

NUMBERS = itertools.count()
STUDY = ("--model", "quagga", "--against", "okapi", "--prompts", "5")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    little_run(root)
    return root


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Served]:
    with served(run, *STUDY, "--name", "shared") as server:
        yield server


def model_of(server: Served, token_url: str) -> int:
    """Which model an image is by, from the pixel that `little_run` sets."""
    with Image.open(io.BytesIO(ask(server.url + token_url).body)) as image:
        return int(image.convert("RGB").getpixel((0, 0))[2])  # type: ignore[index]


def test_it_serves_this_machine_alone_and_says_where(server: Served, run: Path) -> None:
    assert "http://127.0.0.1:" in server.output and "WARNING" not in server.output
    assert str(study_file(run, "shared")) in server.output
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for address in addresses - {"127.0.0.1", "127.0.1.1", "::1"}:
        with pytest.raises(URLError):
            ask(server.url.replace("127.0.0.1", str(address)))


def test_nothing_that_is_sent_names_a_model(server: Served) -> None:
    voter = Voter(server.url, "Spy")
    answers = [ask(server.url + path) for path in ("/", "/study.js", "/study.css", "/study.svg")]
    answers += [ask(voter.url), ask(server.url + "/nothing"), ask(f"{voter.url}/choice", b"{}")]
    for step in range(5):
        state = ask(f"{voter.url}/state")
        current = state.json["current"]
        assert set(current) == {"step", "text", "left", "right"}
        answers += [state, *(ask(server.url + current[side]) for side in ("left", "right"))]
        voter.vote(step, "left")
    for answer in answers:
        sent = answer.url.encode() + repr(answer.headers).encode() + answer.body
        for name in (b"okapi", b"quagga", b"5-scores", b"sqlite", b"manifest"):
            assert name not in sent.lower()


def test_a_vote_means_the_image_that_was_at_that_side(server: Served, run: Path) -> None:
    voter = Voter(server.url, "Careful")
    okapi, quagga = (list(SHARES).index(name) for name in ("okapi", "quagga"))
    for step in range(5):
        current = voter.state()["current"]
        left, right = (model_of(server, current[side]) for side in ("left", "right"))
        assert {left, right} == {okapi, quagga}
        voter.vote(step, "left" if left == quagga else "right")
    votes = [v for v in read_ballot(study_file(run, "shared")).votes if v.annotator == "Careful"]
    assert [vote.outcome for vote in votes] == ["win"] * 5


def test_twice_is_once_and_undo_takes_back_one(server: Served) -> None:
    voter = Voter(server.url, "Twice")
    first, again = voter.vote(0, "left"), voter.vote(0, "right")
    assert (first["counted"], again["counted"]) == (True, False)
    assert first["done"] == again["done"] == 1
    assert not voter.vote(3, "left")["counted"]  # not there yet
    second_window = Voter(server.url, "twice", again=voter.secret)
    assert second_window.url == voter.url
    second = second_window.vote(1, "tie")
    assert voter.undo(second["last_vote"])["done"] == 1
    assert voter.undo(second["last_vote"])["done"] == 1  # the same request again
    assert not voter.undo(0)["counted"] and not voter.undo(99999)["counted"]


def test_a_known_name_is_asked_about_first(server: Served) -> None:
    anna = Voter(server.url, "Anna")
    anna.vote(0, "tie")
    cookie = f"{COOKIE}=other.{anna.secret}"
    known = ask(f"{server.url}/join", urlencode({"name": "anna"}).encode(), Cookie=cookie)
    assert "/vote/" not in known.url and b"answered 1 of 5" in known.body
    refused = ask(f"{server.url}/join", urlencode({"name": "<i>=x"}).encode())
    assert refused.status == 422 and b"&lt;i&gt;=x" in refused.body and b"<i>" not in refused.body


def test_to_know_a_name_is_not_to_be_its_annotator(server: Served, attack: Attack) -> None:
    row = "study: another's name"
    bert = Voter(server.url, "Bert")
    other = Voter(server.url, "Carla")
    for cookie in ("", f"{COOKIE}={other.secret}", f"{COOKIE}=...", f"{COOKIE}={'x.' * 400}"):
        for form in ({"name": "Bert"}, {"name": " bERT ", "again": "yes"}):
            with attack(row):
                answer = ask(f"{server.url}/join", urlencode(form).encode(), Cookie=cookie)
                assert answer.status == 422 and b"takes part already" in answer.body
                assert bert.secret not in repr(answer)
    again = ask(f"{server.url}/join", b"name=Bert&again=yes", Cookie=f"{COOKIE}={bert.secret}")
    assert again.url == bert.url


def test_two_who_join_by_one_name_at_once_are_one_who_does(server: Served) -> None:
    answers: list[Answer] = []
    form = urlencode({"name": "Dora"}).encode()
    threads = [
        threading.Thread(target=lambda: answers.append(ask(f"{server.url}/join", form)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200] + [422] * 7


def test_a_browser_keeps_the_secrets_of_all_who_join_by_it(server: Served) -> None:
    origin = {"Origin": server.url}
    first = raw(server, "POST", "/join", b"name=Emil", **origin)
    cookie = first.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/join"))
    kept = cookie.split(";")[0]
    second = raw(server, "POST", "/join", b"name=Fred", Cookie=kept, **origin)
    both = second.headers["set-cookie"].split(";")[0]
    for name, of in (("Emil", first), ("Fred", second)):
        form = f"name={name}&again=yes".encode()
        again = raw(server, "POST", "/join", form, Cookie=both, **origin)
        assert again.status == 303 and again.headers["location"] == of.headers["location"]


@pytest.mark.parametrize("body", [b"&".join([b"a=b"] * 1000), b"%" * 9000, b"name=%ff%fe", b"\xff"])
def test_what_is_no_form_is_refused(server: Served, body: bytes, attack: Attack) -> None:
    with attack("study: no form, no vote"):
        assert ask(f"{server.url}/join", body).status == 422


def raw(server: Served, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """Send a request without normalising anything."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        reply = connection.getresponse()
        return Answer(reply.status, dict(reply.headers), reply.read(), path)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/image/../../run.json",
        "/image/..%2f..%2frun.json",
        "/image/%2e%2e/%2e%2e/run.json",
        "/image//etc/passwd",
        "/image/%2Fetc%2Fpasswd",
        "/image/x%00.png",
        "/../run.json",
        "/page/voting.html",
        "/study.css/../server.py",
        "//etc/passwd",
        "/vote/../../run.json/state",
        "/image/" + "a" * 20_000,
        "/vote/'%20OR%201=1--/state",
    ],
)
def test_no_path_leads_to_a_file(server: Served, path: str, attack: Attack) -> None:
    with attack("study: paths"):
        answer = raw(server, "GET", path)
        assert answer.status in (400, 404)
        assert b"settings" not in answer.body and b"root:" not in answer.body


def test_other_sites_and_names_are_refused(server: Served, attack: Attack) -> None:
    row = "study: other sites and hosts"
    voter = Voter(server.url, "Target")
    path, vote = urlsplit(voter.url).path + "/choice", b'{"step":0,"choice":"left","seconds":1}'
    assert raw(server, "POST", path, vote, Sec_Fetch_Site="cross-site").status == 403
    assert raw(server, "POST", path, vote, Sec_Fetch_Site="same-site").status == 403
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        with attack(row):
            assert raw(server, "GET", "/", Host=host).status == 421
    own = {"Origin": server.url}
    for sender in (
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": server.url.replace("127.0.0.1", "localhost")},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": f"{server.url}.evil.example"},
        {"Origin": "file://" + urlsplit(server.url).netloc},
        {"Origin": "http://["},
        {"Referer": "http://evil.example/" + server.url},
        {"Origin": "http://evil.example", "Referer": server.url + "/"},
        {**own, "Sec_Fetch_Site": "cross-site"},
        {**own, "Sec_Fetch_Site": "same-site"},
    ):
        with attack(row, 3):
            assert raw(server, "POST", path, vote, **sender).status == 403, sender
            assert raw(server, "POST", "/join", b"name=Mallory", **sender).status == 403, sender
            assert raw(server, "DELETE", "/", **sender).status == 403
    assert voter.state()["done"] == 0
    assert raw(server, "POST", path, vote, **own).status == 200
    assert raw(server, "POST", path, vote, Referer=voter.url).status == 200
    assert raw(server, "POST", path, vote, Sec_Fetch_Site="same-origin", **own).status == 200
    assert raw(server, "GET", "/", Host="localhost:1").status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b"\xff\xfe", b"[" * 9000, b'{"step":0}',
        b'{"step":"0","choice":"left","seconds":1}',
        b'{"step":true,"choice":"left","seconds":1}', b'{"step":0,"choice":"LEFT","seconds":1}',
        b'{"step":0,"choice":["left"],"seconds":1}', b'{"step":0,"choice":"left","seconds":NaN}',
        b'{"step":0,"choice":"left","seconds":-1}', b'{"step":0,"choice":"left","seconds":1e999}',
        b'{"step":0,"choice":"left","seconds":true}', b'{"vote":1}',
    ],
)  # fmt: skip
def test_what_is_no_vote_is_refused_and_counts_nothing(
    server: Served, body: bytes, attack: Attack
) -> None:
    voter = Voter(server.url, f"Fuzz {next(NUMBERS)}")
    with attack("study: no form, no vote"):
        assert ask(f"{voter.url}/choice", body).status == 422
        assert voter.state()["done"] == 0


def test_too_much_and_too_large_numbers_are_refused(server: Served) -> None:
    voter = Voter(server.url, f"Fuzz {next(NUMBERS)}")
    assert ask(f"{voter.url}/choice", b" " * 20_000).status == 413
    for vote in (-1, 2**63, 1.5, None, "1", True):
        assert ask(f"{voter.url}/undo", json.dumps({"vote": vote}).encode()).status == 422
    huge = json.dumps({"step": 10**30, "choice": "tie", "seconds": 1}).encode()
    assert not ask(f"{voter.url}/choice", huge).json["counted"]
    assert ask(f"{server.url}/vote/nobody/state").status == 404
    assert ask(f"{server.url}/vote/nobody").url == f"{server.url}/"


def test_every_answer_forbids_what_the_page_does_not_need(server: Served) -> None:
    for path in ("/", "/study.js", "/nothing", "/image/none"):
        headers = {name.lower(): value for name, value in ask(server.url + path).headers.items()}
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert (
            headers["referrer-policy"] == "same-origin" and headers["cache-control"] == "no-store"
        )
        assert "server" not in headers


class Hammer(threading.Thread):
    """Votes without a pause until the server dies; counts the votes that it confirmed."""

    def __init__(self, url: str, name: str, seed: int, again: str | None) -> None:
        super().__init__()
        self.name, self.random = name, random.Random(seed)
        self.voter = Voter(url, name, again=again)
        self.state: Any = self.voter.state()
        self.saved = 0

    def run(self) -> None:
        try:
            while True:
                if self.state["current"] is None or self.random.random() < 0.3:
                    if self.state["last_vote"] is not None:
                        self.state = self.voter.undo(self.state["last_vote"])
                else:
                    step = self.state["current"]["step"]
                    self.state = self.voter.vote(step, self.random.choice(CHOICES))
                self.saved += 1
        except (OSError, http.client.HTTPException):
            pass  # killed


@pytest.mark.parametrize("number", numbers(1, 6))
def test_kill_9_in_the_midst_of_voting_loses_nothing(
    run: Path, number: int, attack: Attack
) -> None:
    """Three annotators vote and undo as fast as they can; after each kill the same command resumes,
    and everyone is at most one request (the one without an answer) from where they were."""
    chance, confirmed, name = dice("voting", number), 0, f"killed-{number}"
    own: dict[str, str] = {}
    attack.injects("study: kills", 3)
    for start in range(3):
        with served(run, *STUDY, "--name", name) as server:
            hammers = [
                Hammer(server.url, who, start, own.get(who)) for who in ("Ada", "Ben", "Cleo")
            ]
            own = {hammer.name: hammer.voter.secret for hammer in hammers}
            for hammer in hammers:
                hammer.start()
            time.sleep(chance.uniform(0.3, 1.0))
            server.process.kill()
            for hammer in hammers:
                hammer.join()
        ballot = read_ballot(study_file(run, name))
        for hammer in hammers:
            votes = [v for v in ballot.votes if v.annotator == hammer.name and v.undone is None]
            assert [vote.step for vote in votes] == list(range(len(votes)))
            assert abs(len(votes) - hammer.state["done"]) <= 1
            confirmed += hammer.saved
        attack.held("study: kills")
    assert confirmed > 30


def test_every_acknowledged_vote_survives_kill_9(run: Path) -> None:
    """Without undoing: the votes themselves, not only their number."""
    cast: list[tuple[str, int, str]] = []
    own: dict[str, str] = {}
    for number in range(2):
        with served(run, *STUDY, "--name", "kept") as server:
            voters = {name: Voter(server.url, name, again=own.get(name)) for name in ("Ada", "Ben")}
            own = {name: voter.secret for name, voter in voters.items()}
            for name, voter in voters.items():
                steps = range(2) if number == 0 else range(2, 5)
                for step in steps:
                    choice = CHOICES[(step + len(name)) % 3]
                    assert voter.vote(step, choice)["counted"]
                    cast.append((name, step, choice))
            server.process.kill()
    votes = read_ballot(study_file(run, "kept")).votes
    assert [(vote.annotator, vote.step, vote.choice) for vote in votes] == cast


def test_the_report_after_a_signal(run: Path, tmp_path: Path) -> None:
    with served(run, *STUDY, "--name", "told") as server:
        for name, choices in {"Ada": ["left"] * 5, "Ben": ["tie"] * 5, "Cleo": ["right"]}.items():
            voter = Voter(server.url, name)
            for step, choice in enumerate(choices):
                voter.vote(step, choice)
        server.process.terminate()
        assert server.process.stderr is not None
        errors = server.process.stderr.read()
        assert server.process.wait(30) == 143 and "Traceback" not in errors
    files = ["--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")]
    done = CliRunner().invoke(app, ["study", "report", str(run), "--name", "told", *files])
    assert done.exit_code == 0, done.output
    assert "quagga against okapi: 11 votes" in done.output
    assert "Cleo: 1 of 5, unfinished" in done.output
    summary = json.loads((tmp_path / "a.json").read_text())
    assert summary["all"]["tie"] == 5 and summary["unfinished"] == ["Cleo"]
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))) == 11


def test_another_host_gives_a_warning_and_a_key(run: Path, attack: Attack) -> None:
    options = (*STUDY, "--name", "open", "--host", "0.0.0.0")
    with served(run, *options) as server:
        assert "WARNING" in server.output and "EVERYONE" in server.output
        key = urlsplit(server.url).path
        assert len(key) > 20
        door = server._replace(url=server.url.removesuffix(key))
        assert raw(door, "GET", f"{key}/", Host="study.example").status == 200
        assert raw(door, "GET", f"{key}/", Host="").status == 421
        voter = Voter(server.url, "Ada")
        without = urlsplit(voter.url).path.removeprefix(key)
        image = voter.state()["current"]["left"]
        assert image.startswith(key) and ask(door.url + image).status == 200
        for path in ("/", "/study.js", without, f"{without}/state", image.removeprefix(key)):
            for wrong in ("", "/x", f"{key}x", key[:-1], f"/{key}", key.upper()):
                with attack("study: without the key"):
                    assert raw(door, "GET", wrong + path).status == 404, wrong + path
        own = {"Origin": door.url}
        assert raw(door, "POST", "/join", b"name=Eve", **own).status == 404
        page = ask(server.url + "/").body.decode()
        assert ask(door.url + re.findall(r'href="(\S+\.css)"', page)[0]).status == 200
        assert voter.vote(0, "tie")["counted"]
        server.process.kill()
    with served(run, *options) as server:
        assert urlsplit(server.url).path == key, "annotators keep their addresses"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--model", "zebra"), 5, "Finished are: base, merged, okapi, quagga"),
        (("--model", "base"), 2, "came twice"),
        (("--name", "../x"), 3, "study's name"),
        (("--host", "256.1.1.1"), 5, "cannot be served"),
    ],
)
def test_mistakes_are_reported_before_anything_is_served(
    run: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    done = CliRunner().invoke(app, ["study", "serve", str(run), "--port", "0", *options])
    error = done.exception
    assert getattr(error, "exit_code", None) == code and message in str(error)


def test_a_taken_port_is_reported(run: Path, server: Served) -> None:
    port = server.url.rsplit(":", 1)[1]
    done = CliRunner().invoke(app, ["study", "serve", str(run), "--name", "port", "--port", port])
    assert "Choose another --port" in str(done.exception)


def test_an_image_that_changes_while_served_is_reported_without_names(tmp_path: Path) -> None:
    little_run(tmp_path)
    with served(tmp_path, *STUDY) as server:
        current = Voter(server.url, "Ada").state()["current"]
        for path in tmp_path.glob("5-scores/images/quagga/*.png"):
            path.write_bytes(b"another")
        answers = [ask(server.url + current[side]) for side in ("left", "right")]
        assert sorted(answer.status for answer in answers) == [200, 500]
        assert all(b"quagga" not in answer.body for answer in answers)
        server.process.kill()
        assert server.process.stderr is not None
        assert "has changed" in " ".join(server.process.stderr.read().split())
