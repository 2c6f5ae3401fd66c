"""relu, relu6, sigmoid, tanh: one value at a time.

Forward::

    relu      y = 0 where x <= 0, else x
    relu6     y = 0 where x <= 0, 6 where x >= 6, else x
    sigmoid   y = 1 / (1 + exp(-x))
    tanh      y = tanh(x)

Backward, from the output of the forward pass::

    relu      dx = 0 where y <= 0, else dout
    relu6     dx = 0 where y <= 0 or y >= 6, else dout
    sigmoid   dx = dout * y * (1 - y)
    tanh      dx = dout * (1 - y * y)

``relu_forward(problem, x, out, threads)``, ``relu_backward(problem, dout, y, dx, threads)``; likewise ``relu6_*``,
``sigmoid_*`` and ``tanh_*``

* *Problem*: ``shapes == (x,)``, any number of axes. All arrays have that shape, the dtype ``storage`` and any strides.
* relu and relu6 are exact; their forward passes give no -0.0. NaN is not <= 0 and not >= 6: it passes, and where y is
  NaN the gradient passes. (y <= 0 is the same mask as x <= 0, and y >= 6 the same as x >= 6.)
* sigmoid and tanh are as good as ``_common/vmath.h`` says of its functions. They do not overflow; the sigmoid of a very
  negative x is subnormal before it is 0; tanh keeps the relative precision of x near 0, and the sign of a zero.
  sigmoid(-inf) = 0, sigmoid(inf) = 1, tanh(±inf) = ±1, NaN gives NaN.
* The backward formulas are evaluated as they stand, from left to right, in the compute dtype; a product may be fused
  with the subtraction that it goes into.
* ``out`` may be the same elements as ``x``, and ``dx`` the same as ``dout`` or ``y`` (equal strides); otherwise an
  output overlaps no input.
"""
