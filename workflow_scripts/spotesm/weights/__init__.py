"""Which weights a model has, and the files of every format that hold them."""
