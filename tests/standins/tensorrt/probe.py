"""Ask a TensorRT module small questions that need no library behind it: `python probe.py MODULE [FOLDER]`.

Run over the real bindings and over the stand-in, the answers must be the same. Those about numpy are asked where it
is installed.
"""

import importlib.util
import json
import sys
from pathlib import Path


def answers(trt):
    """Question -> what came out: a value's text, or an error's type and its first line."""
    flags, severity = trt.BuilderFlag, trt.ILogger.Severity

    class Silent(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, level, message):
            pass

    class Forgetful(trt.ILogger):
        def __init__(self):
            pass

        def log(self, level, message):
            pass

    def write(value, name, content):
        setattr(value, name, content)

    questions = {
        "enum text": lambda: (str(flags.TF32), repr(severity.ERROR), flags.TF32.name, severity.ERROR.value),
        "enum int": lambda: (int(severity.INFO), 1 << int(trt.DataType.HALF), [0, 1, 2][trt.DataType.HALF]),
        "enum from int": lambda: (trt.DataType(1), trt.DataType(99)),
        "enum equality": lambda: (
            trt.DataType(1) == trt.DataType.HALF,
            trt.DataType.HALF == 1,
            trt.DataType.HALF == trt.LayerType.ACTIVATION,
            severity.ERROR == 1,
            len({trt.DataType.HALF, trt.DataType(1)}),
        ),
        "enum members": lambda: sorted(trt.DataType.__members__)[:2],
        "enum order": lambda: trt.DataType.FLOAT < trt.DataType.HALF,
        "severity order": lambda: (severity.ERROR <= severity.WARNING, severity.ERROR < severity.ERROR),
        "severity and number": lambda: severity.ERROR <= 2,
        "enum shift": lambda: 1 << trt.DataType.HALF,
        "enum unknown": lambda: trt.BuilderFlag.NONSENSE,
        "enum from text": lambda: trt.DataType("HALF"),
        "enum call with float": lambda: trt.DataType(1.0),
        "dims": lambda: (trt.Dims((1, 3, 8)), tuple(trt.Dims([1, 2])), len(trt.Dims((5,))), trt.Dims((4, 5))[1]),
        "dims equality": lambda: (trt.Dims((1, 2)) == (1, 2), trt.Dims((1, 2)) == [1, 2], trt.Dims((1, 2)) == (1, 3)),
        "dims slice": lambda: (trt.Dims((1, 2, 3))[1:], trt.Dims((1, 2, 3))[-1]),
        "dims behind the end": lambda: trt.Dims((1, 2))[2],
        "dims of floats": lambda: trt.Dims((1.5, 2)),
        "dims of text": lambda: trt.Dims("12"),
        "dims text": lambda: (str(trt.Dims((1, -1))), repr(trt.Dims((7,))), str(trt.Dims())),
        "named dims": lambda: tuple(trt.Dims3(1, 2, 3)),
        "volume": lambda: (trt.volume((2, 3)), trt.volume(trt.Dims((4, 5))), trt.volume(())),
        "type sizes": lambda: [trt.DataType(i).itemsize for i in range(6)],
        "a type by its short name": lambda: (trt.float16, trt.int8, trt.float32 == trt.DataType.FLOAT),
        "no constructor": lambda: trt.IBuilderConfig(),
        "no constructor for layers": lambda: trt.ILayer(),
        "builder of a number": lambda: trt.Builder(3),
        "builder of nothing": lambda: trt.Builder(),
        "builder of None": lambda: trt.Builder(None),
        "runtime of text": lambda: trt.Runtime("log"),
        "runtime by another keyword": lambda: trt.Runtime(log=Silent()),
        "parser of a logger": lambda: trt.OnnxParser(Silent(), Silent()),
        "unbound call": lambda: trt.IBuilderConfig.set_memory_pool_limit(None, 1, 2),
        "unbound flag": lambda: trt.IBuilderConfig.set_flag(3, flags.TF32),
        "logger without base": lambda: Forgetful(),
        "logger's own attribute": lambda: write(Silent(), "note", 1),
        "a call to the base's log": lambda: trt.ILogger.log(Silent(), severity.ERROR, "x"),
        "log with a number": lambda: trt.ILogger.log(Silent(), 1, "x"),
        "logger": lambda: (trt.Logger(trt.Logger.ERROR).min_severity, trt.Logger().min_severity),
        "logger levels": lambda: (trt.Logger.WARNING, trt.ILogger.Severity.WARNING == trt.Logger.Severity.WARNING),
        "logger of a number": lambda: trt.Logger(1),
        "unknown attribute of an object": lambda: write(trt.Logger(), "volume", 3),
        "unknown attribute of dims": lambda: write(trt.Dims((1,)), "sides", 3),
        "read-only": lambda: write(trt.Weights(trt.DataType.FLOAT), "size", 3),
        "wrong type of a property": lambda: write(trt.Logger(), "min_severity", 2),
        "unknown member": lambda: trt.Builder.max_speed,
    }
    if importlib.util.find_spec("numpy") is not None:
        questions["numpy types"] = lambda: [trt.nptype(trt.DataType(i)).__name__ for i in range(6)]
        questions["numpy type of fp8"] = lambda: trt.nptype(trt.DataType.FP8)
    if hasattr(trt, "IInt8EntropyCalibrator2"):

        class Calibrator(trt.IInt8EntropyCalibrator2):
            def __init__(self):
                trt.IInt8EntropyCalibrator2.__init__(self)

        questions["calibrator"] = lambda: isinstance(Calibrator(), trt.IInt8Calibrator)
        questions["calibrator's algorithm"] = lambda: Calibrator().get_algorithm()
    if hasattr(trt, "IProgressMonitor"):

        class Monitor(trt.IProgressMonitor):
            def __init__(self):
                trt.IProgressMonitor.__init__(self)

        questions["monitor"] = lambda: isinstance(Monitor(), trt.IProgressMonitor)
    found = {}
    for question, ask in questions.items():
        try:
            found[question] = repr(ask())
        except Exception as error:  # noqa: BLE001
            lines = str(error).splitlines() or [""]
            found[question] = f"{type(error).__name__}: {lines[0]}"
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from dump import load

    json.dump(answers(load(*sys.argv[1:3])), sys.stdout)
