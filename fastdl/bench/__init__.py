"""What benchmarks share: one record schema, the machine, its peak, interleaved timing, statistics, counts of work; and
``fastdl bench``, a network layer by layer, with what shows its record.

``record``    the schema of every benchmark file, documented and validated there
``machine``   what this machine is and which versions run on it
``peak``      what it can do at most, measured on the spot
``timing``    participants, timed in turns
``stats``     medians, quartiles, geometric means
``work``      floating-point operations and bytes of a Problem
``nets``      networks by name, and the user's own
``participants``, ``gpu_participant``, ``torch_peer``   who runs them: fastdl on a backend or a GPU, PyTorch
``replay``    calls on a GPU as a CUDA graph
``layerwise`` the turns of all participants, and their record
``breakdown`` a network's record by settings, participants and rows
``pictures``  of a network: shares of the time, rows, rooflines, scaling
``table``     the same for a terminal
``page``      one HTML file with all of it
``compare``   two records: what is slower or faster beyond the noise

The suites of single layers, training steps and scripts, and their peers, are in the repository's ``bench/``.
"""
