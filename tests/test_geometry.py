"""Output sizes, pads and receptive fields, against counting."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastdl.kernels.geometry import four_pads, output_size, pair, receptive_field, window_grid

SIZES = st.integers(1, 40)
AXES = st.fixed_dictionaries(
    {
        "size": SIZES,
        "kernel": st.integers(1, 9),
        "stride": st.integers(1, 7),
        "before": st.integers(0, 12),
        "after": st.integers(0, 12),
        "dilation": st.integers(1, 5),
    }
)


def windows(size, kernel, stride, before, after, dilation):
    """Starts of the windows whose taps all lie on the padded input, found one by one."""
    starts, start = [], -before
    while start + dilation * (kernel - 1) <= size + after - 1:
        starts.append(start)
        start += stride
    return starts


def windows_ceil(size, kernel, stride, before, after, dilation):
    """The same and, where padded elements are left over, one more; but no last window that starts behind the input."""
    starts = windows(size, kernel, stride, before, after, dilation)
    if starts and starts[-1] + dilation * (kernel - 1) < size + after - 1:
        starts.append(starts[-1] + stride)
    if len(starts) > 1 and starts[-1] >= size:
        starts.pop()
    return starts


@given(AXES)
def test_output_size_counts_windows(axis):
    assert output_size(**axis) == len(windows(**axis))


@given(AXES)
def test_ceil_mode_counts_windows(axis):
    assert output_size(**axis, ceil_mode=True) == len(windows_ceil(**axis))


@given(AXES)
def test_every_window_starts_on_the_input_or_before_it(axis):
    """Where the padding behind is smaller than a window, which PyTorch demands."""
    assume(axis["after"] <= axis["dilation"] * (axis["kernel"] - 1))
    for ceil_mode in (False, True):
        count = output_size(**axis, ceil_mode=ceil_mode)
        assert all(i * axis["stride"] - axis["before"] < axis["size"] for i in range(count))


def test_known_sizes():
    assert output_size(28, 3, 1, 1, 1) == 28
    assert output_size(227, 11, 4) == 55
    assert output_size(5, 2, 2) == 2
    assert output_size(5, 2, 2, ceil_mode=True) == 3
    # PyTorch's example of a window that would start in the padding: it is dropped.
    assert output_size(3, 2, 2, 1, 1, ceil_mode=True) == 2
    assert output_size(2, 3) == 0


@given(AXES, AXES)
def test_window_grid_is_two_axes_or_an_error(v, h):
    counts = output_size(**v), output_size(**h)

    def grid():
        return window_grid(
            (v["size"], h["size"]),
            (v["kernel"], h["kernel"]),
            (v["stride"], h["stride"]),
            (v["before"], v["after"], h["before"], h["after"]),
            (v["dilation"], h["dilation"]),
        )

    if min(counts) < 1:
        with pytest.raises(ValueError, match="does not fit an input of"):
            grid()
    else:
        assert grid() == counts


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)), max_size=5))
def test_receptive_field_is_the_set_of_inputs_that_an_output_reaches(layers):
    """Followed tap by tap from one output, and from its neighbour."""

    def reached(position):
        seen = {position}
        for kernel, stride, dilation in reversed(layers):
            seen = {p * stride + t * dilation for p in seen for t in range(kernel)}
        return min(seen), max(seen)

    field, jump = receptive_field(layers)
    first, last = reached(0)
    assert field == last - first + 1
    assert jump == reached(1)[0] - first


def test_receptive_field_of_deep_convnet():
    layers = [(3, 1, 1), (3, 1, 1), (2, 2, 1)] * 3
    assert receptive_field(layers) == (36, 8)


@given(st.integers(0, 100))
def test_one_number_is_all_sides(n):
    assert four_pads(n) == (n, n, n, n)
    assert pair(n, "stride", 0) == (n, n)


@given(st.integers(0, 100), st.integers(0, 100))
def test_two_numbers_are_vertical_and_horizontal(v, h):
    assert four_pads((v, h)) == four_pads([v, h]) == (v, v, h, h)
    assert pair((v, h), "pad", 0) == (v, h)


@given(st.tuples(*[st.integers(0, 100)] * 4))
def test_four_numbers_are_the_sides(sides):
    assert four_pads(sides) == four_pads(list(sides)) == sides


@pytest.mark.parametrize(
    "value", ["same", 1.5, (1, 2, 3), (1,), None, (1, "2"), (1.0, 2), (1, 2, 3, 4, 5), (1, 2, 3, 4.0)]
)
def test_pads_that_are_none(value):
    with pytest.raises(ValueError, match="pad must be"):
        four_pads(value)


@pytest.mark.parametrize("value", [-1, (0, -1), (0, 0, 0, -1)])
def test_negative_pads(value):
    with pytest.raises(ValueError, match="pad must be at least 0"):
        four_pads(value)


@pytest.mark.parametrize("value", ["3", 2.0, (1, 2, 3), (1, 2, 3, 4), (1,), None, (1, None)])
def test_pairs_that_are_none(value):
    with pytest.raises(ValueError, match=r"stride must be an int or a \(vertical, horizontal\) pair"):
        pair(value, "stride")


@pytest.mark.parametrize("value", [0, (1, 0), (0, 1), -3])
def test_strides_below_one(value):
    with pytest.raises(ValueError, match="stride must be at least 1"):
        pair(value, "stride")


def test_integers_of_numpy_are_integers():
    import numpy as np

    assert pair(np.int64(3), "stride") == (3, 3)
    assert four_pads((np.int32(1), np.uint8(2))) == (1, 1, 2, 2)
