"""What users give as arrays: turned into tensors where it has one meaning, else refused.

An array is a torch tensor (of any device, with or without a graph), a numpy array (of any order,
strides or byte order, writable or not), a list of numbers or of these, or whatever numpy makes an
array of. Complex numbers, objects, text, masked, sparse, nested and quantised arrays, and tensors
without values are refused everywhere, and so is what is empty, NaN or Inf.

============== ============================ =====================================================
given          images [N, C, H, W]          labels [N] or [N, 1]
============== ============================ =====================================================
uint8          divided by 255               class indices
other integers refused: of which range?     class indices
floats         as they are, if in [0, 1]    refused, even if whole: they may be probabilities
bool           refused                      refused
============== ============================ =====================================================

How far optimised images may leave [0, 1] is said in `hpd.arrays.pictures`.
"""

from hpd.arrays.labels import as_count, as_labels, as_names, as_probabilities
from hpd.arrays.pictures import as_images
from hpd.arrays.tensors import as_numbers, as_tensor

__all__ = [
    "as_count",
    "as_images",
    "as_labels",
    "as_names",
    "as_numbers",
    "as_probabilities",
    "as_tensor",
]
