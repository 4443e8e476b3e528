"""Define by run: a function that builds a network is a search space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nas_optuna.errors import ArchitectureError, NasOptunaError, SpecError, unknown
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spaces.base import Operation, Parameter, text_of
from nas_optuna.spaces.built import Task as Task
from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.layered import LayeredSpace
from nas_optuna.spaces.space_function import SpaceFunction as SpaceFunction
from nas_optuna.spaces.space_function import source_of
from nas_optuna.spaces.space_function import space as space
from nas_optuna.spaces.tracing import Answers, Decide, Tracer

if TYPE_CHECKING:
    from torch import nn

    from nas_optuna.spaces.shapes import Call

_PROBES = 16
"""Architectures that are tried before a function is refused because none of them works."""


class FunctionSpace(LayeredSpace):
    """The space of a function that builds networks.

    Its parameters are all that the function asks for under some answers. A parameter that an architecture does not use
    has its first choice, so that equal networks are equal architectures and every sampler sees vectors of one length.

    An architecture is written ``width=32,depth=2,block0=conv3``: what its network asks for, in order.

    Args:
        function: What `space` made.
        task: What the networks are for.
        options: The function's own further arguments.
        pinned: Parameter name → its only choice.

    Raises:
        SpecError: The function cannot be run, returns no module, uses a name for two things, offers what no storage
            can keep, or none of its networks takes the images.

    Attributes:
        source: Digest of the file that the function stands in: results are reused while it is the same.
        layer_names: The parameters that are layers, which a supernet mixes.
        elastic_names: The parameters that are elastic widths, which a supernet mixes too; the others are values.
    """

    sequential = False  # a network's memory does not follow from its layers'
    draws_weights = False

    def __init__(
        self,
        function: SpaceFunction,
        task: Task,
        options: Mapping[str, Any],
        pinned: Mapping[str, Choice] | None = None,
    ) -> None:
        self.name = function.build.__name__
        self.version = function.version
        self.source = source_of(function.build)
        super().__init__(function.build, task, options)
        self._function, self._pinned = function, dict(pinned or {})
        self._begin()

    def _begin(self) -> None:
        self._outputs: dict[Architecture, Any] = {}
        self._builders: dict[Operation, tuple[Architecture, Call | None]] = {}
        self.layer_names: set[str] = set()
        self.elastic_names: set[str] = set()
        self.tracer = Tracer(self._trace, self._pinned)
        self.tracer.discover()
        self.parameters = self.tracer.parameters
        for name in self._pinned:
            if name not in self.parameters:
                raise SpecError(unknown("parameter to fix:", name, self.parameters))
        self._probe()
        _ = self.reference  # a name that it gets wrong is refused now

    def _probe(self) -> None:
        """Refuse a function of which no network works; where some do, the others end their trials alone."""
        first: Exception | None = None
        for count, answers in enumerate(self.tracer.paths()):
            try:
                self.tried(self.architecture(answers))
                return
            except ArchitectureError as error:  # it asked for nothing new a moment ago
                raise SpecError(f"space {self.name!r}: {error}; and let it depend on its choices alone") from error
            except NasOptunaError:
                raise
            except Exception as error:
                first = first or error
            if count + 1 == _PROBES:
                break
        assert first is not None
        raise SpecError(f"space {self.name!r}: {_line(first)}") from first

    @cached_property
    def size(self) -> int:
        """How many architectures there are: exact, or an estimate where many parameters decide which others exist."""
        return self.tracer.size()

    @cached_property
    def reference(self) -> Architecture | None:
        """What ``@space(reference=…)`` names, with the space's fixed choices; None where its options exclude it."""
        named = self._function.reference
        if named is None:
            return None
        if callable(named):
            named = named(self._task, **self.options)
        params = {**named, **self._pinned}
        if self.options or self._pinned:  # they may leave out a part that the reference has
            params = {name: value for name, value in params.items() if name in self.parameters}
        try:
            self.require_known(params)
            given = {name: self.parameters[name].match(name, value) for name, value in params.items()}
            return self.architecture(self.tracer.trace(given))
        except ArchitectureError as error:
            if self.options:
                return None
            raise SpecError(f"space {self.name!r}: its reference: {error}") from error

    def fixed(self, values: Mapping[str, Choice]) -> FunctionSpace:
        """The space in which some parameters have one choice only; what can no longer be asked for is left out."""
        for name in values:
            if name not in self.parameters:
                raise SpecError(unknown("parameter to fix:", name, self.parameters))
        pinned = {name: self.parameters[name].typed(name, value) for name, value in values.items()}
        return FunctionSpace(self._function, self._task, self.options, {**self._pinned, **pinned})

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """The architecture of a params dict; what its network does not ask for may be left out."""
        self.require_known(params)
        given = {name: self.parameters[name].match(name, value) for name, value in params.items()}
        used = self.tracer.trace(given)
        for name in used:
            if name not in given:
                raise ArchitectureError(
                    f"parameter {name!r} has no value; choose one of {self.parameters[name].choices}"
                )
        chosen = {name: used.get(name, p.choices[0]) for name, p in self.parameters.items()}
        return Architecture(tuple(chosen.items()), self._written(used))

    def canonical(self, params: Mapping[str, Any]) -> dict[str, Choice]:
        """See `SearchSpace.canonical`."""
        used = self.tracer.trace({name: params[name] for name in self.parameters if name in params})
        return {name: used.get(name, parameter.choices[0]) for name, parameter in self.parameters.items()}

    @property
    def conditional(self) -> bool:
        """Whether some networks do not ask for every parameter."""
        return self.tracer.conditional

    def used(self, architecture: Architecture) -> Answers:
        """Those params that the architecture's network asks for, in that order."""
        return self.tracer.trace(architecture.params)

    def known(self, name: str, asked: Parameter) -> Parameter:
        """The space's parameter for a question of the function."""
        return self.tracer.parameter(name, asked)

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture, each once; only for small spaces."""
        return map(self.architecture, self.tracer.paths())

    def format(self, params: Mapping[str, Any]) -> str:
        """E.g. ``"width=32,depth=2,block0=conv3"``."""
        return self._written(self.tracer.trace(params))

    def _written(self, used: Answers) -> str:
        return ",".join(f"{_quote(name)}={_quote(self._text(name, value))}" for name, value in used.items()) or "fixed"

    def _text(self, name: str, value: Choice) -> str:
        written = [text_of(choice) for choice in self.parameters[name].choices]
        # "1" and 1 are written alike, unless the text keeps its quotes.
        return f'"{value}"' if isinstance(value, str) and written.count(value) > 1 else text_of(value)

    def parse(self, text: str) -> Architecture:
        """The architecture of a string such as ``"width=32,depth=2,block0=conv3"``, in any order."""
        names = {_quote(name): name for name in self.parameters}
        params: Answers = {}
        for part in text.strip().split(",") if text.strip() not in ("", "fixed") else ():
            written, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise ArchitectureError(f"{part!r} is not name=value; an architecture is written {self._example()}")
            if written not in names:
                raise ArchitectureError(unknown("parameter", written, names))
            name = names[written]
            choices = {_quote(self._text(name, choice)): choice for choice in self.parameters[name].choices}
            if value not in choices:
                raise ArchitectureError(f"{name} = {value!r} is outside its choices; choose one of {list(choices)}")
            params[name] = choices[value]
        architecture = self.architecture(params)
        if unused := params.keys() - self.used(architecture).keys():
            raise ArchitectureError(f"{text!r} gives {sorted(unused)[0]!r}, which its network does not ask for")
        return architecture

    def _example(self) -> str:
        return self._written(self.tracer.trace({}))

    def identity(self) -> dict[str, Any]:
        """Return what must not change while a study goes on: parameters, input, and the function's own options."""
        return {**super().identity(), **({"options": self.options} if self.options else {})}

    def build(self, architecture: Architecture) -> nn.Module:
        """The architecture's network."""
        if architecture not in self._outputs:
            self.tried(architecture)
        return self.build_with(Choices(self.decide(architecture)))

    def require_logits(self, architecture: Architecture | None = None) -> None:
        """See `SearchSpace.require_logits`."""
        from nas_optuna.spaces.shapes import not_logits

        if architecture is not None and architecture not in self._outputs:
            self.tried(architecture)
        for output in self._outputs.values() if architecture is None else [self._outputs[architecture]]:
            if problem := not_logits(output, self.classes):
                raise SpecError(f"space {self.name!r}: {problem}")

    def tried(self, architecture: Architecture) -> tuple[nn.Module, Choices, list[Call]]:
        """The network on meta tensors, the choices that built it, and how it used them on two images."""
        import torch

        from nas_optuna.spaces.shapes import try_out

        asked: Answers = {}
        choices = Choices(self.decide(architecture, asked))
        with _kept_random_state(), torch.device("meta"):
            network = self.build_with(choices)
        self.tracer.confirm(asked)
        calls, self._outputs[architecture] = try_out(network, choices.layers, self.input_shape)
        return network, choices, calls

    def build_with(self, choices: Choices) -> nn.Module:
        """Run the function with any `Choices`, on the current default device."""
        import torch
        from torch import nn

        on_meta = torch.get_default_device().type == "meta"
        try:
            made = self._build(choices, self._task, **self.options)
        except NasOptunaError:
            raise
        except Exception:
            if not on_meta:
                raise
            with torch.device("cpu"):  # what reads a value of a tensor while it builds cannot be built on meta
                made = self._build(choices, self._task, **self.options)
        if not isinstance(made, nn.Module):
            raise SpecError(f"space {self.name!r}: its function must return an nn.Module, not a {type(made).__name__}")
        _settle(made, self.input_shape)
        return made.to("meta") if on_meta else made

    def decide(self, architecture: Architecture, answers: Answers | None = None) -> Decide:
        """See `LayeredSpace.decide`."""
        params = architecture.params

        def decide(name: str, asked: Parameter) -> Choice:
            self.known(name, asked)
            if answers is not None:
                answers[name] = params[name]
            return params[name]

        return decide

    def _trace(self, decide: Decide) -> None:
        import torch

        choices = Choices(decide)
        try:
            with _kept_random_state(), torch.device("meta"):
                self.build_with(choices)
        except NasOptunaError:
            raise
        except Exception:  # one architecture's fault: its trial will say so
            return
        finally:
            self.layer_names.update(choices.layers)
            self.elastic_names.update(choices.elastics)

    def __getstate__(self) -> dict[str, Any]:
        """Without what tracing found: another process finds it again."""
        return {
            k: v
            for k, v in vars(self).items()
            if k not in ("tracer", "_outputs", "_build", "_builders", "parameters", "reference")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._build = self._function.build
        self._begin()


@contextmanager
def _kept_random_state() -> Iterator[None]:
    """Leave torch's global generator as it was, whatever a function draws."""
    import torch

    with torch.random.fork_rng(devices=[]):
        yield


def _settle(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Give lazy modules their shapes, which they take from a first batch."""
    import torch
    from torch.nn.parameter import is_lazy

    from nas_optuna.spaces.shapes import blaming

    lazy = [p for p in [*network.parameters(), *network.buffers()] if is_lazy(p)]
    if lazy:
        was_training = network.training
        with torch.no_grad(), blaming(network):
            network.eval()(torch.zeros(2, *shape, device=lazy[0].device))
        network.train(was_training)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    shown = text if type(error) is RuntimeError else f"{type(error).__name__}: {text}"
    return shown if len(shown) <= 240 else f"{shown[:239]}…"


def _quote(text: str) -> str:
    """Percent-encode what separates, and blanks and control characters."""
    return "".join(f"%{ord(c):02X}" if c in "%,=" or c.isspace() or not c.isprintable() else c for c in text)
