"""Networks as files that run without this package: ONNX and ``torch.export``.

    export_onnx      for onnxruntime, from Python, C++, C#, JavaScript, ...
    export_program   for PyTorch, without the code of the network
    load_exported    either of them, as a network that ``medseg.inference`` takes
    check_exported   against the network, on the same images
    verify_exported  against what the network said when it was exported

Such a file holds what must be known to use it: the spacing of training, the window of
intensities, the names of channels and classes (``Metadata``). It needs the extra
``medseg[export]``, but for ``export_program``.
"""

from medseg.export._files import (
    check_exported,
    export_onnx,
    export_program,
    verify_exported,
)
from medseg.export._loaded import ExportedModel, load_exported
from medseg.export._metadata import Metadata

__all__ = [
    "ExportedModel",
    "Metadata",
    "check_exported",
    "export_onnx",
    "export_program",
    "load_exported",
    "verify_exported",
]
