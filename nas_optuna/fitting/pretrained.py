"""Whether a fit begins with a pretrained network: the data decide, where weights are installed and no space is named.

With few photos a network that has seen millions of others is far ahead; with digits it is behind one of their size. So
a linear classifier of what it sees in some of the images is compared with the usual reference after a short training
(linear evaluation, as by Kornblith et al. 2019, "Do Better ImageNet Models Transfer Better?").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.data import BatchLoader, ImageSet
from nas_optuna.data.catalog import opened
from nas_optuna.data.images import stratified_order
from nas_optuna.devices import prepare_process
from nas_optuna.errors import DataError, Interrupted, SpecError, TrainingError
from nas_optuna.execution.reference import require_training
from nas_optuna.experiment import Experiment
from nas_optuna.fitting.clock import Load, Rung
from nas_optuna.fitting.equal_seconds import MARGIN, EqualSeconds, count_layers, time_network
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.backbone import LARGE, SIZES, at_hand
from nas_optuna.spec import StudySpec
from nas_optuna.spec_text import overridden, toml_value
from nas_optuna.study.significance import Measured
from nas_optuna.training import make_network
from nas_optuna.training.fit import never

SHARE, LONGEST = 0.04, 20.0
"""The share of the time and the most seconds that each of the two may take."""
READING = 0.1
"""The largest share of the time for reading images again, larger, and for finding what is inside limits."""
FEWEST, FOR_EACH_CLASS, MOST = 100, 4, 2000
"""Images from which the linear classifier learns."""
SEARCHING = 0.25
"""The largest share of a short time that the search takes for its one network."""
ENOUGH = 1300
"""Images that the network sees in training: they are as large as leaves time for so many. In a minute, of 1,500, 0.763
with 128 pixels, and 0.739 with 96."""
LEAST_SIDE = 96
"""It is not taken if its pictures would have to be smaller: in half a minute 0.53 with 64 pixels, 0.58 untrained."""
STEP = 4.0
"""Seconds of a training step, in forward passes of as many images; two thirds of the layers are frozen."""
SMALLEST = 16
"""Pixels a side of the smallest images for which a network that was pretrained on photos is considered."""


def may_begin_pretrained(spec: StudySpec, space: str | None, overrides: Sequence[str]) -> bool:
    """Whether nothing that the user names depends on the usual space."""
    sections = {key.partition(".")[0] for key in overridden(overrides)}
    free = space is None and sections.isdisjoint(("space", "supernet", "objectives"))
    return free and not (spec.reference or spec.fixed or spec.among or spec.latency.table)


def pretrained_experiment(
    usual: Experiment, spec: StudySpec, reading: float, seconds: float, say: Callable[[str], None], **settings: Any
) -> Experiment | None:
    """The experiment of the spec with a pretrained network, if that is ahead of the usual one after a short time.

    A pretrained network sees larger images: if those of the usual space were reduced in `reading` seconds, they are
    read again.
    """
    model, data, most = at_hand(), usual.search.data, usual.spec.data.max_side
    if model is None or min(usual.space.image_size) < SMALLEST:
        return None
    images = None if most is not None and max(data.train.images.shape[2:]) >= most else lambda: data
    if images is None and reading > READING * seconds:
        say("reading the pictures again, larger, for pretrained weights would take too long; --space backbone does")
        return None
    try:
        spec, began = spec.override([f"space.model={toml_value(model)}"]), time.monotonic()
        other = Experiment.from_spec(spec, **settings, images=images)
        if (side := min(other.space.image_size)) >= LARGE:  # of which a network that a limit cuts may need smaller ones
            read, images = other.search.data, lambda: read
            spec = spec.override([f"space.sizes={[*(size for size in SIZES if size <= 0.8 * side), side]}"])
            other = Experiment.from_spec(spec, **settings, images=images)
        until = time.monotonic() + READING * seconds
        if (first := other.candidates.reference(until)) is None:
            late = "it takes too long to find what is inside the limits; --space backbone does"
            why = late if time.monotonic() > until else f"no part of {model} that was tried is inside the limits"
            say(f"pretrained weights are left out: {why}")
            return None
        say(f"comparing pretrained weights ({model}) with a network that begins untrained")
        made = time.monotonic() - began  # another one may be made below
        stop = settings.get("interrupted", never)
        share = min(SHARE * seconds, LONGEST)
        each, layers = _time(other, first)
        with opened(spec.data, settings.get("data_directory")) as source:
            left = seconds - (time.monotonic() - began) - made - 2 * share - Load().reserve(layers)
            sizes = _sizes(other.space, first.params["input"], each, left, source.test_count)
        if not sizes:
            say("the time is too short to begin with pretrained weights")
            return None
        size, seen = _seen(other, first, sizes, share, stop)
        known = _trained(usual, share, stop)
    except (DataError, SpecError, TrainingError) as error:  # too little memory, other channels, damaged weights
        say(f"pretrained weights are left out: {error}")
        return None
    ahead = seen.accuracy - known.accuracy > math.hypot(seen.error, known.error)
    begins = "with the weights (--space residual begins untrained)" if ahead else "untrained"
    say(f"{seen} with pretrained weights, {known} after {share:.0f} s untrained; so the fit begins {begins}")
    if not ahead or size == first.params["input"]:
        return other if ahead else None
    why = "the time is short" if size == sizes[-1] else "it recognises more in them than in larger ones"
    say(f"the pretrained network sees pictures of {size} pixels a side: {why}")
    smaller = [each for each in sizes if each <= size]
    return Experiment.from_spec(spec.override([f"space.sizes={smaller}"]), **settings, images=images)


def _sizes(space: SearchSpace, largest: Any, each: float, seconds: float, tests: int) -> list[int]:
    """The sizes up to the one for whose training and test there is time; none if time is too short for any.

    `each` is seconds of a forward pass of one image of the largest size.
    """

    def seen(size: int) -> float:
        forward = each * (size / float(largest)) ** 2
        return ((1 - SEARCHING) * seconds - MARGIN * forward * tests) / (STEP * forward)

    known = [size for size in space.parameters["input"].choices if isinstance(size, int) and size <= largest]
    sizes = [size for size in known if seen(size) >= ENOUGH]
    return sizes if sizes and sizes[-1] >= min(LEAST_SIDE, largest) else []


def _seen(
    experiment: Experiment, first: Architecture, sizes: Sequence[int], seconds: float, stop: Callable[[], bool]
) -> tuple[int, Measured]:
    """The size in which images tell the network most, and the share of them that a linear classifier recognises."""
    # A network that a limit cuts sees less far, and so more of smaller images. A whole one learns more from large ones
    # than they tell it at first.
    known, images, found = dict(first.params), require_training(experiment.objective).data.train, dict[int, Measured]()
    images = images.subset(stratified_order(images.labels, 0)[:MOST])
    whole = known["blocks"] == experiment.space.parameters["blocks"].choices[-1]
    tried = [sizes[-1]] if whole else list(reversed(sizes))
    for size in tried:
        architecture = experiment.space.architecture(known | {"input": size})
        limit = math.inf if found else seconds / min(2, len(tried))
        features = _features(experiment, architecture, images, limit, stop)
        images = images.subset(range(len(features)))  # smaller sizes are compared on the same ones
        found[size] = Measured.on(len(images), leave_one_out_accuracy(features, images.labels))
    largest = found[sizes[-1]]
    best = max(found, key=lambda size: found[size].accuracy)
    size = best if found[best].accuracy > largest.accuracy + largest.error / 2 else sizes[-1]
    return size, found[size]


@torch.inference_mode()
def _features(
    experiment: Experiment, architecture: Architecture, images: ImageSet, seconds: float, stop: Callable[[], bool]
) -> Tensor:
    """What the last layer is given, ``[n, features]``: of all images, or of as many as are seen in so many seconds."""
    network, loader = _network(experiment, architecture, images)
    found: list[Tensor] = []
    fewest = max(FEWEST, FOR_EACH_CLASS * len(images.classes))
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, given: found.append(given[0].float().cpu()))
    began = time.monotonic()
    for batch, _ in loader.epoch():
        network(batch)
        if stop():
            raise Interrupted
        if sum(map(len, found)) >= fewest and time.monotonic() - began > seconds:
            break
    return torch.cat(found)


@torch.inference_mode()
def _time(experiment: Experiment, architecture: Architecture) -> tuple[float, int]:
    """Seconds of a forward pass of one image, and the number of layers."""
    network, loader = _network(experiment, architecture, require_training(experiment.objective).data.train)
    batch, _ = next(loader.epoch())
    times = []
    for _ in range(3):  # the first pass is slower
        began = time.monotonic()
        network(batch).sum().item()  # waits for the device
        times.append(time.monotonic() - began)
    return min(times) / len(batch), count_layers(network)


def _network(experiment: Experiment, architecture: Architecture, images: ImageSet) -> tuple[nn.Module, BatchLoader]:
    """The network with its weights, in evaluation mode, and a loader of the images."""
    training = require_training(experiment.objective)
    recipe = training.recipe
    prepare_process(training.device)
    network = make_network(experiment.space, architecture, recipe, training.device, recipe.seed).eval()
    return network, BatchLoader(images, recipe.batch_size, experiment.space.image_size, training.device)


def leave_one_out_accuracy(features: Tensor, labels: Tensor) -> float:
    """The share of samples ``[n, features]`` whose class ridge regression finds from all the others."""
    # In closed form (Hastie et al. 2009, section 7.10): without a sample, its residual is divided by 1 - leverage. The
    # leverage has the intercept's 1 / n, too: centred, a sample is minus the sum of all others, so they would tell its
    # class.
    scaled = (features - features.mean(0)) / (features.std(0, correction=0) + 0.01)
    products, classes = scaled @ scaled.T, F.one_hot(labels).float()
    hat = torch.linalg.solve(products + 0.1 * len(products) * torch.eye(len(products)), products) + 1 / len(products)
    leverage = hat.diagonal()[:, None]
    without = (hat @ classes - leverage * classes) / (1 - leverage)
    return float((without.argmax(1) == labels).float().mean())


def _trained(experiment: Experiment, seconds: float, stop: Callable[[], bool]) -> Measured:
    """The validation accuracy of the usual first network after so many seconds of training."""
    training, reference = require_training(experiment.objective), experiment.candidates.reference()
    if reference is None:  # no network near it is inside the limits
        return Measured(0.0, 0.0)
    alone = EqualSeconds(training, Rung(1, seconds), 0, time_network(training, reference).step, reference)
    try:
        *_, last = alone.evaluate(reference, resume=None, stop=stop)
    except Interrupted:
        raise Interrupted from None  # without the epoch, since this training does not go on
    return Measured.on(len(training.data.validation), last.metrics["accuracy"])
