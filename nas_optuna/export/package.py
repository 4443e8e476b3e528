"""Write a trained network in every form, and check that all of them say the same."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_optuna.errors import DataError
from nas_optuna.export.int8 import FILE as INT8
from nas_optuna.export.int8 import EightBits, Int8Export, write_int8
from nas_optuna.export.readme import READER, write_readme
from nas_optuna.export.script import write_reader, write_script
from nas_optuna.export.source import NotWritable, write_source
from nas_optuna.training import ImageClassifier
from nas_optuna.training.serialization import write_network

TOLERANCE = 1e-5
"""The most that logits of two forms may differ, relative to the largest of them where that is above 1."""

CHECKED_IMAGES = 100

MARK = ".nas-optuna-export"
"""The file by which a folder is known as an earlier export; it lists the files that may be replaced."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        files: Names of the files.
        left_out: Names of the files that were not written, each with the reason in one line.
        images: How many images all forms were compared on.
        difference: The largest difference between their logits.
        int8: What eight bits cost and bring, where they were wanted.
    """

    folder: Path
    files: tuple[str, ...]
    left_out: Mapping[str, str]
    images: int
    difference: float
    int8: Int8Export | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        facts = {"folder": str(self.folder), "files": list(self.files), "left_out": dict(self.left_out)}
        small = {"int8": self.int8.facts} if self.int8 else {}
        return {**facts, "images": self.images, "difference": self.difference, **small}


class _NotMade(Exception):  # noqa: N818 - not an error: the other files are written without it
    """One form cannot be made; the message says why."""


def export_network(
    classifier: ImageClassifier,
    folder: Path,
    images: Tensor,
    *,
    title: str,
    facts: Mapping[str, str],
    drawing: str | None = None,
    eight_bits: EightBits | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write ``model.safetensors``, ``model.py``, ``model.pt2``, ``model.onnx``, ``picture.py`` and ``README.md``.

    Each network is run on the images and compared before it is kept. What cannot be made is left out, with the reason.

    Args:
        classifier: The network, on the CPU.
        folder: Where; it is made, and must be empty or an earlier export; files that were added to one stay.
        images: Raw ones to compare on, ``[n, channels, height, width]``, uint8; at most `CHECKED_IMAGES` are used.
        title: What it is, in one line.
        facts: What a reader should know of it, e.g. its accuracy, by name.
        drawing: The network as SVG, written as ``drawing.svg``.
        eight_bits: Images to write ``model.int8.onnx`` by, where that is wanted.
        say: Told what is being done, a line at a time: large networks take minutes.

    Raises:
        DataError: The folder cannot be written to, or holds something else.
        SpecError: Eight bits are wanted, and the network cannot be quantised.

    Examples:
        A trained network is exported in one line::

            exported = export_network(classifier, Path("model"), images, title="Digits", facts={})
            exported.files  # ('model.safetensors', 'model.py', 'model.pt2', 'model.onnx', 'picture.py', 'README.md')
    """
    ours = _files_of_ours(folder)
    classifier = classifier.eval()
    raw = images[:CHECKED_IMAGES].cpu()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that a rename suffices and nothing half-made is ever there.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
            written, left_out, largest = _write_forms(classifier, raw, Path(place), title, say)
            small = write_int8(Path(place), eight_bits) if eight_bits else None
            if small:
                written.append(INT8)
                facts = {**facts, f"accuracy of model.onnx and {INT8}": small.sentence}
            texts = {READER: write_reader(classifier)} if raw.shape[1] in (1, 3) else {}
            readme = write_readme(classifier, title, facts, [*written, *texts], left_out, len(raw))
            if drawing is not None:
                readme += "\n![The network](drawing.svg)\n"
                texts["drawing.svg"] = drawing
            texts["README.md"] = readme
            for name, text in texts.items():
                (Path(place) / name).write_text(text, encoding="utf-8")
            _publish(Path(place), folder, [*written, *texts], ours)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    return Exported(folder, (*written, *texts), left_out, len(raw), largest, small)


def _write_forms(
    classifier: ImageClassifier, raw: Tensor, place: Path, title: str, say: Callable[[str], None]
) -> tuple[list[str], dict[str, str], float]:
    """Write the network in every form that it can take, and run each."""
    with torch.inference_mode():
        expected = classifier(raw)
    forms: dict[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {
        "model.safetensors": lambda path: _weights(classifier, path),
        "model.py": lambda path: _script(classifier, raw, path, title),
        "model.pt2": lambda path: _program(classifier, raw, path),
        "model.onnx": lambda path: _onnx(classifier, raw, path),
    }
    left_out, largest = {}, 0.0
    for number, (name, make) in enumerate(forms.items(), start=1):
        say(f"{number}/{len(forms)}: {name}, compared on {len(raw)} images")
        try:
            largest = max(largest, _compared(make(place / name), raw, expected))
        except (_NotMade, NotWritable) as error:
            (place / name).unlink(missing_ok=True)
            left_out[name] = str(error)
    return [name for name in forms if name not in left_out], left_out, largest


def _files_of_ours(folder: Path) -> frozenset[str]:
    """The files of an earlier export, which may be replaced."""
    try:
        if not folder.is_dir():
            if folder.exists() or folder.is_symlink():
                raise DataError(f"{folder} is a file; choose another --out")
            return frozenset()
        if not any(folder.iterdir()):
            return frozenset()
        listed = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        listed = None
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    if not names:
        raise DataError(f"{folder} holds files that nas-optuna export did not write; choose an empty or a new folder")
    return frozenset(name for name in names if name == Path(name).name)


def _publish(place: Path, folder: Path, names: list[str], ours: frozenset[str]) -> None:
    """Move whole files to their places; what an earlier export wrote and this one does not goes."""
    folder.mkdir(exist_ok=True)
    if foreign := [name for name in names if name not in ours and os.path.lexists(folder / name)]:
        raise DataError(f"{folder / foreign[0]} was not written by nas-optuna export; choose another --out")
    (place / MARK).write_text(json.dumps(sorted({*names, *ours})), encoding="utf-8")
    os.replace(place / MARK, folder / MARK)  # first: a folder that is half replaced can be replaced again
    for name in names:
        os.replace(place / name, folder / name)
    for name in ours - set(names):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


def _compared(run: Callable[[Tensor], Tensor], raw: Tensor, expected: Tensor) -> float:
    """The largest difference of logits, for the whole batch and for one image alone."""
    largest = 0.0
    scale = max(1.0, expected.abs().max().item())
    for count in dict.fromkeys((len(raw), 1)):
        try:
            with torch.inference_mode():
                found = run(raw[:count])
        except Exception as error:
            raise _NotMade(f"it does not run on {count} images ({_short(error)})") from error
        difference = (found - expected[:count]).abs().max().item()
        if found.shape != expected[:count].shape or not difference <= TOLERANCE * scale:
            raise _NotMade(f"its logits differ by {difference:.1e} from the network's on {count} images")
        largest = max(largest, difference)
    return largest


def _weights(classifier: ImageClassifier, path: Path) -> Callable[[Tensor], Tensor]:
    from safetensors.torch import load_file

    write_network(path, classifier.network, classifier.header)
    written = load_file(path)
    for name, value in classifier.network.state_dict().items():
        if not torch.equal(written[name], value.cpu()):
            raise _NotMade(f"its {name} is not the network's")
    return classifier


def _script(classifier: ImageClassifier, raw: Tensor, path: Path, title: str) -> Callable[[Tensor], Tensor]:
    with torch.inference_mode():
        prepared = classifier.prepare(raw[:2])
    text = write_script(classifier, write_source(classifier.network, prepared), title)
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_loader("nas_optuna_exported_model", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    exec(compile(text, str(path), "exec"), module.__dict__)  # text that we wrote
    try:
        network: Callable[[Tensor], Tensor] = module.load()
    except Exception as error:
        raise _NotMade(f"it cannot load the weights ({_short(error)})") from error
    return network


def _program(classifier: ImageClassifier, raw: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    example = torch.cat([raw, raw])[:2]
    try:
        program = torch.export.export(classifier, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No complete tensor found")  # of views; the weights are on the CPU
            torch.export.save(program, path, extra_files={"classes.json": json.dumps(list(classifier.classes))})
        loaded: Any = torch.export.load(path).module()
    except Exception as error:
        raise _NotMade(f"torch.export cannot take the network ({_short(error)})") from error
    return lambda images: loaded(images)


def _onnx(classifier: ImageClassifier, raw: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise _NotMade("it needs two more packages: pip install 'nas-optuna[onnx]'") from None
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                classifier,
                (torch.cat([raw, raw])[:2],),
                str(path),
                dynamo=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes=axes,
            )
        model = onnx.load(str(path))
        header = classifier.header
        described = {"classes": json.dumps(list(classifier.classes)), "architecture": header.architecture}
        onnx.helper.set_model_props(model, described)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _NotMade(f"ONNX cannot take the network ({_short(error)})") from error
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
