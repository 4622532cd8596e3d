"""File formats behind one registry; the first one that recognises a file reads it.

DICOM comes first: the 128 bytes before its mark may look like a TIFF header.
"""

from nearl.data.formats.base import FORMATS
from nearl.data.formats.dicom import Dicom
from nearl.data.formats.documents import Pdf
from nearl.data.formats.nifti import Nifti
from nearl.data.formats.pictures import PICTURES

FORMATS.register("DICOM", Dicom())
for _name, _format in PICTURES.items():
    FORMATS.register(_name, _format)
FORMATS.register("NIfTI", Nifti())
FORMATS.register("PDF", Pdf())
