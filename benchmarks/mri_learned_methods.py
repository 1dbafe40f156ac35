"""The reconstructions that `benchmarks.mri_learned` compares, each a function from a scan to an image and seconds.

What counts: from prewhitened k-space in memory to the image in memory, coil maps included, weights already loaded. For
BART it is the wall time of its processes with their files in memory (/dev/shm), since that is what a call costs.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medical.images import Geometry
from medical.reconstruction import trained
from medical.reconstruction.coil_maps import calibration_region, fitting_kernel
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.least_squares import rss
from medical.reconstruction.methods import CALIBRATION_SIZE, METHODS, coil_maps_of, encode, reconstruct_slice
from medical.reconstruction.operators import CartesianSense
from medical.reconstruction.quality.card import read_card
from medical.reconstruction.raw import RawScan
from medical.reconstruction.settings import TRAINED, Settings
from medical.reconstruction.trusted import ended
from shared.errors import InputError

BART = ("bart-wavelet", "bart-nlinv")
OWN = {"varnet-own": "varnet", "no-varnet-own": "no-varnet", "modl-own": "modl"}
"""Networks without the soft data consistency that the command ends with."""

CLASSIC = ("zero-filled", "sense", "wavelet", *BART)
ALL = (*CLASSIC, *OWN, *TRAINED)


@dataclass(frozen=True)
class Found:
    """An image, what it took, and what it says of k-space.

    Attributes:
        image: magnitude (y, x).
        seconds: wall time.
        residual: ||A x - y||^2 over the number of samples; None where A is not known.
        kspace: gives F S x, complex (coil, y, x), what the image and its maps say of every sample; computed only when
            asked for, since it is no part of the method; None where not known.
    """

    image: Tensor
    seconds: float
    residual: float | None = None
    kspace: Callable[[], Tensor] | None = None


Run = Callable[[RawScan], Found]


def scan_of_slice(
    kspace: Tensor, mask: Tensor, spacing_mm: tuple[float, float], noise: Tensor | None = None
) -> RawScan:
    """Return a prewhitened scan of one slice (coil, y, x); without noise samples, with ideal ones of variance 1."""
    ny, nx = mask.shape
    fov = (spacing_mm[1] * nx, spacing_mm[0] * ny, 3.0)
    if noise is None:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(kspace), 4096, dtype=torch.complex64, generator=generator)
    return RawScan(
        kspace=(kspace * mask)[None].to(torch.complex64),
        mask=mask[None],
        geometry=Geometry(fov, nominal=True),
        recon_matrix=(1, ny, nx),
        recon_fov_mm=fov,
        source="benchmark",
        noise=noise,
    )


def runners(names: tuple[str, ...], weights: dict[str, str], samples: int, calls: int, device: str) -> dict[str, Run]:
    """Return the methods that can run here; a word on each that cannot.

    Args:
        names: of `ALL`, or of `weights`.
        weights: a path for a name; the method of a name beyond `ALL` is that of its card.
        samples: of the posterior.
        calls: of its network for each.
        device: of the trained methods.
    """
    found: dict[str, Run] = {}
    for name in names:
        if name in TRAINED or name in OWN or name in weights:
            method = OWN.get(name, name) if name in ALL else read_card(Path(weights[name])).method
            ending = "none" if name in OWN else "soft"
            drawn = {"samples": samples, "calls": calls}
            settings = Settings(
                method=method, weights=weights.get(name, weights.get(method)), force=True, consistency=ending, **drawn
            )
            try:
                found[name] = trained_runner(settings, device)
            except InputError as error:
                print(f"{name} is left out: {error}")
        elif name in BART and shutil.which("bart") is None:
            print(f"{name} is left out: BART is not installed")
        else:
            found[name] = CLASSICAL[name]
    return found


def trained_runner(settings: Settings, device: str) -> Run:
    """Return the run of a trained method."""
    model = trained.load_model(settings, device)

    def run(scan: RawScan) -> Found:
        start = time.perf_counter()
        fitted = trained.fitted(scan, model, settings)
        images, _ = ended(fitted, trained.images_of(fitted, model, torch.Generator().manual_seed(0)), settings)
        seconds = time.perf_counter() - start
        operator = CartesianSense(images.maps, fitted.mask)
        energy = float((operator(images.image) - fitted.kspace).norm()) ** 2
        residual = energy / (int(fitted.mask.sum()) * fitted.coils)

        def kspace() -> Tensor:
            return fft_centred(images.maps * images.image[:, :, None])[0, 0]

        return Found(images.image[0, 0].abs(), seconds, residual, kspace if fitted.coils == scan.coils else None)

    return run


def zero_filled(scan: RawScan) -> Found:
    """Root sum of squares of the zero-filled coil images."""
    start = time.perf_counter()
    image = rss(ifft_centred(scan.kspace))[0]
    return Found(image, time.perf_counter() - start)


def classical(settings: Settings) -> Run:
    """Return the run of one of our classical methods."""

    def run(scan: RawScan) -> Found:
        start = time.perf_counter()
        result = reconstruct_slice(scan, settings, generator=torch.Generator().manual_seed(0))
        seconds = time.perf_counter() - start

        def kspace() -> Tensor:
            maps = coil_maps_of(scan, crop=settings.map_crop or METHODS[settings.method].map_crop)[0][0, 0]
            return fft_centred(maps * result.image[0])

        return Found(result.image[0].abs(), seconds, result.residual_energy / result.noise_energy, kspace)

    return run


def bart_wavelet(scan: RawScan) -> Found:
    """BART's ESPIRiT maps (cropped as ours for sparse methods) and `pics -R W`, with our weight: one objective.

    Its kernel is ours too: with its default of 6 it aborts where there are fewer central lines.
    """
    recipe = METHODS["wavelet"]
    encoding = encode(scan, coil_maps_of(scan, crop=recipe.map_crop)[0])
    weight = recipe.weight(encoding, white=True)
    box = calibration_region(scan.mask, size=CALIBRATION_SIZE)
    kernel = fitting_kernel(tuple(side.stop - side.start for side in box))
    maps = f"ecalib -m1 -r{CALIBRATION_SIZE} -k{kernel} -c{recipe.map_crop} kspace maps"
    pics = f"pics -S -R W:3:0:{weight:.6g} -i{recipe.iterations} kspace maps out"
    (image, coils), seconds = _bart(scan, ("out", "maps"), maps, pics)
    odd = tuple(axis for axis in (0, 1) if image.shape[axis] % 2)
    # BART 0.8's pics puts an image of odd side one pixel further along it than its fft does.
    image = image.roll((-1,) * len(odd), odd) if odd else image
    return _found(scan, image, coils, seconds)


def bart_nlinv(scan: RawScan) -> Found:
    """BART's nonlinear inversion with its defaults; its image carries the shading of the coils, as RSS does."""
    (image, coils), seconds = _bart(scan, ("out", "maps"), "nlinv -S kspace out maps")
    return _found(scan, image, coils, seconds)


def _found(scan: RawScan, image: Tensor, maps: Tensor, seconds: float) -> Found:
    """Return what BART found; its unit is fitted to the measured samples."""

    def kspace() -> Tensor:
        every = fft_centred(maps.movedim(-1, 0) * image[..., 0])
        measured, told = scan.kspace[0][:, scan.mask[0]], every[:, scan.mask[0]]
        return every * (told.conj() * measured).sum() / told.abs().square().sum().clamp_min(1e-30)

    return Found(image[..., 0].abs(), seconds, kspace=kspace)


CLASSICAL: dict[str, Run] = {
    "zero-filled": zero_filled,
    # Maps cropped at 0.5: with the few calibration lines of a high rate the default 0.8 cuts into the head.
    "sense": classical(Settings(method="sense", map_crop=0.5)),
    "wavelet": classical(Settings(method="wavelet")),
    "bart-wavelet": bart_wavelet,
    "bart-nlinv": bart_nlinv,
}


def peak_memory(name: str, weights: dict[str, str], size: int = 320, coils: int = 16) -> float:
    """Return MiB that a method adds, at most, to a fresh process with its libraries and weights loaded."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_in_child, (name, weights, size, coils))


def _peak_in_child(name: str, weights: dict[str, str], size: int, coils: int) -> float:
    torch.set_num_threads(1)
    run = runners((name,), weights, samples=2, calls=2, device="cpu")[name]
    run(_disc_scan(128, coils))
    before = _memory("VmRSS")
    run(_disc_scan(size, coils))
    return _memory("VmHWM") - before


def _disc_scan(size: int, coils: int) -> RawScan:
    """A scan of a disc over 256 mm: every fourth line and 24 in the middle."""
    axis = torch.linspace(-1, 1, size)
    disc = 20 * ((axis[:, None] ** 2 + axis**2) < 0.6).to(torch.complex64)
    angles = torch.arange(coils) * 2 * torch.pi / coils
    maps = torch.stack([torch.exp(1j * a - (axis[:, None] - a.sin()) ** 2 - (axis - a.cos()) ** 2) for a in angles])
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[::4] = mask[size // 2 - 12 : size // 2 + 12] = True
    generator = torch.Generator().manual_seed(0)
    kspace = fft_centred(maps * disc) + torch.randn(coils, size, size, dtype=torch.complex64, generator=generator)
    return scan_of_slice(kspace, mask, (256 / size, 256 / size))


def _memory(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def _bart(scan: RawScan, outputs: tuple[str, ...], *commands: str) -> tuple[list[Tensor], float]:
    """Run BART commands on the file "kspace"; return the named files, complex (y, x, coil), and wall seconds."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        ordered = scan.kspace[0].permute(1, 2, 0)[:, :, None].numpy()
        header = " ".join(map(str, ordered.shape))
        Path(folder, "kspace.hdr").write_text(f"# Dimensions\n{header}\n", encoding="ascii")
        ordered.ravel(order="F").tofile(Path(folder, "kspace.cfl"))
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        start = time.perf_counter()
        for command in commands:
            subprocess.run(["bart", *command.split()], cwd=folder, env=environment, capture_output=True, check=True)
        seconds = time.perf_counter() - start
        return [_cfl(Path(folder, name)) for name in outputs], seconds


def _cfl(path: Path) -> Tensor:
    dims = [int(n) for n in path.with_suffix(".hdr").read_text(encoding="ascii").splitlines()[1].split()]
    array = np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(dims, order="F")
    return torch.from_numpy(array.reshape(dims[0], dims[1], -1).copy())
