"""What benchmarks share: one record schema, the machine, its peak, interleaved timing, statistics, counts of work.

``record``    the schema of every benchmark file, documented and validated there
``machine``   what this machine is and which versions run on it
``peak``      what it can do at most, measured on the spot
``timing``    participants, timed in turns
``stats``     medians, quartiles, geometric means
``work``      floating-point operations and bytes of a Problem

The suites, and the peers they are measured against, are in the repository's ``bench/``.
"""
