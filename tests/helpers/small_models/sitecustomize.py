"""Found first by every Python that has this folder on its path: the smallest ESM C, made smaller.

Jobs are processes of their own, in which a test cannot replace anything by itself.
"""

from spotesm.weights.architectures import ARCHITECTURES, Architecture

ARCHITECTURES["esmc_300m"] = Architecture(3, 128, 2, "esmc", False, ARCHITECTURES["esmc_300m"].hub)
