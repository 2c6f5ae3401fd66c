"""max_pool2d_int8: the largest byte of each window, where bytes stand for numbers in ascending order (``quantize``).

* ``max_pool2d_int8_forward(problem, x, out, threads)``: x (N, C, H, W) and out (N, C, OH, OW) uint8, windows as in
  ``pool``; a window wholly in the padding gives 0. ``problem.attr("kernel")``, ``problem.attr("ceil_mode")``;
  ``Problem.shapes == (x,)``, ``Problem.orders`` is that of x.
"""
