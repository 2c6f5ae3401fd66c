"""quantize and dequantize: numbers as bytes that count steps, and back.

With scale float32 (1,) and zero int32 (1,), 0 to 255, the byte that stands for 0; each operation is rounded once, in
float32, to nearest even::

    quantize    out = clip(rint(float32(x) * scale) + zero, 0, 255)      scale: 1 / step
    dequantize  out = float32(x - zero) * scale                          scale: step

* ``quantize_forward(problem, x, scale, zero, out, threads)``: x of dtype ``storage``, out uint8; NaN becomes 0.
* ``dequantize_forward(problem, x, scale, zero, out, threads)``: x uint8, out of dtype ``storage``.

x and out have one shape; ``Problem.shapes == (x,)``, ``Problem.orders`` is that of x.
"""
