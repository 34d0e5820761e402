"""TorchScript files are programs: they are read as text, and loaded only where they do no more than our own exports.

Loading such a file already runs code in it (``__setstate__``), and its operators can write files. So its source, which
is Python's syntax, is parsed without being run; what is not in the sets below is refused. What torch is given then is
an archive made anew of the parts that were looked at, so that no second reading of the file can differ.
"""

from __future__ import annotations

import ast
import io
import re
import zipfile
from pathlib import Path

from yolov7.config import InputError, is_file
from yolov7.config.errors import shown
from yolov7.model.missing import no_weights
from yolov7.model.opcodes import check_pickle
from yolov7.model.stored import check_archive

MAX_CODE = 8 << 20  # bytes; our largest export has 0.4 MB
# All that our exports contain, of every model in cfg/ (a test holds that).
_NODES = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AnnAssign, ast.Name,
    ast.Attribute, ast.Call, ast.keyword, ast.Constant, ast.List, ast.Tuple, ast.Subscript, ast.UnaryOp, ast.USub,
    ast.Load, ast.Store)
_METHODS = ("forward",)
_FUNCTIONS = frozenset(("annotate", "getattr", "int", "float", "bool", "ops.prim.NumToTensor"))
_OPERATORS = frozenset((
    "_convolution", "add", "arange", "batch_norm", "cat", "chunk", "clone", "contiguous", "device", "div", "flatten",
    "leaky_relu", "leaky_relu_", "max_pool2d", "meshgrid", "mul", "permute", "select", "sigmoid", "silu", "silu_",
    "size", "slice", "square", "stack", "sub", "to", "unbind", "unsqueeze", "upsample_nearest2d", "view",
    # pure functions of tensors that the head of a task may have
    "abs", "addmm", "amax", "amin", "atan2", "bmm", "clamp", "conv2d", "cos", "einsum", "exp", "expand", "expand_as",
    "eq", "floor", "ge", "gt", "index_select", "le", "linear", "log", "lt", "matmul", "max", "mean", "min", "mm", "ne",
    "neg", "ones", "ones_like", "pow", "relu", "relu_", "repeat", "reshape", "rsub", "sin", "softmax", "softplus",
    "split", "split_with_sizes", "sqrt", "squeeze", "sum", "tanh", "transpose", "where", "zeros", "zeros_like",
    "broadcast_tensors", "scalar_tensor", "narrow", "type_as", "full", "upsample_bilinear2d", "unflatten"))
_PARTS = re.compile(r"[^/]+/(?:(code/[\w/.]+\.py)|(?:data|constants)\.pkl|(?:data|constants)/\d+|version|byteorder|"
                    r"\.format_version|\.storage_alignment|\.data/(?:version|serialization_id)|extra/yolov7)")
_CUSTOM = b"torch.classes"  # objects whose loading runs code of their own


def checked_archive(path: Path) -> io.BytesIO:
    """The file as an archive that is safe to load. Raises `InputError` for all that our exports do not contain."""
    if not is_file(path):
        raise InputError(no_weights(path))
    check_archive(path, packed=True)
    made, size = io.BytesIO(), 0
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            match = _PARTS.fullmatch(entry.filename)
            if match is None:
                continue  # notes for debuggers, and what torch need not see
            data = old.read(entry)
            if match[1]:
                size += len(data)
                _check_code(data, size, f"{path}, {shown(match[1])}")
            if (match[1] or entry.filename.endswith(".pkl")) and _CUSTOM in data:
                raise InputError(f"{path}: has objects of torch.classes; {_ACCEPTED}")
            if entry.filename.endswith(".pkl"):
                check_pickle(old, entry.filename, str(path))
            new.writestr(zipfile.ZipInfo(entry.filename), data)
    if not size:
        raise InputError(f"{path}: TorchScript cannot read it: no code is in it; {_ACCEPTED}")
    made.seek(0)
    return made


_ACCEPTED = ("accepted: a file that export.py wrote (TorchScript is a program, so that nothing else is loaded; weights "
             "and ONNX files are data)")


def _check_code(data: bytes, size: int, where: str) -> None:
    if size > MAX_CODE:
        raise InputError(f"{where}: has more than {MAX_CODE >> 20} MiB of code; {_ACCEPTED}")
    try:
        tree = ast.parse(data.decode("ascii"))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise InputError(f"{where}: is no code that torch writes; {_ACCEPTED}") from None
    for node in ast.walk(tree):
        if reason := _fault_of(node):
            raise InputError(f"{where}, line {getattr(node, 'lineno', 1)}: {reason}; {_ACCEPTED}")


def _fault_of(node: ast.AST) -> str:
    """Why a node is none that our exports have; '' where it is one."""
    if not isinstance(node, _NODES):
        return f"has the construct {type(node).__name__}"
    if isinstance(node, ast.FunctionDef) and (node.name not in _METHODS or node.decorator_list):
        return f"defines the function {shown(node.name)}"
    if isinstance(node, ast.ClassDef) and ([ast.dump(base) for base in node.bases] != [_MODULE] or node.keywords
                                           or node.decorator_list):
        return f"defines {shown(node.name)}, which is no module"
    if isinstance(node, ast.Attribute) and _is_private(node.attr):
        return f"uses {shown(node.attr)}"
    if isinstance(node, ast.Call) and not _is_known(node.func):
        return f"calls {shown(ast.unparse(node.func))}"
    return ""


_MODULE = ast.dump(ast.Name("Module", ast.Load()))


def _is_private(name: str) -> bool:
    return name.startswith("__") and name != "__torch__" and not name.startswith("___torch_mangle_")


def _is_known(function: ast.expr) -> bool:
    name = ast.unparse(function)
    if isinstance(function, ast.Attribute) and function.attr in _METHODS:
        return isinstance(function.value, ast.Name) and function.value.id not in ("torch", "ops")
    return name in _FUNCTIONS or (name.startswith("torch.") and name.removeprefix("torch.") in _OPERATORS)
