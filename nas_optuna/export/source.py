"""A network's layers as the source of a class in plain torch.

The network is traced symbolically (``torch.fx``): torch's modules become attributes, and everything else, including
the code of other modules, becomes lines of ``forward``.
"""

from __future__ import annotations

import inspect
import keyword
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from nas_optuna.errors import describe_error

_OPERATORS = {
    operator.add: "+",
    operator.iadd: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.imul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.matmul: "@",
}
_WINDOWS = ("kernel_size", "stride", "padding", "output_padding", "dilation")
_VARIABLES = "xyzuvwabcdefghijklmnopqrst"


class NotWritable(Exception):  # noqa: N818 - not an error, since the other files are still written
    """The network cannot be written in one of the forms; the message says why in one line."""


@dataclass(frozen=True)
class NetworkSource:
    """A network as source.

    Attributes:
        layers: Lines of ``__init__``, without indentation.
        steps: Lines of ``forward``, without indentation; the input is ``x``.
    """

    layers: tuple[str, ...]
    steps: tuple[str, ...]


def write_source(network: nn.Module, example: Tensor) -> NetworkSource:
    """Write out a network.

    Examples:
        >>> source = write_source(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), torch.zeros(1, 4))
        >>> source.layers
        ('self.layer0 = nn.Linear(4, 2)', 'self.layer1 = nn.ReLU()')
        >>> source.steps
        ('x = self.layer0(x)  # [2]', 'x = self.layer1(x)  # [2]', 'return x')
    """
    try:
        traced = fx.symbolic_trace(network)
        with torch.no_grad():
            ShapeProp(traced).propagate(example)
    except Exception as error:  # of a user's network, too
        raise NotWritable(f"its code cannot be traced: {describe_error(error)}") from error
    return NetworkSource(tuple(_layers(traced)), tuple(_steps(traced)))


def attribute(path: str) -> str:
    """The attribute for a module or parameter of a dotted path; `script` loads weights by the same rule.

    Examples:
        >>> attribute("0.conv"), attribute("head.1")
        ('layer0_conv', 'head_1')
    """
    name = path.replace(".", "_")
    name = f"layer{name}" if name[:1].isdigit() else name
    if not name.isidentifier() or keyword.iskeyword(name) or hasattr(nn.Module(), name) or name in ("x", "self"):
        raise NotWritable(f"{path[:60]!r} cannot be the name of a layer")
    return name


def _layers(traced: fx.GraphModule) -> Iterator[str]:
    written: dict[str, str] = {}
    for node in traced.graph.nodes:
        if node.op not in ("call_module", "get_attr") or node.target in written.values():
            continue
        name = attribute(node.target)
        if name in written:
            raise NotWritable(f"{node.target!r} and {written[name]!r} would have one name")
        written[name] = node.target
        if node.op == "call_module":
            yield f"self.{name} = {constructor(traced.get_submodule(node.target))}"
        else:
            yield _own_tensor(traced, name, node.target)


def _own_tensor(traced: fx.GraphModule, name: str, path: str) -> str:
    owner, _, last = path.rpartition(".")
    value = getattr(traced.get_submodule(owner), last)
    if not isinstance(value, Tensor) or path not in traced.state_dict():
        raise NotWritable(f"{path[:60]!r} is not a part of its weights")
    made = f"torch.empty({', '.join(map(str, value.shape)) or '()'}, dtype={value.dtype})"
    if isinstance(value, nn.Parameter):
        return f"self.{name} = nn.Parameter({made})"
    return f'self.register_buffer("{name}", {made})'


def constructor(module: nn.Module) -> str:
    """The expression that makes a torch module like this one, except for its weights.

    Examples:
        >>> constructor(nn.Conv2d(1, 8, (3, 3), padding=1, bias=False))
        'nn.Conv2d(1, 8, 3, padding=1, bias=False)'
    """
    kind = type(module)
    if getattr(nn, kind.__name__, None) is not kind:
        raise NotWritable(f"{kind.__name__} is not one of torch.nn's layers")
    arguments, positional = [], True
    for name, parameter in _parameters(kind).items():
        if name in ("self", "device", "dtype", "args", "kwargs"):
            continue
        if not hasattr(module, name):
            if parameter.default is inspect.Parameter.empty:
                raise NotWritable(f"{kind.__name__} does not tell its {name}")
            continue
        value = getattr(module, name)
        value = value is not None and value is not False if name == "bias" else _simple(name, value)
        if parameter.default is not inspect.Parameter.empty and value == _simple(name, parameter.default):
            positional = False
            continue
        positional = positional and parameter.default is inspect.Parameter.empty
        arguments.append(_value(value) if positional else f"{name}={_value(value)}")
    expression = f"nn.{kind.__name__}({', '.join(arguments)})"
    try:
        made = eval(expression, {"nn": nn, "torch": torch})  # our own expression of plain values
    except Exception as error:  # an attribute with an argument's name has another meaning
        raise NotWritable(f"{kind.__name__} does not tell how it was made") from error
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (made, module)]
    if shapes[0] != shapes[1]:
        raise NotWritable(f"{kind.__name__} was changed after it was made")
    return expression


def _parameters(kind: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """The arguments of a layer's class, including those that it passes on."""
    found = dict(inspect.signature(kind.__init__).parameters)
    if issubclass(kind, nn.RNNBase):
        found = dict(inspect.signature(nn.RNNBase.__init__).parameters)
        del found["mode"]  # the class implies it
        if kind is nn.RNN:
            word = inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh")
            found["nonlinearity"] = word
    return found


def _simple(name: str, value: Any) -> Any:
    """``3`` for ``(3, 3)``, as people write it."""
    if name in _WINDOWS and isinstance(value, tuple) and value and all(v == value[0] for v in value):
        return value[0]
    return value


def _value(value: Any) -> str:
    if isinstance(value, bool | int | str | None | torch.dtype):
        return repr(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, float):
        return f'float("{value}")'
    if isinstance(value, slice):
        return f"slice({_value(value.start)}, {_value(value.stop)}, {_value(value.step)})"
    if value is Ellipsis:
        return "..."
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, fx.Node):
        raise AssertionError("nodes are named by the caller")
    raise NotWritable(f"a {type(value).__name__} is among its values")


def _steps(traced: fx.GraphModule) -> Iterator[str]:
    """One line per operation; a variable is reused when its value is no longer needed."""
    nodes = list(traced.graph.nodes)
    last = {used: place for place, node in enumerate(nodes) for used in node.all_input_nodes}
    names: dict[fx.Node, str] = {}
    free = list(_VARIABLES)
    for place, node in enumerate(nodes):
        if node.op == "get_attr":
            names[node] = f"self.{attribute(node.target)}"
            continue
        if node.op == "output":
            yield f"return {_argument(node.args[0], names)}"
            return
        expression = "x" if node.op == "placeholder" else _expression(traced, node, names)
        free += [names[used] for used in node.all_input_nodes if last[used] == place and len(names[used]) == 1]
        free.sort(key=_VARIABLES.index)
        if not free:
            raise NotWritable("too many of its values are needed at once")
        names[node] = free.pop(0)
        if node not in last and node.op != "placeholder":
            free.append(names[node])
        if node.op != "placeholder":
            yield f"{names[node]} = {expression}{_shape_comment(node)}"


def _shape_comment(node: fx.Node) -> str:
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return f"  # {list(shape[1:])}" if shape is not None and len(shape) > 1 else ""


def _expression(traced: fx.GraphModule, node: fx.Node, names: Mapping[fx.Node, str]) -> str:
    values = [_argument(value, names) for value in node.args]
    if node.op == "call_module":
        called = f"self.{attribute(str(node.target))}"
        return _call(called, values, dict(node.kwargs), names)
    if node.op == "call_method":
        return _call(f"{values[0]}.{node.target}", values[1:], dict(node.kwargs), names)
    target: Any = node.target
    if target in _OPERATORS and len(values) == 2:
        return f"{values[0]} {_OPERATORS[target]} {values[1]}"
    if target is operator.getitem:
        return f"{values[0]}[{values[1]}]"
    if target is getattr and isinstance(node.args[1], str) and node.args[1].isidentifier():
        return f"{values[0]}.{node.args[1]}"
    if target is operator.neg:
        return f"-{values[0]}"
    return _call(_function(target), values, _not_defaults(target, node.kwargs), names)


def _call(called: str, values: list[str], keywords: Mapping[str, Any], names: Mapping[fx.Node, str]) -> str:
    return f"{called}({', '.join([*values, *(f'{k}={_argument(v, names)}' for k, v in keywords.items())])})"


def _argument(value: Any, names: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, tuple):
        inner = [_argument(v, names) for v in value]
        return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(_argument(v, names) for v in value)}]"
    if isinstance(value, slice):
        return f"slice({', '.join(_argument(v, names) for v in (value.start, value.stop, value.step))})"
    return _value(value)


def _function(target: Any) -> str:
    name = str(getattr(target, "__name__", ""))
    for prefix, module in (("F", F), ("torch", torch)):
        for candidate in (name, "max_pool2d", "adaptive_max_pool2d"):  # in F, the last two have other names
            if candidate and getattr(module, candidate, None) is target:
                return f"{prefix}.{candidate}"
    raise NotWritable(f"it calls {name[:60] or 'something'!r}, which is not a function of torch")


def _not_defaults(target: Any, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords whose values are not the defaults."""
    plain = next((f for f in (getattr(F, f"_{_function(target)[2:]}", None), target) if f is not None), target)
    try:
        parameters = inspect.signature(plain).parameters
    except (ValueError, TypeError):
        return dict(keywords)
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    return {
        name: value
        for name, value in keywords.items()
        if isinstance(value, fx.Node) or name not in defaults or value != defaults[name]
    }
