"""The benchmark for a GPU runs without one, on a small model; or says in a sentence that there is none."""

import gc
import json
import shutil

from benchmarks import gpu


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_every_part_of_it_runs_on_a_cpu(checkpoints, tmp_path, capsys):
    """Also without the model's tokenizer, which may be on a hub."""
    shutil.copytree(checkpoints("biomedclip"), tmp_path / "model", ignore=shutil.ignore_patterns("*token*", "vocab*"))
    models = [f"local-dir:{tmp_path / 'model'}"]
    gc.freeze()  # what earlier tests hold is not looked through at each of its collections
    assert gpu.main(["--device", "cpu", "--quick", "--models", *models, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["model"] for row in result["correctness"]] == models and not result["left_out"]
    assert all(row["passed"] and row["orthogonality_bf16"] > 0 for row in result["correctness"])
    assert [(row["model"], row["batch"]) for row in result["cost"]] == [(m, b) for m in models for b in (1, 2)]
    assert all(row["nearl_step_ms"] > 0 and row["nearl_announced_mib"] > 0 for row in result["cost"])
    assert len(result["maps"]) == len(result["compile"]) == 1
    assert (tmp_path / "gpu.md").read_text() in capsys.readouterr().out


def test_a_failure_of_one_part_leaves_the_others(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "cost", lambda *given: 1 / 0)
    monkeypatch.setattr(gpu, "correctness", lambda name, device: {"model": name, "passed": True})
    monkeypatch.setattr(gpu, "compiled", lambda *given: {"model": "one"})
    models = (f"local-dir:{checkpoints('clip')}",)
    result = gpu.measure("cpu", models, (1,), 1, "eager")
    assert ["ZeroDivisionError" in line for line in result["left_out"]] == [True] and result["maps"]
    assert "Left out" in gpu.markdown(result)
