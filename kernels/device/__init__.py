"""Small things that happen to arrays on a device between the ops of the registry, so that no value has to visit the
host and no kernel of another library is needed. They have CUDA kernels only, and no rows: on a CPU NumPy does them.

``copy(a, out)``: out = a, of one shape and item size, any strides; bits are copied.

``numbers(a, out)``: integers or bool as floating-point numbers, rounded to nearest even. Same shape, any strides.

``take(source, rows, out)``: out[i] = source[rows[i]] along the first axis. ``source`` and ``out`` are C-contiguous and
agree in dtype and the other axes; ``rows`` is int64 and C-contiguous. Rows outside the source are undefined.

``labels(t, out)``: out[i] = t[i] as int64, for C-contiguous integers t of any size.

``argmax(t, out)``: out[i] = index of the largest element of row i of a matrix (floating-point or integers, any strides)
as int64: the first of equal ones; a NaN is the largest (``numpy.argmax``).

``count_equal(a, b, total)``: total[0] += how many elements of the int64 arrays agree (C-contiguous; int64 total).

``advance(counter)``: counter[0] += 1, for int64 or uint64 arrays of one element.

``mean(values, out)``: out[0] = sum(values) / len(values) in float64, rounded to out's dtype (float32 or float64);
values are C-contiguous of dtype float32 or float64. NaN for none.

``book_loss(y, labels, out)``: out[0] = -sum(log(y[i, labels[i]] + 1e-7)) / rows in float64, for y (rows, classes) of
dtype float32 or float64 with any strides; NaN for no rows, and for a label outside the classes.

``book_gradient(y, t, dx)``: dx = (y - t) / rows for matrices of one dtype, float32 or float64; dx is of any
floating-point dtype. Any strides.

``scaled(a, by, out)``: out[0] = a[0] * by, for one element of one dtype, float32 or float64.

``decayed(grad, param, by, out)``: out = grad + by * param, of one dtype, float32 or float64, any strides.

``running(mean, batch, momentum)``: mean = momentum * mean + (1 - momentum) * batch, in float64: mean is float64, batch
float32 or float64, both C-contiguous.

Sums run in an order that depends on sizes alone: one block of 256 threads, thread t adding the terms t, t + 256, ...,
and the threads' sums in pairs (t, t + 128), (t, t + 64), ...
"""
