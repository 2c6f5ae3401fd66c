"""What fastdl is measured against: the same calls and nets, written the way their users would write them elsewhere.

Time each peer in a process of its own. On Linux the large arrays of the NumPy net raise the size from which
malloc asks the kernel for fresh pages, and a PyTorch net that runs after it in the same process gains from
that: measured 24 instead of 34 ms for a step in NCHW.
"""
