"""What a `.pt2` archive asks for, checked before torch reads it: `torch.export.load` would run code that a crafted one holds.

torch evaluates the archive's symbolic expressions and guards as Python, looks operators up by any name below `torch`, pastes
input names into generated code, and unpickles constants. A classifier that was exported as tensors and operators needs nothing
of this, so only numbers, symbols, comparisons, identifiers and tensor operators pass.
"""

import ast
import io
import json
import re
import zipfile

from utils.core.errors import UserError

IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")
DOTTED = re.compile(r"(\w+(\.[\w-]+)*)?\Z")  # torchvision has layers such as `block1-0`, an nn.Sequential `0.weight`
OPERATOR = re.compile(
    r"(torch\.ops\.aten\.(?!from_file\b|save\b)\w+\.\w+"  # those two write files
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc)"
    r"|torch\.sym_(int|float|max|min|not|sum))\Z"
)
FUNCTIONS = {"Symbol", "Integer", "Rational", "Eq", "Ne", "Max", "Min", "And", "Or", "Not", "Mod", "FloorDiv", "PythonMod",
             "CleanDiv", "CeilDiv", "IntTrueDiv", "ModularIndexing", "Add", "Mul"}  # fmt: skip
NODES = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.keyword, ast.Name, ast.Load,
         ast.Constant, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)  # fmt: skip
MOST = 1000  # characters of an expression
FORBIDDEN = {"as_graph", "as_custom_obj", "as_operator"}  # code of other kinds, and objects that are unpickled
NAMES = {"name": IDENTIFIER, "arg_name": IDENTIFIER, "user_input_name": IDENTIFIER, "parameter_name": DOTTED,
         "buffer_name": DOTTED, "tensor_constant_name": DOTTED, "fqn": DOTTED}  # fmt: skip


def verify_program(path):
    """Raises UserError, naming the file and what is wrong, for an archive that holds more than tensors and tensor operators."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                _verify_member(archive, member)
    except _Refused as refused:
        raise UserError(f"{path} is not opened: it holds {refused}, which could run code") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable .pt2 file ({type(error).__name__}: {str(error)[:100]})") from None


class _Refused(Exception):
    """What is refused, in words."""


def _verify_member(archive, member):
    folder = "/".join(member.split("/")[1:-1])
    if folder == "models":
        _walk(json.loads(archive.read(member)))
    elif folder in ("data/weights", "data/constants") and member.endswith("_config.json"):
        for name, entry in json.loads(archive.read(member))["config"].items():
            if entry["use_pickle"] or not entry["path_name"].startswith(("weight_", "tensor_")):
                raise _Refused(f"the pickled object {name!r:.80}")
    elif folder == "data/sample_inputs":
        _verify_pickle(archive.read(member))
    elif folder not in ("", "data/weights", "data/constants", "extra", ".data"):
        raise _Refused(f"the member {member!r:.80}")


def _verify_pickle(content):
    """torch reads this one with `weights_only=False` where it cannot do so with True."""
    import torch

    if content:
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except Exception as error:
            raise _Refused("pickled sample inputs") from error


def _walk(value):
    """Check every entry of the JSON that means something to torch."""
    if isinstance(value, list):
        for item in value:
            _walk(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _verify_entry(key, item, value)
            if key != "metadata" or "target" not in value:  # that of a node: stack traces, as text
                _walk(item)


def _verify_entry(key, item, parent):
    if key in FORBIDDEN and item is not None:
        raise _Refused(f"an argument of the kind {key.removeprefix('as_')}")
    if key == "expr_str":
        _verify_expression(item)
    elif key == "guards_code" and item:
        raise _Refused("guards in Python")
    elif key == "target" and "inputs" in parent:
        if not OPERATOR.match(item):
            raise _Refused(f"the operator {item!r:.80}")
    elif (key == "target" or key in NAMES) and item is not None and not NAMES.get(key, DOTTED).match(item):
        raise _Refused(f"the name {item!r:.80}")


def _verify_expression(text):
    """Numbers, symbols, arithmetic, comparisons, and the functions of shapes that torch itself writes."""
    if len(text) > MOST:
        raise _Refused("an expression of over a thousand characters")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError):
        raise _Refused(f"the expression {text!r:.80}") from None
    for node in ast.walk(tree):
        allowed = isinstance(node, NODES)
        if isinstance(node, ast.Call):
            allowed = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
        elif isinstance(node, ast.Constant):  # text is a symbol's name; a power of large numbers would take all memory
            allowed = IDENTIFIER.match(node.value) if isinstance(node.value, str) else abs(node.value) < 2**63
        elif isinstance(node, ast.Name):
            allowed = not node.id.startswith("_")
        elif isinstance(node, ast.Pow):
            allowed = False
        if not allowed:
            raise _Refused(f"the expression {text!r:.80}")
