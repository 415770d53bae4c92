"""From a trained ONNX file to a bundle: load, recognise the head, cut, calibrate, emit, verify, write.

    from edgevision.export import ExportConfig, export_model

    report = export_model("ssd.onnx", "ssd.edge", ExportConfig(precision="int8", calibration_images="photos/"))

`prepare` stops half-way: the float model in normal form, nothing written.
"""

from edgevision.export.config import ExportConfig
from edgevision.export.pipeline import export_model
from edgevision.export.preparation import PreparedModel, prepare
from edgevision.export.report import ExportReport

__all__ = ["ExportConfig", "ExportReport", "PreparedModel", "export_model", "prepare"]
