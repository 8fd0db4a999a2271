"""The tables in the README and in the model card are the report that lies beside the weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def tables(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_tables", root / "docs" / "write_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def report(tables: ModuleType) -> dict:
    return json.loads((tables.EMBEDDED / "report.json").read_text("utf8"))


def test_the_pages_show_the_report(tables: ModuleType, report: dict) -> None:
    for path, thresholds_alone in tables.PAGES.items():
        page = path.read_text("utf8")
        assert page == tables.filled(page, report, thresholds_alone), f"{path}: run docs/write_tables.py"


def test_a_changed_number_changes_both_pages(tables: ModuleType, report: dict) -> None:
    report["words.seen"] |= {"value": 0.1234, "passed": False}
    for path, thresholds_alone in tables.PAGES.items():
        page = tables.filled(path.read_text("utf8"), report, thresholds_alone)
        assert "| words.seen | 0.123 | " in page and page != path.read_text("utf8")


def test_a_page_without_its_marks_is_refused(tables: ModuleType, report: dict) -> None:
    with pytest.raises(ValueError, match="end of report"):
        tables.filled("# A page\n", report, False)


def test_a_measure_without_a_threshold_stays_in_the_card(tables: ModuleType) -> None:
    one = dict.fromkeys(("low", "high", "baseline", "ceiling", "threshold", "passed")) | {"value": 12.0}
    one |= {"low": 11.0, "high": 13.0}
    marks = "<!-- report -->\n<!-- end of report -->\n"
    assert "| picture | 12.0 | 11.0 – 13.0 |  |  |  |  |" in tables.filled(marks, {"picture": one}, False)
    assert "picture" not in tables.filled(marks, {"picture": one}, True)


def test_the_performance_page_shows_its_results(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("write_performance", root / "docs" / "write_performance.py")
    performance = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(performance)
    page = performance.PAGE.read_text("utf8")
    for name, table in performance.TABLES.items():
        results = json.loads((performance.RESULTS / f"{name}.json").read_text("utf8"))
        assert page == performance.filled(page, name, table(results)), "run docs/write_performance.py"
