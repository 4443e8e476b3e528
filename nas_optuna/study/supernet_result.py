"""What a supernet found, in the one form that is stored and that samplers, export, check and report read.

Every worker reads it from the study's user attributes, and nothing here needs the supernet itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study

from nas_optuna.errors import StudyError
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.spec import SupernetSpec
from nas_optuna.study.optuna_internals import all_trials, storage_of, study_id_of, study_user_attributes
from nas_optuna.study.schema import StudyKey, attributes_of, read_parts
from nas_optuna.study.studies import command
from nas_optuna.study.transactions import change_study, user_attribute

Tokens = tuple[int, ...]
"""The index of each parameter's choice, in the space's order."""
REACH = 3
"""The predictor looks at pairs of choices of parameters that are at most this many places apart."""

WIDER = 8
"""In a conditional space several choices can give one network, so this many times the wanted number are compared."""


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """``softmax(logits / temperature)``."""
    largest = max(logits)
    powers = [math.exp((x - largest) / temperature) for x in logits]
    return [p / sum(powers) for p in powers]


def entropy(logits: Sequence[float]) -> float:
    """Entropy of ``softmax(logits)`` in nats: 0 is decided, ``log(choices)`` undecided."""
    return sum(-p * math.log(p) for p in softmax(logits) if 0 < p < 1)  # -0.0 would be printed with its sign


@dataclass(frozen=True)
class Predictor:
    """A linear predictor of the supernet's score from the choices alone, for workers that have no weights."""

    # Its inputs are one indicator for each choice and one for each pair of choices of two parameters that are at most
    # `REACH` places apart: a layer's own parameters and those of the next.

    choices: Mapping[str, Sequence[Any]]  # by parameter, of what the supernet holds, in the space's order
    coefficients: NDArray[np.float64]  # [inputs]
    intercept: float

    def __call__(self, params: Sequence[Mapping[str, Any]]) -> list[float]:
        """Predict the score of each params dict: the higher, the better, in standard deviations."""
        # A parameter with a single choice may be left out, as Optuna's samplers leave it out.
        tokens = [
            [values.index(one[name]) if name in one and len(values) > 1 else 0 for name, values in self.choices.items()]
            for one in params
        ]
        inputs = indicators([len(values) for values in self.choices.values()], tokens)
        result: list[float] = (inputs @ self.coefficients + self.intercept).tolist()
        return result


def _open(choices: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    return {name: list(values) for name, values in choices.items() if len(values) > 1}


def indicators(sizes: Sequence[int], tokens: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """The predictor's inputs: ``[architectures, inputs]`` of zeros and ones."""
    index = np.asarray(tokens, dtype=np.int64).reshape(len(tokens), len(sizes))
    single = [np.eye(size)[index[:, i]] for i, size in enumerate(sizes)]
    pairs = [
        (single[i][:, :, None] * single[j][:, None, :]).reshape(len(index), -1)
        for i in range(len(sizes))
        for j in range(i + 1, min(i + 1 + REACH, len(sizes)))
    ]
    return np.concatenate([*single, *pairs], axis=1)


@dataclass(frozen=True)
class SupernetResult:
    """What a supernet found, as it is stored with its study."""

    alphas: Mapping[str, Sequence[float]]  # parameter name → logits, of every parameter of the study's space
    strategy: str = "fair"
    argmax: str = ""  # the architecture of the most probable choices, as text
    shared_accuracy: float | None = None  # of shared weights in it on validation images; None without shared weights
    best: str | None = None  # the best architecture by the score, as text; None if there is no score
    best_shared_accuracy: float | None = None
    starts: Sequence[Tokens] = ()  # the best that differ from each other, `best` first
    predictor: Predictor | None = None  # the score without the weights of the supernet; None if there is no score
    calibration_set: Sequence[tuple[Tokens, float]] = ()  # accuracies of the short trainings the score was fitted to
    score: Mapping[str, float] = field(default_factory=dict)  # its weights by feature
    score_trials: int = 0  # finished trials that it was fitted to
    score_short_trainings: int = 0  # short trainings that it was fitted to
    finalists: int | None = None  # how many of the best by the score were compared by short trainings
    epochs: int = 0  # of the shared weights
    seconds: float = 0.0  # for everything
    price: float | None = None  # everything in stand-alone trainings of the recipe; None if it was not measured
    expected_cost: float | None = None  # under the alphas, in `unit`
    unit: str = ""  # "ms", or "MMACs"
    costs: str = ""  # where costs are from, for a person
    stopped: str | None = None  # why the training ended early; None if it did not
    identity: str = ""  # digest of everything that decides the shared weights
    version: int = 1  # of the supernet's computation
    settings: Mapping[str, Any] = field(default_factory=dict)  # the [supernet] section
    fixed: Mapping[str, Any] = field(default_factory=dict)  # the study's pins, to whose part of the space it belongs
    listed: str = ""  # digest of the list that was ranked; empty without one, and of earlier releases
    first_trial: int = 0  # how many trials the study had when it was stored

    @property
    def derived(self) -> dict[str, int]:
        """Parameter name → index of the most probable choice: the argmax that everything reads."""
        return {name: max(range(len(logits)), key=logits.__getitem__) for name, logits in self.alphas.items()}

    def probabilities(self) -> dict[str, list[float]]:
        """Parameter name → ``softmax(alpha)``."""
        return {name: softmax(logits) for name, logits in self.alphas.items()}

    def most_probable(
        self, count: int, network: Callable[[dict[str, int]], Hashable] | None = None
    ) -> list[tuple[dict[str, int], float]]:
        """The most probable combinations of choices with their log probabilities, the argmax at their head.

        Those for which `network` gives the same count as one; it is also given the first few choices alone.
        """
        # What a network asks for later divides its probability, so more than `count` are kept on the way.
        kept = count if network is None else WIDER * count
        best: list[tuple[dict[str, int], float]] = [({}, 0.0)]
        for name, p in self.probabilities().items():
            logs = [math.log(x) if x > 0 else -math.inf for x in p]
            grown = [({**indices, name: i}, log + more) for indices, log in best for i, more in enumerate(logs)]
            if network is not None:
                joined: dict[Hashable, tuple[dict[str, int], float]] = {}
                for indices, log in grown:
                    same, before = joined.get(key := network(indices), (indices, -math.inf))
                    joined[key] = same, float(np.logaddexp(before, log))
                grown = list(joined.values())
            best = sorted(grown, key=lambda item: -item[1])[:kept]
        return best[:count]

    def start_params(self) -> list[dict[str, Any]]:
        """The params to start a search with, best first; empty if there is no score."""
        choices = self.predictor.choices if self.predictor else {}
        return [
            {name: values[i] for (name, values), i in zip(choices.items(), tokens, strict=True)}
            for tokens in self.starts
        ]

    def summary(self) -> dict[str, Any]:
        """Everything but the long lists, JSON-ready."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _LISTS}


_LISTS = ("alphas", "starts", "predictor", "calibration_set")


def write_result(study: Study, result: SupernetResult) -> None:
    """Store a result with its study, in as many attributes as it needs, and in one step, so that none is of another."""
    predictor = result.predictor
    # Nine digits tell any two 32-bit numbers apart, so that the argmax is the same before and after.
    alphas = [[name, [float(f"{x:.9g}") for x in logits]] for name, logits in result.alphas.items()]
    attributes: dict[str, Any] = {key: dict(part) for key, part in attributes_of(StudyKey.ALPHAS, alphas).items()}
    chunks = {"chunks": len(attributes)}
    if predictor is not None:
        numbers = [round(float(x), 3) for x in (predictor.intercept, *predictor.coefficients)]
        lists: dict[str, tuple[str, Sequence[Any]]] = {
            "score_chunks": (StudyKey.SCORE, numbers),
            "start_chunks": (StudyKey.STARTS, [list(map(int, tokens)) for tokens in result.starts]),
            "choice_chunks": (StudyKey.CHOICES, [[n, list(values)] for n, values in predictor.choices.items()]),
            "teacher_chunks": (StudyKey.TEACHERS, [[*map(int, t), a] for t, a in result.calibration_set]),
        }
        for name, (key, items) in lists.items():
            attributes |= (parts := attributes_of(key, items))
            chunks[name] = len(parts)
    attributes[StudyKey.SUPERNET] = {**result.summary(), "first_trial": len(all_trials(study)), **chunks}
    change_study(study, lambda known: attributes)


def disown_result(study: Study, identity: str) -> None:
    """Let a result of an identity stay, but no training take it for its own, since another one has begun."""
    summary = study_user_attributes(study).get(StudyKey.SUPERNET, {})
    if summary.get("identity") == identity:
        study.set_user_attr(StudyKey.SUPERNET, {**summary, "identity": ""})


def find_result(study: Study) -> SupernetResult | None:
    """The result that a study has, also one of release 0.2; None without any."""
    attributes = study_user_attributes(study)
    summary = attributes.get(StudyKey.SUPERNET)
    if summary is None:
        return None
    try:
        return _stored(attributes, summary)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        again = command(study, "supernet", "train", "--study", study.study_name)
        raise StudyError(
            f"the supernet of study {study.study_name!r} cannot be read; train it again: {again}"
        ) from None


def _stored(attributes: Mapping[str, Any], summary: Mapping[str, Any]) -> SupernetResult:
    alphas: dict[str, list[float]] = {}
    for i in range(summary["chunks"]):
        alphas |= attributes[f"{StudyKey.ALPHAS}{i}"]
    if not all(alphas.values()):
        raise ValueError("a parameter has no logits")
    known = {f.name: summary[f.name] for f in fields(SupernetResult) if f.name in summary}
    SupernetSpec.model_validate(known.get("settings", {}))  # which imports no strategy; its error is a ValueError
    if "score_chunks" in summary:
        intercept, *coefficients = read_parts(attributes, StudyKey.SCORE, summary["score_chunks"])
        choices = dict(read_parts(attributes, StudyKey.CHOICES, summary["choice_chunks"]))
        known["predictor"] = Predictor(choices, np.array(coefficients), intercept)
        known["starts"] = [tuple(t) for t in read_parts(attributes, StudyKey.STARTS, summary["start_chunks"])]
        taught = read_parts(attributes, StudyKey.TEACHERS, summary.get("teacher_chunks", 0))
        known["calibration_set"] = [(tuple(tokens), float(accuracy)) for *tokens, accuracy in taught]
    return SupernetResult(alphas=alphas, **known)


def read_result(study: Study) -> SupernetResult:
    """The result that a study has."""
    result = find_result(study)
    if result is None:
        raise StudyError(
            f"study {study.study_name!r} has no trained supernet;"
            f" run: {command(study, 'supernet', 'train', '--study', study.study_name)}"
        )
    return result


def first_trial(study: Study) -> int:
    """How many trials a study had when its supernet's result was stored, read without the rest; 0 if it has none."""
    summary = user_attribute(storage_of(study), study_id_of(study), StudyKey.SUPERNET)
    known = summary.get("first_trial") if isinstance(summary, Mapping) else None
    return known if isinstance(known, int) else 0


def find_predictor(study: Study, choices: Mapping[str, Sequence[Any]]) -> Predictor | None:
    """The predictor of a study's supernet; None if there is none, or it is of another space."""
    result = find_result(study)
    if result is None or result.predictor is None:
        return None
    # It tells nothing of what trials choose in the recipe, of what was pinned, and of what the pins left without use.
    searched, scored = _open(of_architecture(choices)), _open(result.predictor.choices)
    if result.fixed and all(len(result.alphas.get(name, ())) == len(values) for name, values in searched.items()):
        searched = {name: values for name, values in searched.items() if name in scored}
    return result.predictor if scored == searched else None
