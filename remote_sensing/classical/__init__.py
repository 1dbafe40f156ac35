"""Change detectors that need no training: change vectors, IR-MAD, PCA-k-means. They are the default methods."""

from remote_sensing.classical.cva import ChangeVectors, fit_cva
from remote_sensing.classical.detector import ClassicalDetector, ScoreModel, fit_classical
from remote_sensing.classical.ir_mad import IrMad, fit_ir_mad
from remote_sensing.classical.pca_kmeans import PcaKmeans, fit_pca_kmeans
from remote_sensing.classical.radiometry import Radiometry, fit_radiometry
from remote_sensing.classical.thresholds import Decision

__all__ = [
    "ChangeVectors",
    "ClassicalDetector",
    "Decision",
    "IrMad",
    "PcaKmeans",
    "Radiometry",
    "ScoreModel",
    "fit_classical",
    "fit_cva",
    "fit_ir_mad",
    "fit_pca_kmeans",
    "fit_radiometry",
]
