from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from moth_eval.records import RuleRecord, TriggerRecord
from moth_eval.text import visible
from reports.drawings import score_strip, size_bars
from reports.rows import Row
from reports.wording import percent
from tests.support.runs import build_reports, clean, entry, large_run, make_run, poisoned, record

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "input", "source", "link", "br"}


class Outline(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


def page_of(run: Path) -> str:
    build_reports(run)
    return (run / "report.html").read_text(encoding="utf-8")


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    assert found.open == []
    return found


def words(page: str) -> str:
    return " ".join(" ".join(outline(page).text).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def large_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(large_run(tmp_path_factory.mktemp("large") / "run", 8, scanners=("nc", "abs")))


def test_names_and_reasons_cannot_become_markup(tmp_path: Path) -> None:
    name = f'{EVIL}"><img src=x onerror=alert(1)>'
    truth = poisoned(f"{EVIL}-type", errata=EVIL)
    entries = [entry(name, truth, architecture=EVIL, file=f"{EVIL}/model.pt"), entry("b", clean())]
    evil = {"scanner": EVIL, "reason": EVIL, "normalisation": EVIL, "architecture": EVIL}
    rule = RuleRecord(name=EVIL, threshold=1.0, false_alarm_rate=0.5, source=EVIL)
    records = [record(name, 3.0, doubts=(EVIL,), rule=rule, **evil), record("b", **evil)]
    fields = {"command": (EVIL,), "models": f"/data/{EVIL}", "versions": {EVIL: EVIL}}
    page = page_of(make_run(tmp_path, entries, records, scanners=(EVIL,), device=EVIL, **fields))
    assert EVIL not in page
    found = outline(page)
    assert sum(tag == "script" for tag, _ in found.tags) == 1
    assert not any("onerror" in attributes for _, attributes in found.tags)
    assert EVIL in "".join(found.text)


def test_no_script_or_style_but_its_own_may_run(large_page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', large_page)
    assert policy is not None
    rules = policy[1].replace("&#39;", "'")
    assert "default-src 'none'" in rules
    assert "unsafe" not in rules
    assert not any("style" in attributes for _, attributes in outline(large_page).tags)


def test_nothing_is_loaded_from_elsewhere(large_page: str) -> None:
    for tag, attributes in outline(large_page).tags:
        for name in ("src", "srcset"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert "://" not in attributes.get("href", "")
    assert "url(" not in large_page
    assert "@import" not in large_page


def test_every_link_leads_somewhere(large_page: str) -> None:
    tags = outline(large_page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in tags if tag == "a"]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_every_picture_has_words_and_every_column_a_header(large_page: str) -> None:
    tags = outline(large_page).tags
    assert all(attributes["alt"] for tag, attributes in tags if tag == "img")
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    drawings = large_page.count("<svg")
    assert drawings == len(re.findall(r'<svg class="\w+" role="img"[^>]*><title>', large_page))


def test_doubts_stand_before_every_figure(large_page: str) -> None:
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", large_page)
    assert headings[:3] == ["Before you trust the figures", "Scanners", "ROC"]


def test_mildest_finding_never_says_safe(large_page: str) -> None:
    assert "no evidence found" in large_page
    chips = set(re.findall(r'<span class="chip \w+">([^<]+)</span>', large_page))
    assert chips == {
        "above its cut",
        "no evidence found",
        "inconclusive",
        "refused",
        "timed out",
        "failed",
        "pending",
    }


def test_doubts_about_a_thin_run_are_spelled_out(tmp_path: Path) -> None:
    entries = [entry("a", clean()), entry("b", poisoned()), entry("c", poisoned()), entry("d")]
    records = [
        record("a", 1.0, clean_accuracy=0.4, doubts=("outputs look like softmax",)),
        record("b", 3.0, doubts=("2 forward passes differ by 0.5",)),
        record("c", status="refused", reason="not a safe pickle"),
    ]
    text = words(page_of(make_run(tmp_path, entries, records)))
    assert "The run is not complete: 1 of 4 scans are missing" in text
    assert "nc gave no score for 1 model: 1 refused" in text
    assert "Reason: not a safe pickle" in text
    assert "The ROC area of nc rests on 1 clean and 1 backdoored models" in text
    assert "1 model classified fewer than 80 % of the clean examples rightly" in text
    assert "The cut of nc flags about 33 % of clean models" in text
    assert "Outputs look like softmax Remarked on 1 model." in text
    assert "2 forward passes differ by 0.5" in text


def test_remarks_that_differ_in_numbers_only_are_told_once(tmp_path: Path) -> None:
    entries = [entry("a"), entry("b")]
    records = [record(n, 1.0, doubts=(f"outputs sum to 1.{i}",)) for i, n in enumerate("ab")]
    text = words(page_of(make_run(tmp_path, entries, records)))
    assert "Outputs sum to 1.0 Remarked on 2 models, here in the words of a." in text
    assert "Outputs sum to 1.1" not in text


def test_copies_of_one_file_are_pointed_out(tmp_path: Path) -> None:
    entries = [entry("a"), entry("b", sha256=entry("a").sha256)]
    text = words(page_of(make_run(tmp_path, entries, [])))
    assert "2 models are copies of one another" in text


def test_a_run_without_doubts_says_so(tmp_path: Path) -> None:
    entries = [entry(f"c{i}", clean()) for i in range(200)]
    entries += [entry(f"p{i}", poisoned()) for i in range(200)]
    records = [record(e.name, i % 200 + i // 200 * 50.0, rule=None) for i, e in enumerate(entries)]
    text = words(page_of(make_run(tmp_path, entries, records)))
    assert "Nothing was found that speaks against the figures" in text


def test_provenance_is_there(tmp_path: Path) -> None:
    run = make_run(tmp_path, [entry("a")], [record("a", 1.0)])
    text = words(page_of(run))
    for fact in ("2026-03-04T05:06:07+00:00", "moth-eval trojai round", "torch 2.15.0"):
        assert fact in text
    assert entry("a").sha256 in text


def test_page_does_not_name_the_folder_it_lies_in(tmp_path: Path) -> None:
    run = make_run(tmp_path / "secret-place", [entry("a")], [record("a", 1.0)])
    assert "secret-place" not in page_of(run)


def test_sheets_past_the_limit_are_linked_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.page.MOST_EMBEDDED_BYTES", 100_000)
    page = page_of(large_run(tmp_path / "run", 8))
    links = re.findall(r'<a class="thumb" href="([^"]+)"', page)
    kinds = ["#" if link.startswith("#") else "file" for link in links]
    assert set(kinds) == {"#", "file"}
    assert all((tmp_path / "run" / link).is_file() for link in links if not link.startswith("#"))


def test_a_thousand_rows_fit_on_a_page(tmp_path: Path) -> None:
    entries = [entry(f"id-{i:08d}", poisoned() if i % 2 else clean()) for i in range(1000)]
    triggers = tuple(
        TriggerRecord(target=t, source=None, size=50.0 + t, asr=0.99, valid=True) for t in range(43)
    )
    records = [record(e.name, i / 100, triggers=triggers) for i, e in enumerate(entries)]
    page = page_of(make_run(tmp_path, entries, records))
    assert len(re.findall(r'<tr id="row-\d+"', page)) == 1000
    assert len(page) < 5_000_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name", "plain name"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("abc\u202egnp.exe", r"abc\u202egnp.exe"),
        ("two\nlines", "two lines"),
        ("größe 模型", "größe 模型"),
    ],
)
def test_hidden_characters_are_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("fraction", "words"), [(0, "0 %"), (0.05, "5 %"), (0.333, "33 %"), (0.0033, "0.33 %")]
)
def test_percentages_are_short(fraction: float, words: str) -> None:
    assert percent(fraction) == words


def test_bars_mark_the_suspected_class_and_leave_invalid_ones_hollow() -> None:
    sizes = ((0, 8.0, True), (1, 20.0, True), (2, 4.0, False), (0, 30.0, True))
    triggers = [TriggerRecord(target=t, source=None, size=s, asr=1, valid=v) for t, s, v in sizes]
    drawn = size_bars(triggers, 0)
    assert "3 classes, 2 valid; smallest: class 0 with 8 px; suspected: class 0" in drawn
    assert [drawn.count(f'class="{k}"') for k in ("bar", "bar-suspected", "bar-invalid")] == [1] * 3


def test_strip_has_one_dot_per_scored_model() -> None:
    rows = [
        Row(entry=entry(n, clean()), scanner="nc", record=record(n, s))
        for n, s in (("a", 1.0), ("b", -2.0), ("c", None))
    ]
    drawn = score_strip(rows, 2.0)
    assert drawn.count("<circle") == 2
    assert ">cut 2<" in drawn
    assert score_strip(rows[2:], 2.0) == ""
