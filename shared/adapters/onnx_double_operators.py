"""Operators that ONNX Runtime has no double kernel for, or a slow one, put together from others.

A convolution becomes what it is: windows of the input, one strided slice for each position of the kernel, times the
weights as one matrix. Nothing here needs to know the size of a picture, so free dimensions stay free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from onnx import NodeProto

from shared.adapters.onnx_graph import DOUBLE, Emitter
from shared.errors import InferenceFailed

MAX_KERNEL_POSITIONS: Final = 1024  # slices of one convolution or pool; 32 x 32, where published models end at 16 x 16
_END: Final = (1 << 63) - 1  # a slice up to the end

# erf(x) below 1/2: the Taylor series of erf(x) / x in x², to 1e-19.
_ERF_BELOW: Final = tuple(2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(13))
# Above: (1 + 2x) exp(x²) erfc(x), from 1/2 to 25/4, interpolated in (x - 15/4) / (x + 15/4) scaled to -1..1, to 1e-15.
_ERF_ABOVE: Final = (
    1.2718382147922904, -0.058768949912629424, -0.031796136110175635, 0.03662339747938163, -0.020276658433960815,
    0.007816809264668252, -0.002216228381609699, 0.0004461676255886916, -5.290580666171698e-05, -3.5127680403368434e-07,
    1.343146340307063e-06, -1.5874853354080906e-07, -2.0592632435483444e-08, 6.103581047985547e-09,
    1.0633394165182608e-10, -1.6407319947120413e-10, 3.710496146447362e-11,
)  # fmt: skip
_ERF_IS_ONE: Final = 6.25  # 1 - erf there is 1e-18


@dataclass(frozen=True, slots=True)
class Call:
    """A node to be put together. Its result must be written to `output`."""

    emitter: Emitter
    node: NodeProto
    given: Mapping[str, Any]  # attributes
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def output(self) -> str:
        return self.node.output[0]

    def input(self, index: int) -> str:
        """Empty for an optional one that is not there."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def rank(self) -> int:
        """Of the output, which has the input's."""
        try:
            return len(self.shapes[self.output])
        except KeyError:
            raise InferenceFailed(f"{self.node.op_type}: the rank of {self.output} is not known") from None


Rewriting = Callable[[Call], None]


# --- windows ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Window:
    """How a kernel moves over the spatial dimensions."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]  # all begins, then all ends

    @property
    def positions(self) -> int:
        return math.prod(self.kernel)

    @property
    def spans(self) -> tuple[int, ...]:
        """What the dilated kernel covers."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def _window(call: Call, kernel: Sequence[int]) -> _Window:
    ones = (1,) * len(kernel)
    strides = tuple(call.given.get("strides", ones))
    dilations = tuple(call.given.get("dilations", ones))
    bare = _Window(tuple(kernel), strides, dilations, tuple(call.given.get("pads", (0,) * 2 * len(kernel))))
    if not 0 < bare.positions <= MAX_KERNEL_POSITIONS:
        raise InferenceFailed(
            f"{call.node.op_type}: a kernel of {bare.positions} positions, {MAX_KERNEL_POSITIONS} at most"
        )
    if call.given.get("ceil_mode", 0):
        raise InferenceFailed(f"operator {call.node.op_type} with ceil_mode cannot be had in double precision")
    auto = call.given.get("auto_pad", b"NOTSET").decode()
    if auto == "NOTSET":
        return bare
    if auto == "VALID":
        return _Window(bare.kernel, strides, dilations, (0,) * 2 * len(kernel))
    totals = [
        _same(call, axis, stride, span) for axis, (stride, span) in enumerate(zip(strides, bare.spans, strict=True))
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    pads = (*small, *large) if auto == "SAME_UPPER" else (*large, *small)
    return _Window(bare.kernel, strides, dilations, pads)


def _same(call: Call, axis: int, stride: int, span: int) -> int:
    """What is padded along an axis so that the output has input / stride elements, rounded up."""
    if stride == 1:
        return span - 1
    size = call.shapes.get(call.input(0), ())[axis + 2 : axis + 3]
    if size in ((), (-1,)):
        raise InferenceFailed(f"{call.node.op_type}: auto_pad with strides needs an input of fixed size")
    return max((math.ceil(size[0] / stride) - 1) * stride + span - size[0], 0)


def _slices(emitter: Emitter, value: str, window: _Window, outside: float = 0.0) -> list[str]:
    """For each position of the kernel, in row-major order: what lies under it, as it moves (N, C, *output)."""
    if any(window.pads):
        rank = len(window.kernel)
        pads = emitter.integers(0, 0, *window.pads[:rank], 0, 0, *window.pads[rank:])
        value = emitter.add("Pad", [value, pads, emitter.constant(outside)])
    axes = emitter.integers(*range(2, len(window.kernel) + 2))
    steps = emitter.integers(*window.strides)
    found = []
    for position in np.ndindex(window.kernel):
        starts = [at * d for at, d in zip(position, window.dilations, strict=True)]
        rests = [start + 1 - span for start, span in zip(starts, window.spans, strict=True)]  # what others still need
        ends = [rest or _END for rest in rests]
        found.append(emitter.add("Slice", [value, emitter.integers(*starts), emitter.integers(*ends), axes, steps]))
    return found


def _conv(call: Call) -> None:
    """Y (N, M, *out) = weights (G, M/G, C/G · K) times windows (N, G, C/G · K, prod(out)), and the bias."""
    emitter = call.emitter
    shape = call.shapes.get(call.input(1), ())
    if len(shape) < 3 or min(shape) < 1:
        raise InferenceFailed("Conv: the shape of the weights is not known")
    maps, channels, *kernel = shape
    groups = call.given.get("group", 1)
    window = _window(call, kernel)
    slices = _slices(emitter, call.input(0), window)
    spatial = emitter.add("Slice", [emitter.add("Shape", [slices[0]]), emitter.integers(2), emitter.integers(_END)])
    places = emitter.add("ReduceProd", [spatial], keepdims=1)
    apart = [emitter.add("Unsqueeze", [each, emitter.integers(2)]) for each in slices]
    windows = emitter.add("Concat", apart, axis=2) if len(apart) > 1 else apart[0]
    rows = channels * window.positions
    columns = emitter.add("Concat", [emitter.integers(0, groups, rows), places], axis=0)
    matrix = emitter.add("Reshape", [windows, columns])
    weights = emitter.add("Reshape", [call.input(1), emitter.integers(groups, maps // groups, rows)])
    product = emitter.add("MatMul", [weights, matrix])
    result = emitter.add("Concat", [emitter.integers(0, maps), spatial], axis=0)
    bias = call.input(2)
    flat = emitter.add("Reshape", [product, result], None if bias else call.output)
    if bias:
        column = emitter.add("Reshape", [bias, emitter.integers(maps, *(1 for _ in kernel))])
        emitter.add("Add", [flat, column], call.output)


def _average_pool(call: Call) -> None:
    emitter, window = call.emitter, _window(call, call.given["kernel_shape"])
    total = emitter.add("Sum", _slices(emitter, call.input(0), window))
    count = emitter.constant(window.positions)
    if any(window.pads) and not call.given.get("count_include_pad", 0):
        ones = emitter.add("Expand", [emitter.constant(1.0), emitter.add("Shape", [call.input(0)])])
        count = emitter.add("Sum", _slices(emitter, ones, window))
    emitter.add("Div", [total, count], call.output)


def _max_pool(call: Call) -> None:
    """Its kernel takes four times as long as slices do; it stays where places are asked for too."""
    if len(call.node.output) > 1 or call.given.get("ceil_mode", 0):
        call.emitter.keep(call.node)
        return
    window = _window(call, call.given["kernel_shape"])
    call.emitter.add("Max", _slices(call.emitter, call.input(0), window, -math.inf), call.output)


def _global_pool(kind: str) -> Rewriting:
    def pool(call: Call) -> None:
        call.emitter.reduce(kind, call.input(0), range(2, call.rank()), call.output)

    return pool


# --- one by one ------------------------------------------------------------------------------------
def _polynomial(emitter: Emitter, value: str, coefficients: Sequence[float]) -> str:
    """Constant term first."""
    result = emitter.constant(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        product = emitter.add("Mul", [result, value])
        result = emitter.add("Add", [product, emitter.constant(coefficient)])
    return result


def _erf_of(emitter: Emitter, x: str, output: str | None = None) -> str:
    """To 2e-15 of erf(x), everywhere."""
    size = emitter.add("Min", [emitter.add("Abs", [x]), emitter.constant(_ERF_IS_ONE)])
    square = emitter.add("Mul", [size, size])
    # Far outside its range the other branch's series is some finite number, and not taken.
    below = emitter.add("Mul", [size, _polynomial(emitter, square, _ERF_BELOW)])
    middle = emitter.constant(3.75)
    ratio = emitter.add("Div", [emitter.add("Sub", [size, middle]), emitter.add("Add", [size, middle])])
    scaled = emitter.add("Add", [emitter.add("Mul", [ratio, emitter.constant(136 / 69)]), emitter.constant(35 / 69)])
    decay = emitter.add("Exp", [emitter.add("Neg", [square])])
    ahead = emitter.add("Mul", [decay, _polynomial(emitter, scaled, _ERF_ABOVE)])
    one = emitter.constant(1.0)
    slope = emitter.add("Add", [one, emitter.add("Add", [size, size])])
    above = emitter.add("Sub", [one, emitter.add("Div", [ahead, slope])])
    is_below = emitter.add("Less", [size, emitter.constant(0.5)])
    absolute = emitter.add("Where", [is_below, below, above])
    return emitter.add("Mul", [emitter.add("Sign", [x]), absolute], output)


def _erf(call: Call) -> None:
    _erf_of(call.emitter, call.input(0), call.output)


def _gelu(call: Call) -> None:
    emitter, x = call.emitter, call.input(0)
    if call.given.get("approximate", b"none") == b"tanh":
        cube = emitter.add("Mul", [emitter.add("Mul", [x, x]), x])
        bent = emitter.add("Add", [x, emitter.add("Mul", [cube, emitter.constant(0.044715)])])
        step = emitter.add("Tanh", [emitter.add("Mul", [bent, emitter.constant(math.sqrt(2 / math.pi))])])
    else:
        step = _erf_of(emitter, emitter.add("Mul", [x, emitter.constant(math.sqrt(0.5))]))
    half = emitter.add("Mul", [x, emitter.constant(0.5)])
    emitter.add("Mul", [half, emitter.add("Add", [step, emitter.constant(1.0)])], call.output)


def _sigmoid(call: Call) -> None:
    """1 / (1 + exp(-x)): its kernel takes 1.6 times as long."""
    emitter = call.emitter
    grown = emitter.add("Exp", [emitter.add("Neg", [call.input(0)])])
    emitter.add("Reciprocal", [emitter.add("Add", [grown, emitter.constant(1.0)])], call.output)


def _hard_sigmoid_of(emitter: Emitter, x: str, alpha: float, beta: float, output: str | None = None) -> str:
    line = emitter.add("Add", [emitter.add("Mul", [x, emitter.constant(alpha)]), emitter.constant(beta)])
    return emitter.add("Clip", [line, emitter.constant(0.0), emitter.constant(1.0)], output)


def _hard_sigmoid(call: Call) -> None:
    alpha, beta = _float(call, "alpha", 0.2), _float(call, "beta", 0.5)
    _hard_sigmoid_of(call.emitter, call.input(0), alpha, beta, call.output)


def _hard_swish(call: Call) -> None:
    gate = _hard_sigmoid_of(call.emitter, call.input(0), float(np.float32(1 / 6)), 0.5)
    call.emitter.add("Mul", [call.input(0), gate], call.output)


def _elu(call: Call) -> None:
    _elu_of(call, _float(call, "alpha", 1.0), 1.0)


def _selu(call: Call) -> None:
    _elu_of(call, _float(call, "alpha", 1.67326319217681884765625), _float(call, "gamma", 1.05070102214813232421875))


def _elu_of(call: Call, alpha: float, gamma: float) -> None:
    """The exponential sees negative numbers alone, so that it never overflows."""
    emitter, x = call.emitter, call.input(0)
    zero = emitter.constant(0.0)
    grown = emitter.add("Exp", [emitter.add("Min", [x, zero])])
    bent = emitter.add("Mul", [emitter.add("Sub", [grown, emitter.constant(1.0)]), emitter.constant(alpha)])
    both = emitter.add("Add", [emitter.add("Max", [x, zero]), bent])
    emitter.add("Mul", [both, emitter.constant(gamma)], call.output)


def _softplus(call: Call) -> None:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))."""
    emitter, x = call.emitter, call.input(0)
    decay = emitter.add("Exp", [emitter.add("Neg", [emitter.add("Abs", [x])])])
    rest = emitter.add("Log", [emitter.add("Add", [decay, emitter.constant(1.0)])])
    emitter.add("Add", [emitter.add("Max", [x, emitter.constant(0.0)]), rest], call.output)


def _softsign(call: Call) -> None:
    emitter, x = call.emitter, call.input(0)
    emitter.add("Div", [x, emitter.add("Add", [emitter.add("Abs", [x]), emitter.constant(1.0)])], call.output)


# --- over many -------------------------------------------------------------------------------------
def _softmax(call: Call) -> None:
    """Where masks are large negative numbers, exp underflows, and its kernel then takes twice as long. What lies 700 or
    more below the greatest counts as exp(-700) = 1e-304 instead, which no result in float32 can show."""
    emitter, x, axis = call.emitter, call.input(0), (call.given.get("axis", -1),)
    below = emitter.add("Sub", [x, emitter.reduce("ReduceMax", x, axis)])
    grown = emitter.add("Exp", [emitter.add("Clip", [below, emitter.constant(-700.0)])])
    total = emitter.reduce("ReduceSum", grown, axis)
    emitter.add("Mul", [grown, emitter.add("Reciprocal", [total])], call.output)


def _mean(call: Call) -> None:
    emitter = call.emitter
    total = emitter.add("Sum", list(call.node.input))
    emitter.add("Div", [total, emitter.constant(len(call.node.input))], call.output)


def _instance_normalization(call: Call) -> None:
    emitter, x, rank = call.emitter, call.input(0), call.rank()
    axes = range(2, rank)
    centred = emitter.add("Sub", [x, emitter.reduce("ReduceMean", x, axes)])
    variance = emitter.reduce("ReduceMean", emitter.add("Mul", [centred, centred]), axes)
    spread = emitter.add("Sqrt", [emitter.add("Add", [variance, emitter.constant(_float(call, "epsilon", 1e-5))])])
    column = emitter.integers(-1, *(1 for _ in axes))
    scale, bias = (emitter.add("Reshape", [call.input(index), column]) for index in (1, 2))
    scaled = emitter.add("Mul", [emitter.add("Div", [centred, spread]), scale])
    emitter.add("Add", [scaled, bias], call.output)


def _scaler(call: Call) -> None:
    """(x - offset) · scale, of features of any number type."""
    emitter = call.emitter
    x = emitter.cast(call.input(0), DOUBLE)
    offset, scale = (emitter.constant(call.given[name]) for name in ("offset", "scale"))
    emitter.add("Mul", [emitter.add("Sub", [x, offset]), scale], call.output)


def _linear_regressor(call: Call) -> None:
    emitter, targets = call.emitter, call.given.get("targets", 1)
    if call.given.get("post_transform", b"NONE") != b"NONE":
        raise InferenceFailed(
            "operator ai.onnx.ml.LinearRegressor with a post_transform cannot be had in double precision"
        )
    x = emitter.cast(call.input(0), DOUBLE)
    weights = np.asarray(call.given["coefficients"], np.float64).reshape(targets, -1)
    product = emitter.add("MatMul", [x, emitter.constant(weights.T)])
    intercepts = call.given.get("intercepts", (0.0,) * targets)
    emitter.add("Add", [product, emitter.constant(intercepts)], call.output)


def _float(call: Call, name: str, default: float) -> float:
    """Attributes are float32 numbers, defaults too."""
    return float(np.float32(call.given.get(name, default)))


REWRITTEN: Final[Mapping[tuple[str, str], Rewriting]] = {
    ("", "AveragePool"): _average_pool,
    ("", "Conv"): _conv,
    ("", "Elu"): _elu,
    ("", "Erf"): _erf,
    ("", "Gelu"): _gelu,
    ("", "GlobalAveragePool"): _global_pool("ReduceMean"),
    ("", "GlobalMaxPool"): _global_pool("ReduceMax"),
    ("", "HardSigmoid"): _hard_sigmoid,
    ("", "HardSwish"): _hard_swish,
    ("", "InstanceNormalization"): _instance_normalization,
    ("", "MaxPool"): _max_pool,
    ("", "Mean"): _mean,
    ("", "Selu"): _selu,
    ("", "Sigmoid"): _sigmoid,
    ("", "Softmax"): _softmax,
    ("", "Softplus"): _softplus,
    ("", "Softsign"): _softsign,
    ("ai.onnx.ml", "LinearRegressor"): _linear_regressor,
    ("ai.onnx.ml", "Scaler"): _scaler,
}
