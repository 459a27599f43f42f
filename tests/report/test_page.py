"""The report: nothing left out, nothing made up, nothing let in."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from report.world import findings
from rich.console import Console

from selma.config import ReportConfig
from selma.errors import DataError
from selma.records.benchmarks import evenly
from selma.records.images import PreferenceCount, Survivors
from selma.records.report import Findings
from selma.records.scores import Interval, Scorecard, ScorerInfo
from selma.report import page, tables, templates
from selma.report.grids import SHOWN_PX, Cards, contact_sheet, data_uri
from selma.scores.measures import TIFA
from selma.workspace import Workspace, file_sha256

CONFIG = ReportConfig(grid_prompts=10, training_pairs=3)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
HOSTILE = (
    "<script>document.title='x'</script><img src=x onerror=alert(1)>{{ 7*7 }}\u202e</title>\"'"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings(tmp_path_factory.mktemp("world"), merged=0.3)


class Parsed(HTMLParser):
    """Tags with attributes, and text outside of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def addresses(parsed: Parsed) -> Iterator[str]:
    for _, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if attributes.get(name):
                yield str(attributes[name])


def with_difference(found: Findings, mean: float, low: float, high: float) -> Findings:
    *others, merged = found.scorecard.models
    interval = Interval(mean=mean, low=low, high=high, n=20)
    changed = merged.model_copy(update={"difference": interval})
    card = found.scorecard.model_copy(update={"models": (*others, changed)})
    return dataclasses.replace(found, scorecard=card)


def test_the_page_shows_every_model_prompt_question_and_setting(found: Findings) -> None:
    parsed = Parsed(page.render(found, CONFIG))
    base, merged = found.scorecard.models[0], found.scorecard.models[-1]
    for expected in (
        *(m.model for m in found.scorecard.models),
        f"{base.score.mean:.1f}",
        f"{merged.score.mean:.1f}",
        tables.between(merged.difference, sign=True),  # type: ignore[arg-type]
        *(p.text for p in evenly(found.benchmark_prompts, 10)),
        *(q.text for p in evenly(found.benchmark_prompts, 10) for q in p.questions),
        *found.pairs,
        found.pairs["coco"][1].prompt.text,
        "too similar 31",
        "new 9, empty at limit 4",
        "experts.learning_rate",
        "mean of deltas",
        found.lineage["base"],
    ):
        assert expected in parsed.text
    assert "2 h 15 min" in parsed.text  # both lines of the experts' stage: 8101.1 s


def test_the_merge_is_judged_on_the_page_where_it_was_judged(found: Findings) -> None:
    shown = page.render(found, ReportConfig())
    assert 'id="merge"' in shown and "unet.mid_block.a_layer" in shown
    for expert in found.diagnostics["experts"].values():
        assert f"<td>{expert['norm']:.3g}</td>" in shown
    old = page.render(dataclasses.replace(found, diagnostics={}), ReportConfig())
    assert 'id="merge"' not in old


def test_every_further_score_is_shown_with_what_it_is(found: Findings) -> None:
    html = page.render(found, CONFIG)
    for field, name, meaning in tables.FURTHER:
        here = any(getattr(model, field) for model in found.scorecard.models)
        assert (f'<th scope="col">{name}' in html) == (meaning in Parsed(html).text) == here
        assert ((field, name, meaning) in tables.further_scores(found.scorecard)) == here
    *others, merged = found.scorecard.models
    asked = {"vqascore": interval(61.3), "vqascore_difference": interval(-7.7)}
    card = found.scorecard.model_copy(update={"models": (*others, merged.model_copy(update=asked))})
    text = Parsed(page.render(dataclasses.replace(found, scorecard=card), CONFIG)).text
    assert "VQAScore minus base (95%, s.e.)" in text and "61.3" in text and "−7.7" in text


def interval(mean: float) -> Interval:
    return Interval(mean=mean, low=mean - 1, high=mean + 1, n=20)


def test_a_benchmark_of_choices_is_called_tifa_throughout(found: Findings) -> None:
    card = found.scorecard.model_copy(update={"measure": "TIFA", "matcher": "wordllama"})
    tifa = dataclasses.replace(found, scorecard=card, measure=TIFA.about)
    text = Parsed(page.render(tifa, CONFIG)).text
    assert "DSG" not in text
    assert "TIFA score" in text and "multiple-choice" in text and "by wordllama" in text


def test_rotations_show_their_energies_and_their_conflict(found: Findings) -> None:
    plain = page.render(found, ReportConfig())
    assert "Energy of the neurons" not in plain and "Conflict c" not in plain
    energies = {
        skill: {
            "all": {"before": 1234.5, "after": 1234.6},
            "layers": {"a.to_q": {"before": 1000.0, "after": 1000.1},
                       "a.to_k": {"before": 234.5, "after": 234.5}},
        }
        for skill in ("coco", "count")
    }  # fmt: skip
    diagnostics = {
        **found.diagnostics,
        "all": {**found.diagnostics["all"], "conflict": 2.25, "orthogonality": 3e-7},
        "layers": {
            name: {key: value for key, value in layer.items() if key != "rank"} | {"conflict": None}
            for name, layer in found.diagnostics["layers"].items()
        },
    }
    shown = page.render(
        dataclasses.replace(found, energies=energies, diagnostics=diagnostics), ReportConfig()
    )
    for words in ("Energy of the neurons", "1234.6", "0.0001", "a.to_k", "Conflict c = 2.25", "∞"):
        assert words in shown
    assert ">rank<" in plain and ">rank<" not in shown


def test_nothing_is_fetched_from_elsewhere(found: Findings) -> None:
    html = page.render(found, CONFIG)
    assert {a.split(":")[0] for a in addresses(Parsed(html)) if not a.startswith("#")} == {"data"}
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "default-src &#39;none&#39;" in html


def test_equal_findings_give_equal_bytes_but_for_times(found: Findings) -> None:
    def fixed(journal: list) -> str:
        html = page.render(dataclasses.replace(found, journal=journal), CONFIG)
        return re.sub(r"<(\w+) data-volatile>.*?</\1>", "", html)

    slow = [
        {"stage": "3-experts", "seconds": 99999.0},
        {"stage": "3-experts", "event": "request", "seconds": 5.0, "cost": 3.5},
    ]
    assert fixed(found.journal) == fixed(slow) == fixed([])
    assert page.render(found, CONFIG) == page.render(copy.deepcopy(found), CONFIG)


def test_text_from_the_run_stays_text(found: Findings) -> None:
    benchmark_prompts = [
        p.model_copy(update={"text": HOSTILE, "group": HOSTILE}) for p in found.benchmark_prompts
    ]
    models = tuple(
        m.model_copy(update={"groups": {HOSTILE: m.score}, "group_differences": {HOSTILE: m.score}})
        for m in found.scorecard.models
    )
    card = found.scorecard.model_copy(update={"models": models, "benchmark": HOSTILE})
    answers = {
        model: [a.model_copy(update={"text": HOSTILE}) for a in said]
        for model, said in found.answers.items()
    }
    prompt = found.pairs["coco"][0].prompt.model_copy(update={"text": HOSTILE})
    pairs = {HOSTILE: [p.model_copy(update={"prompt": prompt}) for p in found.pairs["coco"]]}
    hostile = dataclasses.replace(
        found, benchmark_prompts=benchmark_prompts, scorecard=card, answers=answers, pairs=pairs,
        settings={"name": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}, lineage={HOSTILE: HOSTILE},
        dropped={HOSTILE: {HOSTILE: 3}}, prompts={HOSTILE: []},
    )  # fmt: skip
    mild, parsed = Parsed(page.render(found, CONFIG)), Parsed(page.render(hostile, CONFIG))
    assert "{{ 7*7 }}" in parsed.text and "49" not in parsed.text.split("{{ 7*7 }}")[1][:9]
    assert [t for t, _ in parsed.tags].count("script") == 1
    names = {name for _, attributes in parsed.tags for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    assert {t for t, _ in parsed.tags} <= {t for t, _ in mild.tags}


@pytest.mark.parametrize(
    ("mean", "low", "high", "said", "mood"),
    [
        (2.1, 0.3, 3.9, "follows prompts better", "better"),
        (0.4, -1.2, 2.0, "holds zero", "unclear"),
        (-2.0, -3.0, -1.0, "follows prompts worse", "worse"),
        (0.0, -0.1, 0.1, "No clear difference", "unclear"),
        (0.0, 0.0, 0.0, "scores as the base does on every prompt", "unclear"),
        (5.0, 5.0, 5.0, "The merged model gains the same on every prompt.", "better"),
        (-5.0, -5.0, -5.0, "It loses 5.0 points on each of the", "worse"),
    ],
)
def test_the_headline_says_what_the_interval_allows(
    found: Findings, mean: float, low: float, high: float, said: str, mood: str
) -> None:
    html = page.render(with_difference(found, mean, low, high), CONFIG)
    assert said in Parsed(html).text
    assert f'class="verdict {mood}"' in html
    assert ("95% interval of merged" in Parsed(html).text) is (low < high)


def test_the_shown_prompts_do_not_depend_on_scores(found: Findings) -> None:
    fair = [card.prompt.id for card in Cards(found).fair(10)]
    models = tuple(
        m.model_copy(update={"per_prompt": {p: 1 - s for p, s in m.per_prompt.items()}})
        for m in found.scorecard.models
    )
    card = found.scorecard.model_copy(update={"models": models})
    other = Cards(dataclasses.replace(found, scorecard=card))
    assert [c.prompt.id for c in other.fair(10)] == fair
    assert {c.prompt.group for c in Cards(found).fair(10)} == {
        p.group for p in found.benchmark_prompts
    }
    assert [c.prompt for c in other.gains()] == [c.prompt for c in Cards(found).losses()]


def test_extremes_are_the_extremes_and_marks_the_verdicts(found: Findings) -> None:
    cards = Cards(found)
    base, merged = found.scorecard.models[0], found.scorecard.models[-1]
    changes = sorted(
        100 * (merged.per_prompt[p.id] - base.per_prompt[p.id]) for p in found.benchmark_prompts
    )
    shown = [card.change for card in cards.gains()]
    assert shown == pytest.approx([c for c in changes[::-1][:6] if c > 0]) and shown
    for card in cards.gains():
        for side in (0, 1):
            yes = sum(line.marks[side].word == "yes" for line in card.lines)
            assert 100 * yes / len(card.lines) == pytest.approx(card.scores[side])


def test_the_report_is_written_again_with_equal_manifests(found: Findings, tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    path = page.write_report(found, CONFIG, folder)
    assert path == tmp_path / "6-report" / "index.html"
    first = {p.name: file_sha256(p) for p in path.parent.iterdir()}
    later = dataclasses.replace(found, journal=[{"stage": "2-images", "seconds": 7200.0}])
    assert "2 h 0 min" in page.write_report(later, CONFIG, folder).read_text("utf-8")
    again = {p.name: file_sha256(p) for p in path.parent.iterdir()}
    assert {n for n in first if first[n] != again[n]} == {"index.html"}
    assert set(first) == {
        "index.html", "grid.png", "scores.json", "manifest.json", "plan.json"
    }  # fmt: skip


def test_large_images_are_made_smaller_and_broken_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    Image.new("RGB", (1024, 512), "teal").save(path)
    data = base64.b64decode(data_uri(path).split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (SHOWN_PX, SHOWN_PX // 2)
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"big\.png"):
        data_uri(path)


def test_the_contact_sheet_has_a_row_for_four_prompts(found: Findings) -> None:
    one_row, two_rows = contact_sheet(found, 4), contact_sheet(found, 5)
    assert one_row.width == two_rows.width and two_rows.height > one_row.height
    first = found.images["base"] / f"{evenly(found.benchmark_prompts, 4)[0].id}.png"
    corner = one_row.crop((22, 36, 22 + 128, 36 + 128)).resize((64, 64), Image.Resampling.NEAREST)
    assert corner.tobytes() == Image.open(first).convert("RGB").tobytes()


def test_the_terminal_table_names_all_models_and_the_conclusion(found: Findings) -> None:
    out = io.StringIO()
    tables.print_scorecard(found.scorecard, Console(file=out, width=110))
    for model in found.scorecard.models:
        assert model.model in out.getvalue()
    assert tables.conclusion(found.scorecard)[0] in out.getvalue()


def with_preference(found: Findings, *, chose: bool) -> Findings:
    """As if every model had been scored by ImageReward, too."""
    about = ScorerInfo(
        label="reward", name="ImageReward v1.0", scale="unbounded & normalised",
        preprocessing="a middle crop", weights="some/weights", fingerprint="0123456789abcdef",
        chose=chose,
    )  # fmt: skip
    base, *others = found.scorecard.models

    def spread(mean: float) -> Interval:
        return Interval(mean=mean, low=mean - 0.11, high=mean + 0.11, n=20)

    scored = [base.model_copy(update={"preferences": {"reward": spread(-0.42)}})] + [
        m.model_copy(
            update={
                "preferences": {"reward": spread(0.31)},
                "preference_differences": {"reward": spread(0.73)},
                "win_rates": {"reward": spread(62.5)},
            }
        )
        for m in others
    ]
    card = found.scorecard.model_copy(
        update={"models": tuple(scored), "preferences": (about,), "clip_chose": chose}
    )
    return dataclasses.replace(found, scorecard=card)


@pytest.mark.parametrize("chose", [True, False])
def test_preference_is_shown_with_scale_version_and_mark(found: Findings, chose: bool) -> None:
    scored = with_preference(found, chose=chose)
    out = io.StringIO()
    tables.print_scorecard(scored.scorecard, Console(file=out, width=200))
    shown = Parsed(page.render(scored, CONFIG)).text
    for text in (shown, out.getvalue()):
        for expected in (
            *("ImageReward v1.0", "unbounded & normalised", "a middle crop", "some/weights"),
            *("−0.42", "−0.53 to −0.31", "0.31", "+0.73", "+0.62 to +0.84", "62.5"),
        ):
            assert expected in text
        assert ("no independent evidence" in text) == chose
    assert ("used to choose" in shown) == chose
    assert "What people would prefer" not in Parsed(page.render(found, CONFIG)).text


@pytest.mark.parametrize(
    ("value", "digits", "said"),
    [(-0.04, 1, "0.0"), (-0.04, 2, "−0.04"), (0.004, 2, "0.00"), (1.25, 2, "+1.25"), (0, 1, "0.0")],
)
def test_zero_has_no_sign(value: float, digits: int, said: str) -> None:
    assert tables.signed(value, digits) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.7, "1 min"), (3599, "1 h 0 min"), (7199, "2 h 0 min"), (900, "15 min")],
)
def test_durations_carry_over(seconds: float, said: str) -> None:
    assert templates.duration(seconds) == said


def test_a_scorecard_without_merged_is_refused(found: Findings) -> None:
    card: Scorecard = found.scorecard.model_copy(update={"models": found.scorecard.models[:-1]})
    with pytest.raises(DataError, match="needs a merged model"):
        page.render(dataclasses.replace(found, scorecard=card), CONFIG)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
def test_a_browser_runs_its_script_and_shows_all_images(found: Findings, tmp_path: Path) -> None:
    path = page.write_report(found, CONFIG, Workspace(tmp_path))
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
    ]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [*command, profile, "--virtual-time-budget=2000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert '<div class="chips">' in done.stdout  # the script took `hidden` away
    assert "Content Security Policy" not in done.stderr
    assert done.stdout.count("<article") == path.read_text("utf-8").count("<article") >= 10
    shot = tmp_path / "shot.png"
    subprocess.run(
        [*command, profile, "--window-size=1280,2400", f"--screenshot={shot}", path.as_uri()],
        capture_output=True,
        timeout=120,
    )
    with Image.open(shot) as image:
        assert image.size == (1280, 2400) and len(image.convert("L").getcolors() or []) > 50


def test_prompts_that_were_not_read_to_their_end_are_counted(found: Findings) -> None:
    style, pairs = next(iter(found.pairs.items()))
    long = [pair.model_copy(update={"tokens_cut": 3}) for pair in pairs[:2]]
    again = long[0].model_copy(update={"seed": 77})  # another image of the same prompt
    changed = found.pairs | {style: [*long, again, *pairs[2:]]}
    context = page.context(dataclasses.replace(found, pairs=changed), CONFIG)
    assert context["over_limit"] == dict.fromkeys(found.pairs, 0) | {style: 2}
    assert "longer than the text encoder reads" in Parsed(page.render(found, CONFIG)).text


def test_pairs_of_winner_and_loser_are_counted(found: Findings) -> None:
    assert "winner and loser" not in Parsed(page.render(found, CONFIG)).text
    count = PreferenceCount(
        pairs=231, dropped=19, least_difference=0.01234, measured=True, prompts=230, images=461
    )
    counts = dict.fromkeys(found.pairs, count)
    text = Parsed(page.render(dataclasses.replace(found, preferences=counts), CONFIG)).text
    assert text.count("231") == len(counts) and "0.01234, the judge's measured noise" in text


def test_what_a_judge_left_of_each_skill_is_told(found: Findings) -> None:
    assert "with an image that is accepted" not in Parsed(page.render(found, CONFIG)).text
    left = {
        skill: Survivors(prompts=8, without_questions=1, rejected=2, below_score=3)
        for skill in found.pairs
    }

    def text_of(**choose: object) -> str:
        settings = found.settings | {"images": {"choose": choose}}
        counted = dataclasses.replace(found, survivors=left, settings=settings)
        return Parsed(page.render(counted, CONFIG)).text

    text = text_of(questions="toybox", score_threshold=None)
    assert "with an image that is accepted" in text and "25.0%" in text
    assert "answered the questions of each prompt" in text and "must score" not in text
    text = text_of(questions=None, score_threshold=0.25)
    assert "An image must score 0.25 or more" in text
    assert "answered the questions of each prompt" not in text


def test_the_conclusion_says_what_was_gained_where_and_at_which_guidance(found: Findings) -> None:
    def interval(mean: float, low: float, high: float) -> Interval:
        return Interval(mean=mean, low=low, high=high, n=40)

    differences = {
        "colour": interval(3.0, 1.0, 5.0),
        "count": interval(9.0, -1.0, 19.0),  # may be chance
        "spatial": interval(6.0, 2.0, 10.0),
        "entity": interval(-4.0, -6.0, -1.0),
    }

    def card(guidance: float | None, gain: Interval) -> Scorecard:
        models = [
            model.model_copy(update={"difference": gain, "category_differences": differences})
            if model.role == "merged"
            else model
            for model in found.scorecard.models
        ]
        return found.scorecard.model_copy(update={"models": tuple(models), "guidance": guidance})

    better = interval(4.0, 1.0, 7.0)
    _, meaning = tables.conclusion(card(3.0, better))
    assert meaning.startswith(
        "It gains 4.0 points on the same 40 benchmark prompts and with the same seeds, both at "
        "guidance 3; clearest are spatial (+6.0), colour (+3.0). "
    )
    assert "without guidance" in tables.conclusion(card(1.0, better))[1]
    assert "guidance" not in tables.conclusion(card(None, better))[1]
    _, meaning = tables.conclusion(card(3.0, interval(-4.0, -7.0, -1.0)))
    assert "loses 4.0 points" in meaning and "clearest are entity (−4.0). " in meaning
    assert "clearest" not in tables.conclusion(card(3.0, interval(1.0, -1.0, 3.0)))[1]


def test_one_prompt_tells_nothing(found: Findings) -> None:
    alone = Interval(mean=50.0, low=50.0, high=50.0, n=1)
    merged = tables.model_with_role(found.scorecard, "merged")
    card = found.scorecard.model_copy(
        update={"models": (merged.model_copy(update={"difference": alone}),)}
    )
    headline, meaning = tables.conclusion(card)
    assert headline == "One prompt cannot tell the merged model from the base."
    assert meaning.startswith("It is +50.0 points from the base on the one benchmark prompt, with")
    assert not tables.clear(alone)


def test_requests_count_once_in_times_and_costs() -> None:
    """Their skill's line has the time and repeats the cost; side by side they take it once."""
    request = {"stage": "2-images", "event": "request", "seconds": 9.0, "cost": 0.25}
    lines = [
        *[request] * 4,
        {"stage": "2-images", "event": "failed request"},
        {"stage": "2-images", "event": "failed request", "cost": 0.5},
        {"stage": "2-images", "event": "probe", "same_seed_same_image": True},
        {"stage": "2-images", "skill": "cats", "seconds": 12.0, "cost": 1.0},
    ]
    times = {row["label"]: (row["seconds"], row["cost"]) for row in page.stage_times(lines)}
    assert (12.0, 1.5) in times.values() and sum(seconds for seconds, _ in times.values()) == 12.0


def test_a_large_run_has_a_page_of_20_mb_at_most(tmp_path: Path) -> None:
    large = findings(tmp_path / "run", prompts=240)
    noise = tmp_path / "noise.png"  # nothing is larger as a PNG
    pixels = random.Random(0).randbytes(256 * 256 * 3)
    Image.frombytes("RGB", (256, 256), pixels).save(noise)
    folder = tmp_path / "noise"
    folder.mkdir()
    for prompt in large.benchmark_prompts:
        (folder / f"{prompt.id}.png").hardlink_to(noise)
    pair = next(iter(large.pairs.values()))[0].model_copy(update={"image": noise})
    groups = {f"group {n}": large.scorecard.models[0].score for n in range(3000)}
    models = [
        model.model_copy(
            update={"groups": groups, "group_differences": groups if model.difference else {}}
        )
        for model in large.scorecard.models
    ]
    large = dataclasses.replace(
        large,
        benchmark_prompts=[
            prompt.model_copy(update={"group": f"group {n % 3000}"})
            for n, prompt in enumerate(large.benchmark_prompts * 13)
        ],
        scorecard=large.scorecard.model_copy(update={"models": tuple(models)}),
        images=dict.fromkeys(large.images, folder),
        pairs={f"skill {n}": [pair] * 50 for n in range(40)},
        prompts={f"skill {n}": [pair.prompt] * 50 for n in range(40)},
    )
    config = ReportConfig(grid_prompts=10_000, training_pairs=10_000)
    html = page.render(large, config)
    assert 10e6 < len(html.encode()) < 20e6
    shown = [tag for tag in Parsed(html).tags if tag[0] == "img"]
    assert len(shown) > 2 * page.MOST_CARDS + page.MOST_PAIRS
    kinds = {str(tag[1]["src"]).partition(";")[0] for tag in shown}
    assert kinds == {"data:image/png", "data:image/jpeg"}
    assert "the 60 groups with the most prompts; the scorecard has the other 2940" in html


def test_a_small_page_has_pngs_alone(found: Findings) -> None:
    html = page.render(found, CONFIG)
    assert "data:image/png" in html and "data:image/jpeg" not in html


def test_answers_are_read_for_what_is_shown_alone(found: Findings) -> None:
    few = dataclasses.replace(found, answers={m: iter(a) for m, a in found.answers.items()})
    shown = Cards(few).fair(3)  # one pass over what may be a file
    assert [card.lines for card in shown] == [card.lines for card in Cards(found).fair(3)]
