"""An export format of somebody else's, one function and an entry point, is written and compared as ours are."""

import json
from pathlib import Path

from tests.helpers import Command, Installed, tiny

PARTS = '''
import torch


def halved(classifier, images, path, title):
    classifier.half()
    images.zero_()
    torch.save(classifier, path)
    return classifier


def silent(classifier, images, path, title):
    return classifier


def folder(classifier, images, path, title):
    (path / "part").mkdir(parents=True)
    return classifier


def leaving(classifier, images, path, title):
    raise SystemExit("no licence")


def pickled(classifier, images, path, title):
    """A pickle: torch.load reads it, with weights_only=False."""
    torch.save(classifier, path)
    return torch.load(path, weights_only=False)


def wrong(classifier, images, path, title):
    """Never right."""
    path.write_text(title)
    return lambda raw: classifier(raw) + 1


def broken(classifier, images, path, title):
    raise KeyError("no such layer")
'''


def test_a_format_from_outside(command: Command, installed: Installed) -> None:
    names = {f"model.{name}": f"parts:{name}" for name in ("halved", "silent", "folder", "leaving")}
    names |= {"model.pt": "parts:pickled", "model.wrong": "parts:wrong", "model.broken": "parts:broken"}
    installed(PARTS, {"nas_optuna.formats": names})
    assert command("run", "--sampler", "random", "--trials", 1, "--keep-weights", "all", *tiny()).code == 0
    found = command("export", "--out", "model", "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert "model.pt" in told["files"]
    assert Path("model/model.pt").is_file()
    assert "its logits differ by 1.0e+00" in told["left_out"]["model.wrong"]
    assert told["left_out"]["model.broken"].startswith("KeyError: 'no such layer' (parts.py:")
    assert told["left_out"]["model.leaving"].startswith("SystemExit: no licence (parts.py:")
    for name in ("model.silent", "model.folder"):
        assert told["left_out"][name] == "its format wrote no file of this name"
    assert "model.halved" in told["left_out"], "and what it has done to the network reaches no other form"
    readme = Path("model/README.md").read_text()
    assert "## model.pt\n\nA pickle: torch.load reads it" in readme
    assert not Path("model/model.wrong").exists()
    assert command("export", "--out", "model").code == 0, "an export is replaced whole"
