"""Findings on the command line: a table of marks is taught, measured and read with."""

import csv
import json

import pytest

from nearl.data.phantoms.thorax.sets import ALL
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import resolve_splits
from nearl.prompts import PromptSet
from tests.support.findings import FINDINGS, RULED, write_findings


def test_a_whole_session_with_findings(nearl, refused, model, tmp_path):
    data, out = write_findings(tmp_path / "data", train=24), tmp_path / "run"
    RULED.save(data / "prompts.json")
    quick = ["--steps", 3, "--out", out, *model]
    status, text, err = nearl("finetune", data, "--method", "linear-probe", *quick, "--json")
    result = json.loads(text)
    assert status == 0 and "findings from the marks" in err
    held = result["held_out"]
    assert held["findings"] == list(FINDINGS) and held["n"] == 6
    assert held["adapted"]["macro_auroc"] > 0.8 and held["gain"]["interval"]
    assert sum(result["support_counts"].values()) < 2 * 18, "some are not known"
    status, text, _ = nearl("report", out)
    assert status == 0 and text.splitlines()[0] == result["verdict"] and "macro AUROC" in text

    files = {kind: tmp_path / f"report.{kind}" for kind in ("html", "csv")}
    status, _, _ = nearl("report", out, *(part for kind, path in files.items() for part in (f"--{kind}", path)))
    page = files["html"].read_text()
    assert (
        status == 0 and "Finding by finding" in page and "AUROC before" in page and "18 images with 2 findings" in page
    )
    with files["csv"].open(encoding="utf-8-sig") as file:
        header, *rows = csv.reader(file)
    assert header[:6] == ["image", "one", "one: before share", "one: before", "one: after share", "one: after"]
    assert (
        len(rows) == 6 and {row[5] for row in rows} <= {"present", "absent"} and {row[1] for row in rows} <= {"0", "1"}
    )
    card = (out / "adapter" / "README.md").read_text()
    assert "| AUROC | before teaching" in card and "| `two` |" in card and "balanced accuracy" not in card

    status, text, _ = nearl("evaluate", data, "--adapter", out, *model, "--json")
    result = json.loads(text)
    assert status == 0 and result["n"] == 8 and result["macro_auroc"] == result["adapted"]["macro_auroc"]
    assert [row["finding"] for row in result["per_finding"]] == list(FINDINGS)
    assert {"auroc", "auroc_interval", "sensitivity", "specificity", "threshold"} <= result["per_finding"][0].keys()
    assert 0 <= result["consistent"] <= 1 and 0 <= result["consistent_shuffled"] <= 1
    _, lines, _ = nearl("evaluate", data, *model)
    assert "(8) say no more than a hint" in lines
    assert "before teaching: macro AUROC" in lines and "break no rule" in lines and "one " in lines

    image = next(data.glob("*.png"))
    status, text, _ = nearl("predict", image, "--adapter", out, *model, "--json")
    (row,) = json.loads(text)["predictions"]
    assert status == 0 and set(row["findings"]) == set(FINDINGS) and isinstance(row["contradictions"], list)
    for name in FINDINGS:
        found = row["findings"][name]
        assert found["share"] == row["adapted"][name] and found["present"] == (found["share"] >= found["threshold"])
        assert row["adapted"][name] + row["adapted"][f"without {name}"] == pytest.approx(1, abs=1e-5)
    _, lines, _ = nearl("predict", image, "--adapter", out, *model)
    assert "present" in lines or "absent" in lines

    assert "--shots" in refused("finetune", data, "--shots", 2, *quick[:-2], *model)
    table = (data / "labels.csv").read_text()
    for change, gist in (
        (lambda t: t.replace(",1,", ",2,", 1), "“2” for “one”"),
        (lambda t: "\n".join(",".join([*line.split(",")[:3], "two" if i == 0 else ""]) for i, line in
                             enumerate(t.splitlines())), "says of no image whether it has “two”"),
        (lambda t: t.replace("one,two", "one,One"), "two columns"),
        (lambda t: t.replace(",1,", ",0,"), "“one” is present in no image"),
        (lambda t: t.replace("one,two", "one," + ",".join(f"f{i}" for i in range(40))), "labels.csv"),
    ):  # fmt: skip
        (data / "labels.csv").write_text(change(table))
        sentence = refused("finetune", data, "--steps", 3, "--out", tmp_path / "other", *model)
        assert gist in sentence, sentence


def test_synthetic_chests_are_a_set_with_findings(nearl, tmp_path):
    out = tmp_path / "made"
    assert nearl("phantoms", "thorax", "--out", out, "--train", 3, "--test", 1)[0] == 0
    with (out / "labels.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "split", *ALL] and len(rows) == 4
    train, test = resolve_splits(out, findings=True)
    assert isinstance(train, FindingsSet) and (len(train), len(test)) == (3, 1)
    prompts = PromptSet.from_dict(train.prompts)
    assert list(prompts.findings) == train.findings == list(ALL) and prompts.rules
    assert not train.problems
