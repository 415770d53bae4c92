"""The export, step by step."""

from edgevision.export.preparation import PreparedModel, prepare

export_model = None
