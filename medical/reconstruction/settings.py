"""What a reconstruction can be told, validated: the keys of a configuration file and of the command line."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Method = Literal["rss", "sense", "wavelet", "tv", "no-varnet", "varnet", "modl", "dds"]
TRAINED: tuple[Method, ...] = ("no-varnet", "varnet", "modl", "dds")
PartialFourier = Literal["zero", "homodyne", "pocs"]


class Settings(BaseModel):
    """How to prepare and reconstruct a scan.

    Attributes:
        method: "rss" (root sum of squares of the zero-filled coil images), "sense" (CG-SENSE), "wavelet" (L1-wavelet
            compressed sensing), "tv" (total variation), a trained network ("no-varnet", "varnet", "modl"), or
            "dds" (samples of a diffusion posterior).
        whiten: decorrelate the coils with the noise scan, if the file has one.
        virtual_coils: compress the coils to this many; None keeps all.
        compression: "scc" (one matrix for all readout positions) or "gcc" (one per readout position).
        map_sets: sets of ESPIRiT maps; 2 for a field of view smaller than the object.
        map_crop: ESPIRiT eigenvalue below which a pixel counts as empty, 0 to 1; None takes the method's own.
        lamda: regularisation weight, the number of BART's `pics -R`; None takes 0.3 noise standard deviations
            for "wavelet" and "tv" of prewhitened data, and else 0.002 (0.005 for "sense").
        iterations: None takes the method's own.
        partial_fourier: "zero" (fill with zeros; a trained network fills by itself), "homodyne" or "pocs".
        samples: posterior samples that "dds" draws a slice, for their mean and their spread.
        calls: network calls of each.
        weights: of the trained model, by name or path; None takes the packaged ones.
        force: run a trained model on a scan far outside its model card.
        consistency: how a trained network ends: "soft" (the image nearest to it that also fits the data, weighted by
            the noise, so only on whitened data), "hard" (it must fit the data exactly) or "none" (as it is).
        classical: the method whose image is shown beside that of a trained one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = "wavelet"
    whiten: bool = True
    virtual_coils: PositiveInt | None = None
    compression: Literal["scc", "gcc"] = "gcc"
    map_sets: int = Field(default=1, ge=1, le=2)
    map_crop: float | None = Field(default=None, ge=0, le=1)
    lamda: PositiveFloat | None = None
    iterations: PositiveInt | None = None
    partial_fourier: PartialFourier = "zero"
    samples: int = Field(default=8, ge=2)
    calls: PositiveInt = 20
    weights: str | None = None
    force: bool = False
    consistency: Literal["none", "soft", "hard"] = "soft"
    classical: Literal["sense", "wavelet", "tv"] = "wavelet"
