// batch_norm and local_response_norm: see __init__.py.
#include "batch_norm.cuh"
#include "response_norm.cuh"
