"""Synthetic images with exact labels, drawn by seeded NumPy code.

    cells          fluorescent nuclei under a microscope      instance numbers
    em_membranes   tissue under an electron microscope        1 cell, 0 membrane
    abdomen_ct     a CT slice of the abdomen, in HU           organs and a tumour
    write_cells    a folder of cells as PNG files             what `medseg demo` uses

Each image is drawn as what is there, in exact shapes; the labels are read off at
this point. Only then come the optics and the noise. So the labels are exact where an
annotator could only guess, and the same seed gives the same picture.
"""

from medseg.phantoms._abdomen import ABDOMEN_HU, abdomen_ct
from medseg.phantoms._cells import cells, write_cells
from medseg.phantoms._membranes import em_membranes
from medseg.phantoms._phantom import Phantom

__all__ = [
    "ABDOMEN_HU",
    "Phantom",
    "abdomen_ct",
    "cells",
    "em_membranes",
    "write_cells",
]
