"""Reports of findings: figures and mistakes of each, about nobody, and nothing believed that a stranger wrote."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from nearl.measure.findings import mistakes, rows, study
from nearl.prompts import default_findings
from nearl.report import Report, csv, html, pdf
from nearl.report.results import readable

HOSTILE = ("<script>alert('x')</script>", '=HYPERLINK("http://x")', "正常 ωμέγα")
FILE = "Doe^Jane 1970-01-01.png"


def made(names=HOSTILE, n=24):
    rng, prompts = np.random.default_rng(0), default_findings(names)
    labels = [tuple(2 * k + int(rng.random() < 0.5) for k in range(len(names)) if rng.random() < 0.9) for _ in range(n)]
    before, after = (rng.random((n, 2 * len(names))) for _ in range(2))
    for i, label in enumerate(labels):
        for c in label:
            after[i, c - c % 2] = np.clip(after[i, c - c % 2] + (0.3 if c % 2 == 0 else -0.3), 0, 1)
    limits = [0.5] * len(names), [0.4] * len(names)
    results = study(before, after, labels, prompts, "held-out", limits)
    meta = {
        "method": "nearl", "backbone": {"name": "embedded", "weights": "0123456789abcdef"}, "trust": None,
        "classes": list(prompts.classes), "prompts": prompts.to_dict(), "licence": "as the backbone",
        "support_counts": dict.fromkeys(prompts.classes, 7), "created": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    return Report(meta, results, rows(before, after, labels, prompts, [FILE] * n, limits))


def test_a_report_of_findings_has_each_of_them_and_names_nobody(tmp_path):
    report = made()
    page, table = html(report), csv(report.rows)
    wrong = mistakes(report.rows, report.results)
    assert page.count('data-head="Sensitivity"') == 3 and page.count("<td>") >= 2 * len(wrong) > 0
    assert "14 images with 3 findings" in page and "Mean AUROC of the findings" in report.headline
    assert "<script" not in page and "&lt;script&gt;" in page and "Doe" not in page + table
    assert '"=HYPERLINK' not in table and "Doe" in csv(report.rows, names=True)
    assert len(table.splitlines()) == 25
    assert pdf(report, tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    for one in wrong:
        assert (one.share >= 0.4) != one.present
    assert len({one.row["index"] for one in wrong}) == len(wrong)
    nothing = Report(report.meta, study(np.zeros((0, 6)), None, [], default_findings(HOSTILE), "none", ([], [])))
    assert "Nothing was measured" in html(nothing) and pdf(nothing, tmp_path / "b.pdf").is_file()


def test_results_of_findings_in_another_layout_are_left_out():
    good = made().results
    assert readable(good)

    def changed(*path, value):
        found = copy.deepcopy(good)
        place = found
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return found

    for wrong in (
        changed("findings", value=["a"]),
        changed("adapted", "macro_auroc", value=1.5),
        changed("adapted", "per_finding", 0, "auroc_interval", value=None),
        changed("adapted", "per_finding", value=[]),
        changed("frozen", value=None),
        changed("gain", "value", value="much"),
    ):
        assert not readable(wrong)
        assert "another layout" in Report(made().meta, wrong).cautions[0]


@pytest.mark.parametrize("after", [True, False])
def test_mistakes_are_before_teaching_where_nothing_was_taught(after):
    report = made()
    if not after:
        for row in report.rows:
            row["after"] = row["said_after"] = None
    one = mistakes(report.rows, report.results if after else {**report.results, "adapted": None})[0]
    assert one.share == one.row["after" if after else "before"][one.finding]
