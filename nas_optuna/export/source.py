"""A network's layers as the source of a class in plain torch.

The network is traced symbolically (``torch.fx``): torch's modules become attributes, and everything else, including
the code of other modules, becomes lines of ``forward``.
"""

from __future__ import annotations

import ast
import inspect
import keyword
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from nas_optuna.errors import describe_error

_KNOWN = frozenset({"torch", "device", "inf", "nan", "NoneType", "pytree", "fx_pytree"})
"""The names that ``torch.fx`` provides for its code; ``model.py`` imports those that the code of layers can need."""


_VALUE = re.compile(r"(?<![\w.])value\d+\b")  # not an attribute, such as the layer ``self.value1``


class NotWritable(Exception):  # noqa: N818 - not an error, since the other files are still written
    """The network cannot be written in one of the forms; the message says why in one line."""


def write_source(network: nn.Module, example: Tensor) -> tuple[list[str], list[str]]:
    """The lines of a network's ``__init__``, and those of its ``forward``, as ``torch.fx`` writes them.

    Examples:
        >>> layers, steps = write_source(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), torch.zeros(1, 4))
        >>> layers
        ['self.layer0 = nn.Linear(in_features=4, out_features=2)', 'self.layer1 = nn.ReLU()']
        >>> steps
        ['x = self.layer0(x)  # [2]', 'x = self.layer1(x)  # [2]', 'return x']
    """
    try:
        traced = _traced(network)
        with torch.no_grad():
            _Shapes(traced).run(example)
    except Exception as error:  # of a user's network, too
        raise NotWritable(f"its code cannot be traced: {describe_error(error)}") from error
    return list(_layers(traced)), list(_steps(traced))


class _OfImages(fx.Tracer):
    """Traces a network for one argument, the images; further ones have their defaults."""

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """The function to trace, and what it is called with."""
        _, *others = list(inspect.signature(root_fn).parameters.values())[1:]
        function, arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        if all(other.default is not inspect.Parameter.empty for other in others):
            return root_fn, arguments[:2]
        return function, arguments


def _traced(network: nn.Module) -> fx.GraphModule:
    tracer = _OfImages()
    graph = tracer.trace(network)
    images, *others = [node for node in graph.nodes if node.op == "placeholder"]
    images.target = images.target.lstrip("*")
    for node in others:
        if node.users:
            raise ValueError(f"forward uses {node.target}, and gets only images")
        graph.erase_node(node)
    return fx.GraphModule(tracer.root, graph)


class _Shapes(fx.Interpreter):
    """Notes the shape of each result; torch's own ``ShapeProp`` would print a traceback where one fails."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # or an error's message would end in a part of the graph

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(n)
        n.meta["shape"] = getattr(result, "shape", ())
        return result


def attribute(path: str) -> str:
    """The attribute for a dotted path, ``layer0_conv`` for ``0.conv``; `script` loads weights by the same rule."""
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
    """The expression that makes a torch module like this one: as it prints itself, with what it does not print."""
    kind = type(module)
    if getattr(nn, kind.__name__, None) is not kind:
        raise NotWritable(f"{kind.__name__} is not one of torch.nn's layers")
    printed = re.sub(r"=([a-z]\w*)", r"='\1'", f"nn.{module!r}")  # some print text without quotes
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    try:
        try:
            call: Any = ast.parse(printed, mode="eval").body
            given = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
            made = eval(printed, {"nn": nn})
        except Exception:  # it prints something else, e.g. its layers, as attention does; its attributes remain
            call, given, made = ast.parse(f"nn.{kind.__name__}()", mode="eval").body, {}, None
        for name in (*defaults, "nonlinearity"):  # a recurrent layer passes that on
            ours, theirs = (getattr(each, name, None) for each in (module, made))
            if name == "bias":
                ours, theirs = (value is not None and value is not False for value in (ours, theirs))
            if ours != theirs:
                given[name] = ours
        # Without defaults, which older releases of torch need not know.
        kept = {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}
        call.keywords = [ast.keyword(name, ast.Constant(value)) for name, value in kept.items()]
        expression = ast.unparse(call)
        made = eval(expression, {"nn": nn})
    except Exception as error:  # what it prints need not be what makes it
        raise NotWritable(f"{kind.__name__} does not tell how it was made") from error
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (made, module)]
    if shapes[0] != shapes[1]:
        raise NotWritable(f"{kind.__name__} was changed after it was made")
    return expression


def _steps(traced: fx.GraphModule) -> Iterator[str]:
    """The lines of ``forward``, each with the shape of its result for one image."""
    shapes = {}
    for number, node in enumerate(traced.graph.nodes):
        if node.op in ("call_module", "get_attr"):
            node.target = attribute(node.target)
        node.name, node.type = f"value{number}", None  # an annotation may name what only its own module knows
        if node.op == "placeholder":
            node.target = node.name
        shapes[node.name] = node.meta.get("shape", ())
    code = traced.graph.python_code("self")
    if foreign := sorted(code.globals.keys() - _KNOWN):
        raise NotWritable(f"it calls {foreign[0][:60]!r}, which is not a function of torch")
    names, free = {"value0": "x"}, [f"x{number}" for number in range(len(shapes), 0, -1)]
    for line in code.src[code.src.index("def ") :].strip().splitlines()[1:]:
        step, _, forgotten = line.strip().partition(";  ")
        result, _, expression = step.partition(" = ")
        written = _VALUE.sub(lambda name: names[name[0]], expression or step)
        # A name is used again when its value is no longer needed, so that its memory is, too.
        gone = _VALUE.findall(forgotten)
        free += sorted((names.pop(name) for name in gone if name in names), reverse=True)
        if not expression:
            yield written  # return
            return
        names[result], shape = free.pop(), shapes[result]
        yield f"{names[result]} = {written}" + (f"  # {list(shape[1:])}" if len(shape) > 1 else "")
        if result in gone:  # nobody needs it
            free.append(names.pop(result))
