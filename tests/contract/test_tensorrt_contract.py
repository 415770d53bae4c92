"""Every use that the product makes of TensorRT exists, with that signature, in every version it supports.

Uses are collected from the source (usage.py), and checked against the real bindings of each version, which
scripts/set-up-device installs, and against the facts that the stand-in is made of.
"""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.source import Use, read
from tests.contract.usage import all_apis, check, collect, has, product, somewhere, used_members
from tests.standins.tensorrt import bindings, facts, probe, versions
from tests.standins.tensorrt.facts import Api

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).resolve().parents[2]
FILES = product(ROOT)
USES, PROBLEMS = collect(FILES)


def needs(version: str) -> None:
    """Skip where NVIDIA has no bindings of a version for this Python and no other Python is here to look with."""
    here = sys.version_info[:2]
    if not bindings.installed(version) and version in bindings.WITHOUT_WHEEL.get(here, ()):
        pytest.skip(f"there are no bindings of TensorRT {version} for Python {here[0]}.{here[1]}; CI has them for 3.11")


def wrong(uses: list[Use], api: Api) -> list[str]:
    return [problem for use in uses if (problem := check(use, api)) is not None]


def wrong_anywhere(uses: list[Use], apis: list[Api]) -> list[str]:
    found = [problem for use in uses if (problem := somewhere(use, apis)) is not None]
    return found + [problem for api in apis for problem in wrong(uses, api)]


class TestTheProduct:
    @pytest.mark.parametrize("version", versions())
    def test_what_it_uses_is_in_the_real_bindings(self, version: str) -> None:
        needs(version)
        assert wrong(USES, bindings.api(version)) == []

    @pytest.mark.parametrize("api", all_apis(), ids=versions())
    def test_what_it_uses_is_in_the_stand_in(self, api: Api) -> None:
        assert wrong(USES, api) == []

    def test_what_it_asks_for_by_name_exists_in_some_version_and_can_be_reached(self) -> None:
        assert [problem for use in USES if (problem := somewhere(use, all_apis())) is not None] == []

    def test_every_value_can_be_followed(self) -> None:
        assert set() == PROBLEMS

    def test_no_use_is_overlooked(self) -> None:
        """Whatever is spelled like a member of TensorRT, in a file that handles its objects, was recorded there."""
        names = {name for api in all_apis() for c in api.classes.values() for name in (*c.methods, *c.properties)}
        telling = {name for name in names if "_" in name.strip("_") and not name.startswith("_")}
        recorded = {(use.where, use.member) for use in USES}
        found = {
            (f"{path}:{node.lineno}", node.attr)
            for path, tree in read(FILES).files.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in telling
        }
        assert found - recorded == set()
        assert len(found) > 60

    def test_the_collection_reaches_what_an_engine_cannot_do_without(self) -> None:
        members = set(used_members(USES))
        assert {
            ("Builder", "build_serialized_network"),
            ("Runtime", "deserialize_cuda_engine"),
            ("IExecutionContext", "execute_async_v3"),
            ("IExecutionContext", "set_tensor_address"),
            ("OnnxParser", "parse"),
            ("ILogger", "log"),
        } <= members


class TestTheStandIn:
    @pytest.mark.parametrize("version", versions())
    def test_its_facts_are_those_of_the_real_bindings(self, version: str) -> None:
        needs(version)
        assert comparable(facts.load(version)) == comparable(bindings.api(version))

    @pytest.mark.parametrize("version", versions())
    def test_its_facts_are_those_that_were_collected_from_the_bindings_before(self, version: str, shared: Path) -> None:
        dump = json.loads((shared / "tensorrt_api" / f"tensorrt-{version}.json").read_text())
        assert comparable(facts.load(version)) == comparable(facts.entries_to_api(version, dump))

    @pytest.mark.parametrize("version", versions())
    def test_it_answers_as_the_real_bindings_do(self, version: str) -> None:
        needs(version)
        from tests.standins.tensorrt import install

        real = bindings.run(version, Path(probe.__file__))
        with install(version) as standin:
            ours = probe.answers(standin.module)
        assert {q: plain(ours[q]) for q in real} == {q: plain(text) for q, text in real.items()}


def plain(answer: str) -> str:
    """Without the module's name, and without the words that depend on the Python."""
    for qualifier in ("tensorrt_bindings.tensorrt.", "tensorrt_rtx_bindings.tensorrt_rtx."):
        answer = answer.replace(qualifier, "")
    answer = answer.partition(" and no __dict__")[0]
    return "AttributeError: read-only" if "setter" in answer or "can't set attribute" in answer else answer


def comparable(api: Api) -> object:
    """An API in which the order of overloads does not matter."""
    classes = {
        name: (c.base, c.constructible, c.properties, {m: {s.text() for s in o} for m, o in c.methods.items()})
        for name, c in api.classes.items()
    }
    return classes, api.enums, {name: {s.text() for s in o} for name, o in api.functions.items()}, api.constants


def without(api: Api, owner: str, member: str, *, renamed: bool) -> Api:
    """An API with one member taken out, or under another name."""
    lineage = {c.name: replace(c, methods=dict(c.methods), properties=dict(c.properties)) for c in api.lineage(owner)}
    changed = Api(api.version, {**api.classes, **lineage}, dict(api.enums), dict(api.functions), dict(api.constants))
    tables: list[dict[str, Any]] = [table for c in lineage.values() for table in (c.methods, c.properties)]
    if owner == "module":
        tables = [changed.classes, changed.enums, changed.functions, changed.constants]
    elif owner in api.enums:
        changed.enums[owner] = dict(api.enums[owner])
        tables = [changed.enums[owner]]
    for table in tables:
        if member in table:
            entry = table.pop(member)
            if renamed:
                table[f"{member}_2"] = entry
    return changed


def part(api: Api, owner: str) -> object:
    """What an API says of one class or enum, or which names the module has."""
    if owner == "module":
        return set(api.classes), set(api.enums), set(api.functions), set(api.constants)
    if owner in api.enums:
        return api.enums[owner]
    return [
        (c.name, c.properties, {m: {s.text() for s in o} for m, o in c.methods.items()}) for c in api.lineage(owner)
    ]


class TestTheContractItself:
    """It can fail: each member that is used is missed when it is gone, and each kind of mistake is seen."""

    @pytest.mark.parametrize("renamed", [False, True], ids=["removed", "renamed"])
    @pytest.mark.parametrize(("owner", "member"), list(used_members(USES)))
    def test_a_member_that_goes_is_missed(self, owner: str, member: str, renamed: bool) -> None:
        uses = [use for use in USES if use.owner == owner and use.member == member]
        changed = [without(api, owner, member, renamed=renamed) for api in all_apis()]
        assert wrong_anywhere(uses, changed)

    @pytest.mark.parametrize("version", versions())
    def test_a_member_that_goes_from_one_version_makes_its_facts_untrue(self, version: str) -> None:
        needs(version)
        real, api = bindings.api(version), facts.load(version)
        there = [(owner, member) for owner, member in used_members(USES) if has(api, owner, member)]
        for owner, member in there:
            assert part(api, owner) == part(real, owner)
            assert part(without(api, owner, member, renamed=True), owner) != part(real, owner)
        assert len(there) > 80

    @pytest.mark.parametrize(
        ("code", "complaint"),
        [
            ("network.num_inptus", "no INetworkDefinition.num_inptus"),
            ("network.get_input()", "takes (index: int)"),
            ("network.get_input(0, 1)", "takes (index: int)"),
            ("network.get_input(number=0)", "takes (index: int)"),
            ("for i in range(network.num_layers):\n  network.get_layer(i).get_ouput(0)", "no ILayer.get_ouput"),
            ("[l.get_input(0).nam for l in [network.get_layer(0)]]", "no ITensor.nam"),
            ("config.set_flag(trt.DataType.HALF)", "takes (flag: BuilderFlag)"),
            ("config.num_optimization_profiles = 2", "cannot be written"),
            ("config.profiling_verbosity = trt.DataType.HALF", "takes ProfilingVerbosity"),
            ("config.set_flag(trt.BuilderFlag.FP61)", "no BuilderFlag.FP61"),
            ("config.set_flag(trt.BuilderFlag.FP16)", "11.4.0.106 has no BuilderFlag.FP16"),
            ("config.progress_monitor = None", "8.6.1 has no IBuilderConfig.progress_monitor"),
            ("getattr(trt.BuilderFlag, 'FP61', None)", "no TensorRT has BuilderFlag.FP61"),
            ("hasattr(config, 'progres_monitor')", "no TensorRT has IBuilderConfig.progres_monitor"),
            ("for n in ('FP16', 'INT9'):\n  getattr(trt.BuilderFlag, n)", "no TensorRT has BuilderFlag.INT9"),
            ("trt.Bilder(3)", "no module.Bilder"),
            ("trt.Builder()", "takes (logger: ILogger)"),
            ("trt.Builder(config)", "takes (logger: ILogger)"),
            ("class L(trt.ILogger):\n  def log(self, severity): ...", "takes (severity: Severity, msg: str)"),
            ("if not hasattr(config, 'progress_monitor'):\n  config.progress_monitor = None", "8.6.1 has no"),
            ("if not hasattr(config, 'set_flag'):\n  config.clear_flag(3)", "never reached"),
            ("if hasattr(config, 'progress_monitor'):\n  config.int8_calibrator = None", "11.4.0.106 has no"),
            ("thing.parse(b'')", "cannot tell what `thing` is"),
            ("getattr(config, name)", "cannot tell which names"),
            ("engine.create_execution_context().execute_async_v4(0)", "no IExecutionContext.execute_async_v4"),
            ("helper(network)", "no INetworkDefinition.num_out"),
            ("held.builder.create_netwerk()", "no Builder.create_netwerk"),
        ],
    )  # fmt: skip
    def test_a_mistake_is_seen(self, code: str, complaint: str) -> None:
        assert any(complaint in problem for problem in self.judge(code))

    @pytest.mark.parametrize(
        "code",
        [
            "if hasattr(config, 'progress_monitor'):\n  config.progress_monitor = None",
            "if not hasattr(config, 'progress_monitor'):\n  return\nconfig.progress_monitor = None",
            "hasattr(config, 'int8_calibrator') and config.int8_calibrator",
            "known = hasattr(trt.BuilderFlag, 'INT8')\nif known:\n  config.set_flag(trt.BuilderFlag.INT8)",
            "flag = getattr(trt.BuilderFlag, 'INT8', None)\nif flag is not None:\n  config.set_flag(flag)",
            "if hasattr(config, 'progress_monitor'):\n  only_with_monitors(trt)",
            "config.add_optimization_profile(builder.create_optimization_profile())",
            "network.get_input(index=0)",
            "trt.Builder(logger).create_network(1)",
            "if held.weak:\n  config.int8_calibrator = None",
        ],
    )
    def test_what_is_right_passes(self, code: str) -> None:
        assert self.judge(code) == []

    def judge(self, code: str) -> list[str]:
        body = "\n".join(f"    {line}" for line in code.splitlines())
        text = (
            "from dataclasses import dataclass\n"
            "from typing import Any\n"
            "from edgevision.backends.tensorrt_types import *\n"
            "from edgevision.backends.tensorrt_types import Builder, IBuilderConfig, ICudaEngine, ILogger\n"
            "from edgevision.backends.tensorrt_types import INetworkDefinition, TensorRT\n"
            "@dataclass\n"
            "class Held:\n"
            "    builder: Builder\n"
            "    module: TensorRT\n"
            "    @property\n"
            "    def weak(self) -> bool:\n"
            "        '''Whether there are calibrators.'''\n"
            "        return hasattr(self.module.BuilderFlag, 'INT8')\n"
            "def helper(network: INetworkDefinition) -> None:\n"
            f"    {'network.num_out' if 'helper' in code else 'pass'}\n"
            "def only_with_monitors(trt: TensorRT) -> None:\n"
            f"    {'trt.IProgressMonitor' if 'only_with' in code else 'pass'}\n"
            "def f(trt: TensorRT, network: INetworkDefinition, config: IBuilderConfig, builder: Builder, name: str,\n"
            "      logger: ILogger, engine: ICudaEngine, held: Held, thing: Any) -> None:\n"
            f"{body}\n"
        )
        uses, problems = collect({Path("edgevision/written.py"): text})
        return [*problems, *wrong_anywhere(uses, all_apis())]
