"""How good a model is: labelled data sets, metrics, and the run that joins them."""

from edgevision.evaluation.comparison import compare
from edgevision.evaluation.datasets import BoxDataset, Dataset, MaskDataset
from edgevision.evaluation.evaluator import evaluate
from edgevision.evaluation.specs import open_dataset

__all__ = ["BoxDataset", "Dataset", "MaskDataset", "compare", "evaluate", "open_dataset"]
