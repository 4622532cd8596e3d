"""How long a clinician waits for a CT series: `PYTHONPATH=. python benchmarks/volumes.py`.

Writes a synthetic series of 512 x 512 x 300 slices, reads it as the page does, and prints the time until the first
picture, a step of the slice slider in every plane (drawing and PNG), and the peak memory as a multiple of the raw
volume; the times also as a ratio to decoding one slice, which does not depend on the machine.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from nearl.data.images import decode_many, decode_one
from nearl.data.sandbox.client import SHARED


def write_series(folder: Path, slices: int, side: int) -> list[Path]:
    """A noisy ball of soft tissue in air, one CT file per slice."""
    rng, series, paths = np.random.default_rng(0), generate_uid(), []
    y, x = np.mgrid[:side, :side] - side / 2
    for number in range(slices):
        radius = side * 0.45 * np.sqrt(max(0.05, 1 - (2 * number / slices - 1) ** 2))
        picture = np.where(x**2 + y**2 < radius**2, 40, -1000) + rng.integers(-20, 20, (side, side))
        ds, ds.file_meta = Dataset(), FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = CTImageStorage, generate_uid(), series
        ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel = "CT", "MONOCHROME2", 1
        ds.Rows = ds.Columns = side
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept, ds.PixelSpacing = 1, 0, [0.8, 0.8]
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, float(number)]
        ds.PixelData = picture.astype("<i2").tobytes()
        paths.append(folder / f"{rng.integers(10**9)}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def timed(work, repeats: int = 1) -> float:
    """The median seconds of some calls."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def own_peak() -> int:
    """The most memory of this process so far, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def measure(slices: int, side: int) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_series(folder, slices, side)
        archive = folder / "series.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
            for path in paths:
                packed.write(path, path.name)
        one = timed(lambda: decode_one(paths[0]), 5)  # also starts the worker
        one = timed(lambda: decode_one(paths[0]), 5)
        before, found = own_peak(), []
        first = timed(lambda: found.extend(decode_many(paths)[0]))
        (record,) = found
        raw = record.scan.voxels.nbytes
        peak = own_peak() - before + SHARED.peak
        zipped = timed(lambda: decode_many([archive]))

        def step(plane: str) -> float:
            view, numbers = record.at(plane=plane), iter(np.random.default_rng(1).integers(0, slices, 99).tolist())
            return timed(lambda: view.slice_at(next(numbers)).image().save(io.BytesIO(), "PNG"), 15)

        steps = {plane: step(plane) for plane in record.scan.planes}
    return {
        "slices": slices,
        "side": side,
        "raw_megabytes": round(raw / 1e6),
        "one_slice_ms": round(1000 * one, 1),
        "first_picture_s": round(first, 2),
        "first_picture_of_zip_s": round(zipped, 2),
        "first_picture_in_slices": round(first / one, 1),
        "step_ms": {plane: round(1000 * seconds, 1) for plane, seconds in steps.items()},
        "step_in_slices": {plane: round(seconds / one, 2) for plane, seconds in steps.items()},
        "peak_in_raw_volumes": round(peak / raw, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--side", type=int, default=512)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.slices, arguments.side), indent=2))
