"""What benchmarks share: one record schema, the machine, its peak, interleaved timing, statistics, counts of work; and
what shows the record of a network.

``record``    the schema of every benchmark file, documented and validated there
``machine``   what this machine is and which versions run on it
``peak``      what it can do at most, measured on the spot
``timing``    participants, timed in turns
``stats``     medians, quartiles, geometric means
``work``      floating-point operations and bytes of a Problem
``breakdown`` a network's record by settings, participants and rows
``pictures``  of a network: shares of the time, rows, rooflines, scaling
``table``     the same for a terminal
``page``      one HTML file with all of it
``compare``   two records: what is slower or faster beyond the noise

The suites, and the peers they are measured against, are in the repository's ``bench/``.
"""
