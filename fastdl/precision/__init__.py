"""The precision laboratory: what fewer bits cost in accuracy, and what they bring in bytes and time on this machine.

``formats``    the table of formats: bits, sums, range, how a network gets there, and why one cannot run here
``quantization``, ``binarization``   ``fastdl.quantize`` and ``fastdl.binarize``
``plan``       what is asked for, and what is known before any work starts
``record``     the schema of its files, documented and validated there
``measure``    signal and noise of layers, scores, bytes, kernels, histograms of gradients
``inference``  a trained network in each format
``training``   a network trained in each format, seed by seed
``view``       a report as rows and columns of text
``table``      the report for a terminal
``pictures``   accuracy, the frontier, noise and gradients of layers
``page``       one HTML file with all of it

``fastdl precision`` is its command line. Importing this imports nothing.
"""
