"""Batch norm and activation as Triton kernels: two passes over the input forward, two backward; and bias and
activation of a deployed convolution in one pass.

The input is the rows of a channels-last map, ``[M, C]``. What lies between norm and activation is not kept: the
backward pass makes it again of the input, whose mean and variance it has. Sums run over fixed parts of the rows in a
fixed order, in float32, so that the same input always gives the same bits. The norm's own mean is subtracted before
anything is squared (Chan's way of joining parts), as nothing else is exact where the mean is far from zero.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS = 64, 64  # of a tile
MAX_PARTS = 512  # of the rows; partial sums are joined by one program for each tile of channels
SILU, LEAKY_RELU = 0, 1  # what KIND is
ROW_COUNTS = ["m", "parts", "rows_of_part"]  # no kernel is made anew for other images: none is where work is recorded


# --- shared by the kernels -----------------------------------------------------------------------------------------


@triton.jit
def _of_channels(ptr, channel, c):
    return tl.load(ptr + channel, mask=channel < c, other=0.0)


@triton.jit
def _places(row, channel, stride):
    return row.to(tl.int64)[:, None] * stride + channel[None, :]


@triton.jit
def _tile(row, channel, stop, c):
    """Where the values of rows and channels stand, and which of them there are."""
    return _places(row, channel, c), (row < stop)[:, None] & (channel < c)[None, :]


@triton.jit
def _joined(count, mean, m2, own, own_mean, own_m2):
    """Count, mean and sum of squared differences of two parts together (Chan)."""
    total = count + own
    step = own_mean - mean
    return total, mean + step * (own / total), m2 + own_m2 + step * step * (count * own / total)


@triton.jit
def _normal(x_ptr, place, used, mean, scale):
    return (tl.load(x_ptr + place, mask=used, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]


@triton.jit
def _activated(z, slope, KIND: tl.constexpr):
    if KIND == 0:
        return z * tl.sigmoid(z)
    return tl.where(z > 0, z, z * slope)


@triton.jit
def _slope_at(z, slope, KIND: tl.constexpr):
    if KIND == 0:
        share = tl.sigmoid(z)
        return share * (1 + z * (1 - share))
    return tl.where(z > 0, 1.0, slope)


@triton.jit
def _gradient(grad_ptr, place, used, normal, weight, bias, slope, KIND: tl.constexpr):
    """Of z, what the activation takes."""
    z = normal * weight[None, :] + bias[None, :]
    return tl.load(grad_ptr + place, mask=used, other=0.0).to(tl.float32) * _slope_at(z, slope, KIND)


# --- kernels -------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=ROW_COUNTS)
def _moments(x_ptr, count_ptr, mean_ptr, m2_ptr, m, c, rows_of_part, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Count, mean and sum of squared differences of a part of the rows: each ``[parts, C]``, the count ``[parts]``."""
    part = tl.program_id(1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    start = part * rows_of_part
    stop = tl.minimum(start + rows_of_part, m)
    count = 0.0
    mean = tl.zeros([CHANNELS], tl.float32)
    m2 = tl.zeros([CHANNELS], tl.float32)
    for first in range(start, stop, ROWS):
        place, used = _tile(first + tl.arange(0, ROWS), channel, stop, c)
        x = tl.load(x_ptr + place, mask=used, other=0.0).to(tl.float32)
        own = tl.minimum(stop - first, ROWS).to(tl.float32)
        own_mean = tl.sum(x, axis=0) / own
        apart = tl.where(used, x - own_mean[None, :], 0.0)
        count, mean, m2 = _joined(count, mean, m2, own, own_mean, tl.sum(apart * apart, axis=0))
    tl.store(mean_ptr + part * c + channel, mean, mask=channel < c)
    tl.store(m2_ptr + part * c + channel, m2, mask=channel < c)
    tl.store(count_ptr + part, count)


@triton.jit(do_not_specialize=ROW_COUNTS)
def _join_moments(count_ptr, mean_ptr, m2_ptr, out_mean_ptr, out_scale_ptr, running_mean_ptr, running_var_ptr,
                  parts, m, c, momentum, eps, CHANNELS: tl.constexpr):
    """Mean and 1 / sqrt(var + eps) of all rows, and the running statistics moved."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    count = 0.0
    mean = tl.zeros([CHANNELS], tl.float32)
    m2 = tl.zeros([CHANNELS], tl.float32)
    for part in range(0, parts):
        own_mean, own_m2 = _of_channels(mean_ptr + part * c, channel, c), _of_channels(m2_ptr + part * c, channel, c)
        count, mean, m2 = _joined(count, mean, m2, tl.load(count_ptr + part), own_mean, own_m2)
    old_mean, old_var = _of_channels(running_mean_ptr, channel, c), _of_channels(running_var_ptr, channel, c)
    unbiased = m2 / tl.maximum(m - 1, 1)
    tl.store(out_mean_ptr + channel, mean, mask=channel < c)
    tl.store(out_scale_ptr + channel, 1 / tl.sqrt(m2 / m + eps), mask=channel < c)
    tl.store(running_mean_ptr + channel, (1 - momentum) * old_mean + momentum * mean, mask=channel < c)
    tl.store(running_var_ptr + channel, (1 - momentum) * old_var + momentum * unbiased, mask=channel < c)


@triton.jit(do_not_specialize=ROW_COUNTS)
def _apply(x_ptr, y_ptr, mean_ptr, scale_ptr, weight_ptr, bias_ptr, m, c, slope, KIND: tl.constexpr,
           ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    place, used = _tile(tl.program_id(0) * ROWS + tl.arange(0, ROWS), channel, m, c)
    mean, scale = _of_channels(mean_ptr, channel, c), _of_channels(scale_ptr, channel, c)
    weight, bias = _of_channels(weight_ptr, channel, c), _of_channels(bias_ptr, channel, c)
    z = _normal(x_ptr, place, used, mean, scale) * weight[None, :] + bias[None, :]
    tl.store(y_ptr + place, _activated(z, slope, KIND).to(y_ptr.dtype.element_ty), mask=used)


@triton.jit(do_not_specialize=ROW_COUNTS)
def _gradient_sums(grad_ptr, x_ptr, mean_ptr, scale_ptr, weight_ptr, bias_ptr, sum_ptr, product_ptr, m, c, stride,
                   slope, rows_of_part, KIND: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Of a part of the rows: the sums of the gradient of z, and of that times the normalised input, ``[parts, C]``."""
    part = tl.program_id(1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    mean, scale = _of_channels(mean_ptr, channel, c), _of_channels(scale_ptr, channel, c)
    weight, bias = _of_channels(weight_ptr, channel, c), _of_channels(bias_ptr, channel, c)
    start = part * rows_of_part
    stop = tl.minimum(start + rows_of_part, m)
    total = tl.zeros([CHANNELS], tl.float32)
    product = tl.zeros([CHANNELS], tl.float32)
    for first in range(start, stop, ROWS):
        row = first + tl.arange(0, ROWS)
        place, used = _tile(row, channel, stop, c)
        normal = _normal(x_ptr, place, used, mean, scale)
        own = _gradient(grad_ptr, _places(row, channel, stride), used, normal, weight, bias, slope, KIND)
        total += tl.sum(own, axis=0)
        product += tl.sum(own * normal, axis=0)
    tl.store(sum_ptr + part * c + channel, total, mask=channel < c)
    tl.store(product_ptr + part * c + channel, product, mask=channel < c)


@triton.jit(do_not_specialize=ROW_COUNTS)
def _join_sums(sum_ptr, product_ptr, bias_grad_ptr, weight_grad_ptr, parts, c, CHANNELS: tl.constexpr):
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros([CHANNELS], tl.float32)
    product = tl.zeros([CHANNELS], tl.float32)
    for part in range(0, parts):
        total += _of_channels(sum_ptr + part * c, channel, c)
        product += _of_channels(product_ptr + part * c, channel, c)
    tl.store(bias_grad_ptr + channel, total, mask=channel < c)
    tl.store(weight_grad_ptr + channel, product, mask=channel < c)


@triton.jit(do_not_specialize=ROW_COUNTS)
def _input_gradient(grad_ptr, x_ptr, out_ptr, mean_ptr, scale_ptr, weight_ptr, bias_ptr, bias_grad_ptr,
                    weight_grad_ptr, m, c, stride, slope, KIND: tl.constexpr, ROWS: tl.constexpr,
                    CHANNELS: tl.constexpr):
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place, used = _tile(row, channel, m, c)
    mean, scale = _of_channels(mean_ptr, channel, c), _of_channels(scale_ptr, channel, c)
    weight, bias = _of_channels(weight_ptr, channel, c), _of_channels(bias_ptr, channel, c)
    total, product = _of_channels(bias_grad_ptr, channel, c) / m, _of_channels(weight_grad_ptr, channel, c) / m
    normal = _normal(x_ptr, place, used, mean, scale)
    own = _gradient(grad_ptr, _places(row, channel, stride), used, normal, weight, bias, slope, KIND)
    found = (own - total[None, :] - normal * product[None, :]) * (scale * weight)[None, :]
    tl.store(out_ptr + place, found.to(out_ptr.dtype.element_ty), mask=used)


@triton.jit(do_not_specialize=ROW_COUNTS)
def _bias_activation(x_ptr, bias_ptr, m, c, slope, KIND: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    place, used = _tile(tl.program_id(0) * ROWS + tl.arange(0, ROWS), channel, m, c)
    z = tl.load(x_ptr + place, mask=used, other=0.0).to(tl.float32)
    z += _of_channels(bias_ptr, channel, c).to(tl.float32)[None, :]
    tl.store(x_ptr + place, _activated(z, slope, KIND).to(x_ptr.dtype.element_ty), mask=used)


# --- on tensors ----------------------------------------------------------------------------------------------------


def forward(x: Tensor, weight: Tensor, bias: Tensor, running: tuple[Tensor, Tensor], constants: tuple[float, float],
            kind: int, slope: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``[M, C]`` -> their activated norms, and mean and 1 / sqrt(var + eps) ``[C]``.

    Moves ``running``, mean and variance; ``constants`` are the momentum of that, and eps.
    """
    m, c = x.shape
    parts, rows_of_part = _parts(m, c)
    tiles = triton.cdiv(c, CHANNELS)
    counts = x.new_empty(parts, dtype=torch.float32)
    own_mean, own_m2 = x.new_empty((2, parts, c), dtype=torch.float32)
    mean, scale = x.new_empty((2, c), dtype=torch.float32)
    y = torch.empty_like(x)
    _moments[tiles, parts](x, counts, own_mean, own_m2, m, c, rows_of_part, ROWS, CHANNELS)
    _join_moments[(tiles,)](counts, own_mean, own_m2, mean, scale, *running, parts, m, c, *constants, CHANNELS)
    _apply[triton.cdiv(m, ROWS), tiles](x, y, mean, scale, weight, bias, m, c, slope, kind, ROWS, CHANNELS)
    return y, mean, scale


def backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor, kind: int,
             slope: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the rows ``[M, C]``, and of weight and bias ``[C]``; rows of ``grad`` may lie apart."""
    m, c = x.shape
    stride = grad.stride(0)
    parts, rows_of_part = _parts(m, c)
    tiles = triton.cdiv(c, CHANNELS)
    sums, products = x.new_empty((2, parts, c), dtype=torch.float32)
    bias_grad, weight_grad = x.new_empty((2, c), dtype=torch.float32)
    found = torch.empty_like(x)
    _gradient_sums[tiles, parts](grad, x, mean, scale, weight, bias, sums, products, m, c, stride, slope,
                                 rows_of_part, kind, ROWS, CHANNELS)
    _join_sums[(tiles,)](sums, products, bias_grad, weight_grad, parts, c, CHANNELS)
    _input_gradient[triton.cdiv(m, ROWS), tiles](grad, x, found, mean, scale, weight, bias, bias_grad, weight_grad, m,
                                                 c, stride, slope, kind, ROWS, CHANNELS)
    return found, weight_grad, bias_grad



def add_bias_and_activate(x: Tensor, bias: Tensor, kind: int, slope: float = 0.0) -> None:
    """Rows ``[M, C]`` -> their activation once the bias ``[C]`` is added, in place."""
    m, c = x.shape
    _bias_activation[triton.cdiv(m, ROWS), triton.cdiv(c, CHANNELS)](x, bias, m, c, slope, kind, ROWS, CHANNELS)


def _parts(m: int, c: int) -> tuple[int, int]:
    """Into how many parts the rows are cut, none empty, and the rows of each but the last."""
    wanted = max(MAX_PARTS // triton.cdiv(c, CHANNELS), 1)
    rows = max(triton.cdiv(triton.cdiv(m, wanted), ROWS), 1) * ROWS
    return triton.cdiv(m, rows), rows
