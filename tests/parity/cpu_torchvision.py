"""Lets torchvision import beside a CPU torch it was not built for.

Its wheel asks for a CUDA torch; with a CPU build its compiled operators do not load, and importing
it fails while it registers Python fallbacks for them. transformers only needs its Python part, so
declaring the operators' names is enough. Importing this module does it.
"""

import sys

_KERNELS = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")


def _declare_operators(torch):
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms", *_KERNELS, *(f"_{name}_backward" for name in _KERNELS)):
        library.define(f"{name}(Tensor x) -> Tensor")
    return library


try:
    import torchvision  # noqa: F401
except ImportError:
    pass
except RuntimeError:
    import torch

    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    # The library object must live as long as its declarations.
    TORCHVISION_OPERATORS = _declare_operators(torch)
