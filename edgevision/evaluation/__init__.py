"""How good a model is: labelled data sets, metrics, the run that joins them, and a bundle's graphs side by side."""

from edgevision.evaluation.comparison import Comparison, compare, compare_graphs
from edgevision.evaluation.datasets import BoxDataset, Dataset, MaskDataset, PictureSet, open_images
from edgevision.evaluation.evaluator import evaluate
from edgevision.evaluation.recording import Recording
from edgevision.evaluation.specs import open_dataset

__all__ = [
    "BoxDataset",
    "Comparison",
    "Dataset",
    "MaskDataset",
    "PictureSet",
    "Recording",
    "compare",
    "compare_graphs",
    "evaluate",
    "open_dataset",
    "open_images",
]
