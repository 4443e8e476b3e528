"""Define by run: a function that builds a network is a search space."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from nas_optuna.digests import hex_digest
from nas_optuna.errors import ArchitectureError, NasOptunaError, SpecError, unknown
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spaces.base import (
    InputSize,
    Operation,
    Parameter,
    Shape,
    checked_input_size,
    require_positive,
    text_of,
)
from nas_optuna.spaces.built import Build, BuiltSpace
from nas_optuna.spaces.built import Task as Task
from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.tracing import Answers, Decide, Tracer

if TYPE_CHECKING:
    from torch import nn

    from nas_optuna.spaces.shapes import Call

_PROBES = 16
"""Architectures that are tried before a function is refused because none of them works."""
_OWN_WEIGHTS = "own weights"
"""In the digest of a function's file, because earlier releases drew its networks' weights anew: other results."""
_MAX_VALUES = 64
"""Choices of values for which the layers of a space are listed."""
_MAX_LABELS = 256
"""Choices of layers that belong together for which they are listed."""


Reference = Mapping[str, Choice] | Callable[..., Mapping[str, Choice]]
"""Params, or a function ``(task, **options)`` that gives them."""


class SpaceFunction:
    """A function ``(choices, task, **options) -> nn.Module`` that has become a search space; made by `space`.

    Called with `in_channels`, `classes`, `input_size` and the function's own options, it gives a `FunctionSpace`.
    """

    def __init__(self, build: Build, version: int, reference: Reference | None = None) -> None:
        functools.update_wrapper(self, build)
        self.build = build
        self.version = version
        self.reference = reference
        own = list(inspect.signature(build).parameters.values())[2:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        figures = [inspect.Parameter(name, keyword) for name in ("in_channels", "classes", "input_size")]
        options = [p if p.kind is p.VAR_KEYWORD else p.replace(kind=keyword) for p in own]
        self.__signature__ = inspect.Signature(sorted([*figures, *options], key=lambda p: p.kind))

    def __call__(self, *, in_channels: int, classes: int, input_size: InputSize, **options: Any) -> FunctionSpace:
        """The space for inputs of that shape.

        Raises:
            SpecError: See `FunctionSpace`.
        """
        require_positive(in_channels=in_channels, classes=classes)
        return FunctionSpace(self, Task(in_channels, classes, checked_input_size(input_size)), options)

    def __reduce__(self) -> str:
        return self.build.__qualname__  # pickled as a function is: by its name


@overload
def space(build: Build, /) -> SpaceFunction: ...
@overload
def space(*, version: int = 1, reference: Reference | None = None) -> Callable[[Build], SpaceFunction]: ...
def space(
    build: Build | None = None, /, *, version: int = 1, reference: Reference | None = None
) -> SpaceFunction | Callable[[Build], SpaceFunction]:
    """Make a function that builds a network a search space.

    The function is run with different answers to find its parameters, so that it must depend on its arguments alone.

    Args:
        build: Takes `nas_optuna.spaces.choices.Choices` and a `Task`, and returns a module from images
            ``[batch, channels, height, width]`` to logits ``[batch, classes]``. Further arguments are options that a
            spec may set.
        version: Raise it when the same choices give another network than before.
        reference: Params of the network that a search has to beat, e.g. ``{"width": 64, "depth": 3}``; a parameter that
            it leaves out has its first choice. Or a function ``(task, **options)`` that gives such params. It becomes
            the space's `SearchSpace.reference`.

    Example:
        >>> from torch import nn
        >>> @space
        ... def network(c, task):
        ...     layers = [nn.Flatten(), nn.LazyLinear(c.choice("units", [8, 16], ordered=True))]
        ...     for i in range(c.integer("depth", 0, 2)):
        ...         layers.append(c.layer(f"act{i}", {"relu": nn.ReLU, "silu": nn.SiLU}))
        ...     return nn.Sequential(*layers, nn.LazyLinear(task.classes))
        >>> made = network(in_channels=1, classes=10, input_size=8)
        >>> made.size, str(made.parse("units=16,depth=1,act0=silu"))
        (14, 'units=16,depth=1,act0=silu')
    """
    if build is None:
        return functools.partial(SpaceFunction, version=version, reference=reference)
    if not callable(build):
        raise SpecError(f"@space decorates a function (choices, task) -> nn.Module, got a {type(build).__name__}")
    return SpaceFunction(build, version, reference)


class FunctionSpace(BuiltSpace):
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
        self.source = _source(function.build)
        super().__init__(function.build, task, options)
        self._function, self._pinned = function, dict(pinned or {})
        self._begin()

    def _begin(self) -> None:
        self._outputs: dict[Architecture, Any] = {}
        self._builders: dict[Operation, tuple[Architecture, Call | None]] = {}
        self.layer_names: set[str] = set()
        self.elastic_names: set[str] = set()
        self._tracer = Tracer(self._trace, self._pinned)
        self._tracer.discover()
        self.parameters = self._tracer.parameters
        for name in self._pinned:
            if name not in self.parameters:
                raise SpecError(unknown("parameter to fix:", name, self.parameters))
        self._probe()
        _ = self.reference  # a name that it gets wrong is refused now

    def _probe(self) -> None:
        """Refuse a function of which no network works; where some do, the others end their trials alone."""
        first: Exception | None = None
        for count, answers in enumerate(self._tracer.paths()):
            try:
                self._tried(self.architecture(answers))
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
        return self._tracer.size()

    @cached_property
    def reference(self) -> Architecture | None:
        """What ``@space(reference=…)`` names, with the space's fixed choices; None where its options exclude it.

        Raises:
            SpecError: It names an unknown parameter or a value outside of its choices.
        """
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
            return self.architecture(self._tracer.trace(given))
        except ArchitectureError as error:
            if self.options:
                return None
            raise SpecError(f"space {self.name!r}: its reference: {error}") from error

    def fixed(self, values: Mapping[str, Choice]) -> FunctionSpace:
        """The space in which some parameters have one choice only; what can no longer be asked for is left out.

        Raises:
            SpecError: A name is no parameter, or a value is outside its choices.
        """
        for name in values:
            if name not in self.parameters:
                raise SpecError(unknown("parameter to fix:", name, self.parameters))
        pinned = {name: self.parameters[name].typed(name, value) for name, value in values.items()}
        return FunctionSpace(self._function, self._task, self.options, {**self._pinned, **pinned})

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """The architecture of a params dict; what its network does not ask for may be left out.

        Raises:
            ArchitectureError: A name is unknown, a value is outside its choices, or one that is asked for is missing.
        """
        self.require_known(params)
        given = {name: self.parameters[name].match(name, value) for name, value in params.items()}
        used = self._tracer.trace(given)
        for name in used:
            if name not in given:
                raise ArchitectureError(
                    f"parameter {name!r} has no value; choose one of {self.parameters[name].choices}"
                )
        chosen = {name: used.get(name, p.choices[0]) for name, p in self.parameters.items()}
        return Architecture(tuple(chosen.items()), self._written(used))

    def canonical(self, params: Mapping[str, Any]) -> dict[str, Choice]:
        """See `SearchSpace.canonical`."""
        used = self._tracer.trace({name: params[name] for name in self.parameters if name in params})
        return {name: used.get(name, parameter.choices[0]) for name, parameter in self.parameters.items()}

    @property
    def conditional(self) -> bool:
        """Whether some networks do not ask for every parameter."""
        return self._tracer.conditional

    def used(self, architecture: Architecture) -> Answers:
        """Those params that the architecture's network asks for, in that order."""
        return self._tracer.trace(architecture.params)

    def known(self, name: str, asked: Parameter) -> Parameter:
        """The space's parameter for a question of the function.

        Raises:
            ArchitectureError: Nothing had asked for it when the space was made.
            SpecError: It has other choices now.
        """
        return self._tracer.parameter(name, asked)

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture, each once; only for small spaces."""
        return map(self.architecture, self._tracer.paths())

    def format(self, params: Mapping[str, Any]) -> str:
        """E.g. ``"width=32,depth=2,block0=conv3"``."""
        return self._written(self._tracer.trace(params))

    def _written(self, used: Answers) -> str:
        return ",".join(f"{_quote(name)}={_quote(self._text(name, value))}" for name, value in used.items()) or "fixed"

    def _text(self, name: str, value: Choice) -> str:
        written = [text_of(choice) for choice in self.parameters[name].choices]
        # "1" and 1 are written alike, unless the text keeps its quotes.
        return f'"{value}"' if isinstance(value, str) and written.count(value) > 1 else text_of(value)

    def parse(self, text: str) -> Architecture:
        """The architecture of a string such as ``"width=32,depth=2,block0=conv3"``, in any order.

        Raises:
            ArchitectureError: It has another form, or names what its network does not ask for.
        """
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
        return self._written(self._tracer.trace({}))

    def identity(self) -> dict[str, Any]:
        """Return what must not change while a study goes on: parameters, input, and the function's own options."""
        return {**super().identity(), **({"options": self.options} if self.options else {})}

    def build(self, architecture: Architecture) -> nn.Module:
        """The architecture's network.

        Raises:
            RuntimeError: It cannot take the images; it names the layer and the shapes.
            Exception: Whatever the function raises.
        """
        if architecture not in self._outputs:
            self._tried(architecture)
        return self.build_with(Choices(self._decide(architecture)))

    def require_logits(self, architecture: Architecture | None = None) -> None:
        """See `SearchSpace.require_logits`."""
        from nas_optuna.spaces.shapes import not_logits

        if architecture is not None and architecture not in self._outputs:
            self._tried(architecture)
        for output in self._outputs.values() if architecture is None else [self._outputs[architecture]]:
            if problem := not_logits(output, self.classes):
                raise SpecError(f"space {self.name!r}: {problem}")

    def _tried(self, architecture: Architecture) -> tuple[nn.Module, Choices, list[Call]]:
        """The network on meta tensors, the choices that built it, and how it used them on two images."""
        import torch

        from nas_optuna.spaces.shapes import try_out

        asked: Answers = {}
        choices = Choices(self._decide(architecture, asked))
        with _kept_random_state(), torch.device("meta"):
            network = self.build_with(choices)
        self._tracer.confirm(asked)
        calls, self._outputs[architecture] = try_out(network, choices.layers, self.input_shape)
        return network, choices, calls

    def operations(self, architecture: Architecture) -> tuple[Operation, ...]:
        """Each use of a layer that was chosen, as it stands in its network, and the rest of the network.

        Raises:
            RuntimeError: As `build`.
            Exception: Whatever the function raises.
        """
        from nas_optuna.spaces.shapes import TensorSpec

        network, choices, calls = self._tried(architecture)
        params = architecture.params
        made: dict[Operation, tuple[Architecture, Call | None]] = {}
        found = []
        for call in calls:
            layer = choices.layers[call.name][call.place]
            several = "" if call.simple else f" {_digest(repr(call.inputs))}"
            kind = f"{params[call.name]} {_digest(repr(layer))}{several}"
            found.append(Operation(kind, (), call.input_shape, call.output_shape))
            made[found[-1]] = (architecture, call)
        rest = _digest(f"{_without(network, choices, calls)} {[call.outputs for call in calls]}")
        output = self._outputs[architecture]
        shape = output.shape if isinstance(output, TensorSpec) else ()
        found.append(Operation(f"rest {rest}", (), self.input_shape, shape))
        made[found[-1]] = (architecture, None)
        self._builders = {**made, **self._builders}
        return tuple(found)

    def reachable_operations(self) -> Iterator[Operation]:
        """Every layer in place and every rest: all values, and with each of them every label.

        Raises:
            SpecError: There are too many choices of values.
        """
        seen: dict[Operation, None] = {}
        tried: set[Architecture] = set()
        groups = self._tracer.independent([n for n in self.parameters if n in self.layer_names])
        for count, answers in enumerate(self._tracer.paths(lambda name: name not in self.layer_names)):
            if count == _MAX_VALUES:
                raise SpecError(
                    f"space {self.name!r} has more than {_MAX_VALUES} choices of values, too many to measure its"
                    " layers in each; pin some: --set 'space.fix={name = value}'"
                )
            for group in groups or [[]]:
                for labels in _combinations({name: self.parameters[name].choices for name in group}):
                    params = {**self._first(), **answers, **labels}
                    architecture = self.architecture(params)
                    if architecture not in tried:
                        tried.add(architecture)
                        seen.update(dict.fromkeys(self.operations(architecture)))
        yield from seen

    def part(self, params: Mapping[str, Choice], number: int) -> tuple[tuple[Operation, ...], Shape]:
        """See `BuiltSpace.part`; the network is one part."""
        return self.operations(self.architecture(params)), (self.classes,)

    def independent(self, names: Sequence[str]) -> list[list[str]]:
        """Groups of parameters of which none decides whether another group's are asked for."""
        return self._tracer.independent(names)

    def _first(self) -> Answers:
        return {name: parameter.choices[0] for name, parameter in self.parameters.items()}

    def build_operation(self, operation: Operation) -> nn.Module:
        """A layer of some network that has it, or such a network with stand-ins for its layers."""
        from nas_optuna.spaces.shapes import Alone

        if operation not in self._builders:
            list(self.reachable_operations())
        architecture, call = self._builders[operation]
        choices = Choices(self._decide(architecture))
        network = self.build_with(choices)
        if call is None:
            return _without(network, choices, self._tried(architecture)[2])
        layer = choices.layers[call.name][call.place]
        return layer if call.simple else Alone(layer, call.inputs)

    def build_with(self, choices: Choices) -> nn.Module:
        """Run the function with any `Choices`, on the current default device.

        Raises:
            SpecError: It returns no module.
            Exception: Whatever the function raises.
        """
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

    def _decide(self, architecture: Architecture, answers: Answers | None = None) -> Decide:
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
            if k not in ("_tracer", "_outputs", "_build", "_builders", "parameters", "reference")
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


def _source(function: Build) -> str:
    try:
        file = inspect.getsourcefile(function)
        text = Path(file).read_text(encoding="utf-8") if file else inspect.getsource(function)
    except (OSError, TypeError, ValueError):
        try:
            text = inspect.getsource(function)
        except (OSError, TypeError):
            text = ""
    return hex_digest(f"{text}{_OWN_WEIGHTS}")


def _digest(text: str) -> str:
    """Six hex digits that tell modules of different make apart."""
    return hex_digest(text, 6)


def _without(network: nn.Module, choices: Choices, calls: Sequence[Call]) -> nn.Module:
    """The network with stand-ins for the layers that were called."""
    from nas_optuna.spaces.shapes import without

    return without(network, [choices.layers[call.name][call.place] for call in calls], calls)


def _combinations(choices: Mapping[str, Sequence[Choice]]) -> Iterator[Answers]:
    """All choices of some parameters together; one by one where these are too many."""
    if math.prod(map(len, choices.values())) <= _MAX_LABELS:
        for values in itertools.product(*choices.values()):
            yield dict(zip(choices, values, strict=True))
    else:
        for name, several in choices.items():
            yield from ({name: value} for value in several)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    shown = text if type(error) is RuntimeError else f"{type(error).__name__}: {text}"
    return shown if len(shown) <= 240 else f"{shown[:239]}…"


def _quote(text: str) -> str:
    """Percent-encode what separates, and blanks and control characters."""
    return "".join(f"%{ord(c):02X}" if c in "%,=" or c.isspace() or not c.isprintable() else c for c in text)
