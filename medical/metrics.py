"""How far an image is from a reference: the metrics of the fastMRI challenge and two more.

Every function takes the reference first and works on volumes (slice, y, x) in double precision. Complex input counts by
its magnitude. All pixels are used; fastMRI first crops both volumes with `crop_square`. Numbers from different
references (RSS, MVUE) or crops are not comparable.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.errors import InputError

WINDOW = 7
K1, K2 = 0.01, 0.03


def nmse(reference: Tensor, image: Tensor) -> float:
    """Return ||x - r||^2 / ||r||^2 over the volume, without any rescaling (fastMRI)."""
    r, x = _magnitudes(reference, image)
    return float((x - r).square().sum() / r.square().sum())


def psnr(reference: Tensor, image: Tensor) -> float:
    """Return 10 log10(max(r)^2 / mean((x - r)^2)) in dB, maximum and mean over the volume, no rescaling (fastMRI)."""
    r, x = _magnitudes(reference, image)
    return float(10 * torch.log10(r.max().square() / (x - r).square().mean()))


def ssim(reference: Tensor, image: Tensor) -> float:
    """Return the structural similarity as fastMRI computes it, without rescaling.

    Per slice, with local means mu, sample variances and covariance (49/48) over a uniform 7 x 7 window, L = max(r) over
    the volume, C_1 = (0.01 L)^2 and C_2 = (0.03 L)^2:

        SSIM = (2 mu_r mu_x + C_1)(2 cov_rx + C_2) / ((mu_r^2 + mu_x^2 + C_1)(var_r + var_x + C_2))

    averaged over the pixels whose window lies inside the slice, then over slices. Source: Wang et al., IEEE TIP 13:600,
    2004, with the defaults of scikit-image.

    Raises:
        InputError: slices smaller than the window.
    """
    r, x = _magnitudes(reference, image)
    if min(r.shape[-2:]) < WINDOW:
        raise InputError(
            "image", found=f"slices of {tuple(r.shape[-2:])}", expected="7 x 7 pixels or more", fix="Use larger slices."
        )
    return float(similarity(r, x, r.max().expand(len(r))).mean())


def similarity(reference: Tensor, image: Tensor, data_range: Tensor) -> Tensor:
    """Return the structural similarity of `ssim` for each slice, (N,), differentiable and in the precision given.

    Args:
        reference: real (N, y, x).
        image: real (N, y, x).
        data_range: (N,), the L of `ssim`.
    """
    r, x = reference, image
    L = data_range[:, None, None]
    count = WINDOW**2
    sample = count / (count - 1)

    def local(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[:, None], WINDOW, stride=1)[:, 0]

    mu_r, mu_x = local(r), local(x)
    var_r = sample * (local(r * r) - mu_r * mu_r)
    var_x = sample * (local(x * x) - mu_x * mu_x)
    cov = sample * (local(r * x) - mu_r * mu_x)
    C1, C2 = (K1 * L) ** 2, (K2 * L) ** 2
    values = ((2 * mu_r * mu_x + C1) * (2 * cov + C2)) / ((mu_r**2 + mu_x**2 + C1) * (var_r + var_x + C2))
    return values.flatten(1).mean(1)


def nrmse_best_scalar(reference: Tensor, image: Tensor) -> float:
    """Return min_s ||s |x| - |r||| / ||r|| over the volume: the error that no change of units explains.

    The best scalar is s = <|x|, |r|> / ||x||^2, one for the whole volume.
    """
    r, x = _magnitudes(reference, image)
    r, x = r.abs(), x.abs()
    energy = x.square().sum()
    scale = (x * r).sum() / energy if energy > 0 else energy
    return float((scale * x - r).norm() / r.norm())


def hfen(reference: Tensor, image: Tensor) -> float:
    """Return the high-frequency error norm ||LoG x - LoG r|| / ||LoG r|| over the volume, without rescaling.

    LoG is the 15 x 15 Laplacian of a Gaussian with standard deviation 1.5 pixels, slice by slice with zeros outside.
    Source: Ravishankar & Bresler, IEEE TMI 30:1028, 2011.
    """
    r, x = _magnitudes(reference, image)
    kernel = laplacian_of_gaussian(15, 1.5)[None, None]
    edges_r, edges_x = (F.conv2d(values[:, None], kernel, padding=7) for values in (r, x))
    return float((edges_x - edges_r).norm() / edges_r.norm())


def laplacian_of_gaussian(size: int, sigma: float) -> Tensor:
    """Return the (size, size) kernel g (x^2 + y^2 - 2 sigma^2) / sigma^4 with g of sum 1, shifted to sum 0."""
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    square = x[:, None] ** 2 + x**2
    gaussian = torch.exp(-square / (2 * sigma**2))
    kernel = gaussian / gaussian.sum() * (square - 2 * sigma**2) / sigma**4
    return kernel - kernel.mean()


def crop_square(volume: Tensor) -> Tensor:
    """Return the central (W, W) pixels of (..., H, W), which fastMRI evaluates.

    Raises:
        InputError: H is below W.
    """
    height, width = volume.shape[-2:]
    if height < width:
        raise InputError(
            "volume",
            found=f"slices of {height} x {width}",
            expected="at least as many rows as columns",
            fix="Transpose the slices or use all pixels.",
        )
    start = (height - width) // 2
    return volume[..., start : start + width, :]


def _magnitudes(reference: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as float64 (slice, y, x).

    Raises:
        InputError: other shapes than three axes, shapes that differ, or a reference without signal.
    """
    if reference.shape != image.shape or reference.dim() != 3:
        raise InputError(
            "image",
            found=f"{tuple(image.shape)} against a reference of {tuple(reference.shape)}",
            expected="two volumes (slice, y, x) of one shape",
            fix="Crop or reconstruct them on the same grid.",
        )
    r, x = (v.abs() if v.is_complex() else v for v in (reference.detach().cpu(), image.detach().cpu()))
    if not bool(r.any()):
        raise InputError("reference", found="zeros only", expected="an image", fix="Check the reference.")
    return r.to(torch.float64), x.to(torch.float64)
