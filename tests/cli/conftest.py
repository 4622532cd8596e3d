"""Running commands in this process, and what they work on."""

import pytest

from nearl.cli.main import main
from nearl.data.phantoms.kinds import write_phantom_folder


@pytest.fixture
def nearl(capsys):
    """Run a command in this process -> (exit status, stdout, stderr)."""

    def run(*words):
        status = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def refused(nearl):
    """Run a command that must be refused -> its one sentence."""

    def run(*words):
        status, out, err = nearl(*words)
        assert status == 2 and out == ""
        assert "Traceback" not in err
        sentence = err.strip().splitlines()[-1]
        assert sentence.startswith("nearl: ") and sentence.endswith((".", "?"))
        return sentence

    return run


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "smear"
    write_phantom_folder(folder, "smear", train=6, test=4, seed=0, size=64)
    return folder


@pytest.fixture(scope="session")
def model(checkpoints):
    return "--backbone", f"local-dir:{checkpoints('clip')}"


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, data, model):
    out = tmp_path_factory.mktemp("cli") / "adapter"
    main(["finetune", str(data), "--shots", "4", "--seed", "0", "--steps", "3", "--out", str(out), *model, "--json"])
    return out
