"""The page on subjects: its conclusion, escaping, charts and images."""

import copy

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from selma.applications.subjects import page as subjects_page
from selma.applications.subjects.records import (
    CurvePoint,
    SubjectCard,
    SubjectComparison,
    SubjectMeasure,
    SubjectRow,
)
from selma.errors import DataError
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.scores import Interval
from selma.workspace import Workspace

HOSTILE = "<script>document.title='x'</script><img src=x onerror=alert(1)>{{ 7*7 }}"
MEANS = {"lora": 0.6, "oft": 0.7, "coft": 0.69}


def interval(mean, width=0.02, n=50):
    return Interval(mean=mean, low=mean - width, high=mean + width, n=n)


def measure(key, label, better="higher"):
    return SubjectMeasure(key=key, label=label, better=better, meaning="It is.", network="net")


def card(names=("cat_hat", "dog"), *, means=MEANS, steps=(0, 50, 100)):
    methods = list(means)
    return SubjectCard(
        subjects=dict.fromkeys(names, "cat"),
        token="qwe",
        prompts=2,
        images=1,
        steps=steps[-1],
        measures=(measure("dino", "DINO"), measure("clip_t", "CLIP-T"),
                  measure("lpips_real", "LPIPS to real", "lower")),
        rows=(
            SubjectRow(model="real", values={"dino": interval(0.9)}),
            *(
                SubjectRow(
                    model=method,
                    values={k: interval(v) for k in ("dino", "clip_t", "lpips_real")},
                    released={"dino": v},
                    subjects={key: {"dino": v} for key in names},
                    parameters=12345,
                )
                for method, v in {"base": 0.5, **means}.items()
            ),
        ),
        comparisons=tuple(
            SubjectComparison(
                model=b,
                against=a,
                measure=key,
                difference=interval(means[b] - means[a]),
                over_subjects=interval(means[b] - means[a], 0.3),
            )
            for i, a in enumerate(methods)
            for b in methods[i + 1 :]
            for key in ("dino", "clip_t", "lpips_real")
        ),
        curves={
            m: tuple(CurvePoint(step=s, values={"dino": v * (s + 1) / 101}) for s in steps)
            for m, v in means.items()
        },
        curve_prompts=1,
    )  # fmt: skip


@pytest.fixture
def world(tmp_path):
    """A card with its real images, prompts and generated images."""
    results = card()
    prompts = {s: [BenchmarkPrompt(id=f"0{n}-0", text=f"a qwe {s} {n}", group=s, questions=())
                   for n in range(2)] for s in results.subjects}  # fmt: skip
    generated, real = {}, {}
    numbers = np.random.default_rng(0)

    def image(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
        return path

    for name in results.subjects:
        real[name] = [image(tmp_path / name / f"{n}.png") for n in range(3)]
        for method, step in [("base", 0), *((m, s) for m in results.curves for s in (50, 100))]:
            folder = tmp_path / method / name / str(step)
            for n in range(1 if step == 50 else 2):
                image(folder / f"0{n}-0.png")
            generated[method, name, step] = folder
    return results, real, prompts, generated


def page(world, tmp_path, settings=None, name="mine"):
    results, real, prompts, generated = world
    return subjects_page.write_subject_page(
        results, real, prompts, generated,
        settings=settings or {"a": 1}, name=name, folder=Workspace(tmp_path / "run"), about={},
    )  # fmt: skip


def test_the_page_holds_everything_and_loads_nothing(world, tmp_path):
    path = page(world, tmp_path)
    html = path.read_text()
    assert html.count("<polyline") == 3 and "default-src &#39;none&#39;" in html
    for words in ("0.700", "0.680 to 0.720", "12 345", "cat_hat", "a qwe dog 1", "Minus lora"):
        assert words in html
    # Two subjects: three real images, two prompts by four models, three methods at two steps.
    assert html.count('src="data:image/png') == 2 * (3 + 2 * 4 + 3 * 2)
    assert page(world, tmp_path).read_text() == html
    again = page(world, tmp_path / "elsewhere").read_bytes()
    assert again == path.read_bytes()


def test_what_comes_from_outside_is_escaped(world, tmp_path):
    results, real, prompts, generated = copy.deepcopy(world)
    prompts["dog"][0] = BenchmarkPrompt(id="00-0", text=HOSTILE, group="dog", questions=())
    world = (results.model_copy(update={"token": HOSTILE}), real, prompts, generated)
    html = page(world, tmp_path, settings={HOSTILE: HOSTILE}, name=HOSTILE).read_text()
    assert "<script" not in html and "<img src=x" not in html and "{{ 7*7 }}" in html


def test_the_conclusion_says_who_leads_and_how_surely():
    headline, meaning = subjects_page.conclusion(card())
    assert headline == "No method is clearly most faithful to the subjects."
    assert "oft leads with 0.700, clearly ahead of lora and not clearly ahead of coft" in meaning
    headline, _ = subjects_page.conclusion(card(means={"lora": 0.6, "oft": 0.7}))
    assert headline == "oft is most faithful to the subjects."
    headline, meaning = subjects_page.conclusion(card(means={"oft": 0.7}))
    assert headline == "oft on 2 subjects" and "single method" in meaning


def test_lower_is_better_where_it_is():
    two = card(means={"lora": 0.6, "oft": 0.7})
    best, sure = subjects_page._leader(two, measure("lpips_real", "L", "lower"))
    assert (best, sure) == ("lora", True)


def test_charts_lie_within_their_box():
    (chart,) = subjects_page.charts(card())
    assert [words for _, words in chart.steps] == ["0", "50", "100"]
    for _, _, _, dots in chart.lines:
        assert [x for x, _ in dots] == sorted(x for x, _ in dots)
        assert all(
            0 <= y <= subjects_page.HEIGHT and 0 <= x <= subjects_page.WIDTH for x, y in dots
        )
        assert [y for _, y in dots] == sorted((y for _, y in dots), reverse=True)  # rising curves
    assert not list(subjects_page.charts(card(steps=(100,))))


def test_a_missing_image_is_an_error(world, tmp_path):
    _, _, _, generated = world
    (generated["oft", "dog", 100] / "00-0.png").unlink()
    with pytest.raises(DataError, match="00-0"):
        page(world, tmp_path)


def test_the_terminal_shows_every_row():
    console = Console(record=True, width=200)
    subjects_page.print_subject_card(card(), console)
    text = console.export_text()
    for words in ("real", "base", "lora", "coft", "0.690 │ 0.670 to 0.710", "oft minus lora, DINO"):
        assert words in text
    assert "2 subjects, 2 prompts, 1 image each, 100 steps" in text


def test_in_eighty_columns_no_name_and_no_number_is_broken():
    console = Console(record=True, width=80)
    subjects_page.print_subject_card(card(), console)
    text = console.export_text()
    assert "…" not in text and all(len(line) <= 80 for line in text.splitlines())
    for words in ("coft", "0.670 to 0.710", "12 345", "LPIPS to real ↓"):
        assert words in text


@pytest.mark.parametrize(
    ("count", "words"), [(1, "<b>1</b> image per"), (4, "<b>4</b> images per")]
)
def test_the_page_counts_images_in_words(world, tmp_path, count, words):
    given, real, prompts, generated = world
    given = given.model_copy(update={"images": count})
    path = page((given, real, prompts, generated), tmp_path)
    assert words in path.read_text()
