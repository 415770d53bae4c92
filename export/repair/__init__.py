"""Repairs: what is changed in a float network, or beside it, so that INT8 loses less. One pass per file.

| pass | before | after |
|---|---|---|
| `equalise` | float graph, magnitudes of the channels before quantised layers | the same function, channels alike |
| `scale-inputs` | the above | the same function; a multiplication in front of layers whose channels still differ |
| `clip-weights` | weights | the scale of each output channel with the least square error |
| `correct-biases` | a quantised layer and its float twin on the same input | equal mean output per channel |
| `float-sums` | residual Adds with a quantised identity branch | a float one where its grid would make too much noise |
| `rough-layers` | the layers that are quantised, probed | cheap ones whose grids make much noise stay float16 |
| `centre-grids` | tensors that a pass writes anyway | INT8 grids around the middle of their range |
| `share-grids` | ranges of tensors that are one another's, moved | one range for those that are nearly alike |
"""

REPAIRS = (
    "equalise",
    "scale-inputs",
    "clip-weights",
    "correct-biases",
    "float-sums",
    "rough-layers",
    "centre-grids",
    "share-grids",
)
RESCALING = ("equalise", "scale-inputs")
"""After these, tensors have other ranges than in the network as it came."""
WITHOUT_PICTURES = ("clip-weights", "share-grids")
"""Those that need no more than ranges around zero."""
