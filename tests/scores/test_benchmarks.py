"""Benchmarks in files: every irregularity is kept for counting, every broken file refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selma.config.scores import ScoresConfig
from selma.errors import ConfigError, DataError
from selma.records.benchmarks import evenly
from selma.scores.benchmarks import (
    COLUMNS,
    all_texts,
    counted,
    group_of,
    load_benchmark,
    read_dsg,
)
from selma.scores.benchmarks.dsg import DSG
from selma.scores.faithfulness import dependency_faults

HEADER = ",".join(COLUMNS)
ROW = "whoops_1,A red cube,1,0,entity,whole,Is there a cube?"


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "benchmark.csv"
    path.write_text("\n".join((header, *rows)) + "\n", "utf-8")
    return path


def test_a_file_becomes_prompts_with_questions_and_groups(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "whoops_1,A red cube,1,0,entity,whole,Is there a cube?",
        "whoops_1,A red cube,2,1,attribute,color,Is the cube red?",
        'stanford_paragraph_3,"Rain, again",1,0,global,-,Does it rain?',
    )
    first, second = read_dsg(path)
    assert (first.id, first.text, first.group) == ("whoops_1", "A red cube", "defying")
    assert [q.parents for q in first.questions] == [(), ("1",)]
    assert (second.text, second.group, second.questions[0].detail) == (
        "Rain, again",
        "paragraph",
        "",
    )


@pytest.mark.parametrize(
    ("item_id", "group"),
    [
        ("tifa160_134", "tifa"),
        ("localized_narratives_95", "paragraph"),
        ("vrd_1", "relation"),
        ("my_own_7", "my_own"),
        ("seven", "all"),
    ],
)
def test_groups_are_dsgs_own(item_id: str, group: str) -> None:
    assert group_of(item_id) == group


def test_irregular_dependencies_are_kept_and_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "x_1,t,1,1,entity,whole,a?",  # itself
        'x_1,t,2,"1, 3",entity,whole,b?',  # a later one, after a blank: sound but for the cycle
        'x_1,t,3,"2,2",entity,whole,c?',  # twice, and a cycle with 2
        'x_1,t,4,"9, left",entity,whole,d?',  # missing, words
        "x_1,t,5,,entity,whole,e?",  # nothing
    )
    (prompt,) = read_dsg(path)
    assert [q.parents for q in prompt.questions] == [
        ("1",),
        ("1", "3"),
        ("2", "2"),
        ("9", "left"),
        (),
    ]
    assert dependency_faults([prompt]) == {
        "named twice": 1,
        "names a missing question": 1,
        "names itself": 1,
        "not an id": 1,
        "question in a cycle": 2,
    }


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([], "only a header"),
        (["whoops_1,A red cube,1,0"], "line 2: as many cells"),
        ([ROW, ROW], "line 3: whoops_1 already has a question '1' in line 2"),
        ([ROW, ROW.replace("red", "blue").replace(",1,", ",2,")], "line 3: whoops_1 has another"),
        ([ROW.replace("A red cube", " ")], "line 2: text must not be empty"),
        ([ROW.replace("whoops_1", "../up")], "line 2: item_id must be letters"),
        ([ROW.replace(",1,", ",0,")], "line 2: proposition_id must not be 0"),
        ([ROW, ROW.replace("whoops", "Whoops")], "line 3: item_id 'Whoops_1' differs"),
        ([ROW, '"never closed'], "not valid CSV"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, rows: list[str], what: str) -> None:
    with pytest.raises(DataError, match=what):
        read_dsg(write(tmp_path, *rows))


def test_missing_columns_files_and_encodings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not hold for dependency"):
        read_dsg(write(tmp_path, header=HEADER.replace("dependency", "depends")))
    with pytest.raises(DataError, match="cannot be read"):
        read_dsg(tmp_path / "none.csv")
    path = write(tmp_path, ROW)
    path.write_bytes(path.read_bytes() + b"x_1,\xff\n")
    with pytest.raises(DataError, match="line 3: text must be UTF-8"):
        read_dsg(path)


cells = st.text(alphabet=st.sampled_from('a1,"\n\r;0 _é-'), max_size=6)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=st.lists(st.lists(cells, min_size=6, max_size=8), max_size=4), tail=st.binary(max_size=12)
)
def test_any_file_is_read_or_refused_by_a_data_error(
    tmp_path: Path, rows: list[list[str]], tail: bytes
) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path = tmp_path / "fuzz.csv"
    path.write_bytes(f"{HEADER}\n{text.getvalue()}".encode() + tail)
    try:
        benchmark_prompts = read_dsg(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert all(prompt.questions for prompt in benchmark_prompts)
        dependency_faults(benchmark_prompts)


def test_a_part_of_the_benchmark_is_even_over_groups_and_always_the_same() -> None:
    config = ScoresConfig()
    whole, part = load_benchmark(config), load_benchmark(config, prompts=23)
    counts = [sum(p.group == g for p in part) for g in dict.fromkeys(p.group for p in whole)]
    assert len(part) == 23 and max(counts) - min(counts) <= 1
    assert part == load_benchmark(config.model_copy(update={"prompts": 23}))
    assert [p for p in whole if p in part] == part
    assert evenly(whole, 10**6) == whole


def test_what_may_not_be_trained_on_is_both_splits_whichever_is_scored() -> None:
    dev = all_texts(ScoresConfig(split="dev", prompts=5, groups=("coco",)))
    assert dev == all_texts(ScoresConfig(split="test"))
    whole = [load_benchmark(ScoresConfig(), split=split) for split in ("dev", "test")]
    assert dev == [prompt.text for split in whole for prompt in split]


def test_splits_share_no_text_and_a_csv_has_no_dev_split(tmp_path: Path) -> None:
    config = ScoresConfig()
    test, dev = load_benchmark(config), load_benchmark(config, split="dev")
    assert not {p.text.lower() for p in test} & {p.text.lower() for p in dev}
    config = ScoresConfig(benchmark=str(write(tmp_path, ROW)))
    assert len(load_benchmark(config)) == 1
    with pytest.raises(ConfigError, match="dev split"):
        load_benchmark(config, split="dev")


def test_released_dependencies_are_those_of_the_whole_item_reading(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "x_1,t,1,0,entity,whole,a?",
        'x_1,t,2,"1, 3",entity,whole,b?',
        "x_1,t,3,2,entity,whole,c?",
        "y_1,u,1,0,entity,whole,a?",
        'y_1,u,2,"1, left",entity,whole,b?',  # one word, and the item has no dependencies
        "z_1,v,1,0,entity,whole,a?",
        "z_1,v,2, 01 ,entity,whole,b?",  # a number all the same
        "e_1,w,1,0,entity,whole,a?",
        'e_1,w,2,"1,",entity,whole,b?',  # what is behind the comma is no number
        "f_1,w,1,0,entity,whole,a?",
        "f_1,w,2,1,entity,whole,b?",
        "f_1,w,3,,entity,whole,c?",  # nor is nothing
    )
    released = DSG.rules("released")
    counting = counted(read_dsg(path), released, named=str(path))
    assert counting == read_dsg(path, dependencies="whole_item")
    assert [q.parents for q in counting[1].questions] == [(), ()]
    assert counting[2].questions[1].parents == ("1",)
    assert [[q.parents for q in prompt.questions] for prompt in counting[3:]] == [
        [()] * 2,
        [()] * 3,
    ]
    assert (released.zeroing, released.reading) == ("one_level", "exact")
