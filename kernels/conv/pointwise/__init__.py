"""1x1 convolution in place."""
