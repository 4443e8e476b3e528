"""``nas-optuna export``: a trained network as files that work without this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nas_optuna.cli import options
from nas_optuna.cli.options import TrustedStudyOptions, option
from nas_optuna.cli.printing import print_json, print_table, refuse_stdout, say
from nas_optuna.errors import SpecError

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from nas_optuna.execution.finished_network import FinishedNetwork
    from nas_optuna.execution.search import Search
    from nas_optuna.export import Exported
    from nas_optuna.export.int8 import EightBits


def export(
    out: Annotated[Path, option("A new or empty folder.", "DIR")],
    stored: TrustedStudyOptions,
    trial: options.Trial = "best",
    network: Annotated[Path | None, option("The file that retrain wrote for it.", "FILE")] = None,
    int8: Annotated[
        bool, option("Also write model.int8.onnx, and measure what eight bits cost and bring.", None, "--int8")
    ] = False,
    data: options.MovedData = None,
    json: options.Json = False,
) -> None:
    """Write a trial's network as PyTorch source, ONNX, torch.export program and weights.

    The weights are those that retrain wrote for this trial (STUDY-trial-N.safetensors in this folder, or --network), or
    else those that were kept of it; their test accuracy is what the file itself says. All files are compared on 100
    images before they are put in place.
    """
    from nas_optuna.export import export_network
    from nas_optuna.report.drawing import draw_trial
    from nas_optuna.report.selection import choose

    refuse_stdout(out)
    experiment, study = stored.experiment(data, device="cpu")
    if experiment.data is None:
        raise SpecError(
            f"study {stored.study!r} trains with an evaluator of its own, so nas-optuna does not know its weights;"
            " export them in your own code with nas_optuna.export.export_network"
        )
    search, chosen = experiment.search, choose(study, trial, stored.data_dir)
    found = _found(stored.url, study, search, chosen, network)
    exported = export_network(
        found.classifier,
        out,
        search.data.validation.images,
        title=f"{search.data.name}: {found.classifier.architecture}",
        facts=found.facts,
        drawing=draw_trial(search.space, chosen).svg,
        eight_bits=_eight_bits(search, found, stored.data_dir) if int8 else None,
        say=say,
    )
    if json:
        print_json({"trial": chosen.number, **exported.to_dict()})
    else:
        say(f"exported trial {chosen.number} to {out}: {', '.join(exported.files)}")
        _print(exported, found)


def _found(url: str, study: optuna.Study, search: Search, chosen: FrozenTrial, network: Path | None) -> FinishedNetwork:
    """The network of a trial, from the file that is named or from where retrain and run keep them."""
    from nas_optuna.execution.finished_network import find_network, retrained_network
    from nas_optuna.study.files import holding
    from nas_optuna.study.studies import checkpoint_folder, file_name
    from nas_optuna.training.checkpoint import KEPT_FOLDER, KeptWeights

    if network is not None:
        return retrained_network(study, search, chosen, network)
    name = study.study_name
    files = holding(url, study, f"{KEPT_FOLDER}/trial-{chosen.number}.safetensors")
    kept = KeptWeights(checkpoint_folder(files, name) / KEPT_FOLDER)
    found = find_network(study, search, chosen, Path(f"{file_name(name)}-trial-{chosen.number}.safetensors"), kept)
    if found.remark:
        say(found.remark)
    return found


def _print(exported: Exported, found: FinishedNetwork) -> None:
    for name, reason in exported.left_out.items():
        say(f"{name} was not written: {reason}")
    say(f"Their logits differ by at most {exported.difference:.1e} on {exported.images} images.")
    for name, fact in found.facts.items():
        say(f"{name}: {fact}")
    small = exported.int8
    if small is None:
        return
    said = "test" if found.retrained else "validation"
    print_table(
        f"eight bits: {said} accuracy on {small.images:,} images, and one image on this machine with one thread",
        ("", "accuracy", "size", "latency"),
        [
            (name, f"{f.accuracy:.4f}", f"{f.bytes / 1024:,.0f} KiB", f"{f.latency_ms:.3f} ms")
            for name, f in (("model.onnx", small.fp32), ("model.int8.onnx", small.int8))
        ],
    )
    if small.culprit:
        say(f"Most of what is lost is lost in layer {small.culprit}.")


def _eight_bits(search: Search, found: FinishedNetwork, data_dir: Path | None) -> EightBits:
    """Training images to calibrate on, and images that the network was not trained on."""
    from nas_optuna.data import load_test_images
    from nas_optuna.export.int8 import EightBits

    data = search.data
    held_out = data.validation
    if found.retrained:
        size = search.spec.recipe.input_size
        held_out = load_test_images(search.spec.data, data.train, data_dir, input_size=size)
    return EightBits(data.train.images, held_out.images, held_out.labels)
