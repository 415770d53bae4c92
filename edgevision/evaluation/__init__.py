"""How good a model is: labelled data sets, metrics, and the run that joins them."""

from edgevision.evaluation.datasets import BoxDataset, Dataset, MaskDataset
from edgevision.evaluation.specs import open_dataset

__all__ = ["BoxDataset", "Dataset", "MaskDataset", "open_dataset"]
