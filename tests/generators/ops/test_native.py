"""Which operations run: what HPD_OPS asks for, what can be had, and what is said about it."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from compilers import Bench
from conftest import ROOT

from generators.ops import native, toolchain
from generators.ops.build import build, find_library
from generators.ops.cuda.kernels import RAISED
from generators.ops.native import uses_native
from generators.ops.status import status
from hpd.errors import OpsError

CPU = torch.zeros(1)
ERROR = "kernel.cpp:7:3: error: expected ';' before 'return'"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def loads(monkeypatch):
    """What is loaded: the stand-in's libraries are none that torch could load."""
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    return loaded


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("mode", ["auto", "native", "", None])
def test_native_operations_are_built_and_loaded_once(bench, loads, monkeypatch, mode):
    if mode is not None:
        monkeypatch.setenv("HPD_OPS", mode)
    assert uses_native(CPU)
    assert loads == [str(build(bench.recipe()))]
    assert uses_native(CPU.double())
    assert len(loads) == 1
    assert len(bench.calls()) == 3


def test_the_reference_builds_and_loads_nothing(bench, loads, monkeypatch):
    monkeypatch.setenv("HPD_OPS", "reference")
    monkeypatch.setattr(native, "read_recipe", None)
    assert not uses_native(CPU)
    assert not loads
    assert not bench.cache.exists()


def test_the_variable_counts_at_once(bench, loads, monkeypatch):
    seen = []
    for mode in ("native", "reference", "auto"):
        monkeypatch.setenv("HPD_OPS", mode)
        seen.append(uses_native(CPU))
    assert seen == [True, False, True]
    assert len(loads) == 1


@pytest.mark.parametrize("mode", ["auto", "native"])
def test_other_devices_take_the_reference(bench, loads, monkeypatch, mode):
    monkeypatch.setenv("HPD_OPS", mode)
    assert not uses_native(torch.zeros(1, device="meta"))
    assert not bench.calls()


def test_an_unknown_mode_is_named(bench, monkeypatch):
    monkeypatch.setenv("HPD_OPS", "nativ")
    for ask in (lambda: uses_native(CPU), status):
        with pytest.raises(OpsError, match="unknown HPD_OPS 'nativ'"):
            ask()


def test_a_failed_build_is_told_once_and_auto_goes_on(bench, loads, caplog):
    bench.break_compiler(ERROR)
    assert not uses_native(CPU)
    assert not uses_native(CPU)
    tried = bench.calls()
    (told,) = [text for text in warnings_of(caplog) if "building" not in text]
    assert "the slower reference runs on cpu (see 'hpd ops status')" in told
    assert told.splitlines()[1] == ERROR
    caplog.clear()
    # the next process does not try, and is brief
    bench.new_process()
    assert not uses_native(CPU)
    assert bench.calls() == tried
    (told,) = warnings_of(caplog)
    assert told.endswith(ERROR)
    assert "'hpd ops build' tries again" in told
    assert "\n" not in told


def test_native_raises_what_the_compiler_said_each_time(bench, loads, monkeypatch):
    monkeypatch.setenv("HPD_OPS", "native")
    bench.break_compiler(ERROR)
    for _ in range(2):
        with pytest.raises(OpsError) as caught:
            uses_native(CPU)
        assert str(caught.value).splitlines()[1] == ERROR
    tried = bench.calls()
    bench.new_process()
    with pytest.raises(OpsError) as caught:
        uses_native(CPU)
    assert str(caught.value).splitlines()[1] == ERROR
    assert bench.calls() == tried


def no_compiler(bench, monkeypatch):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(bench.folder))


def no_such_compiler(bench, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")


def broken_compiler(bench, monkeypatch):
    (bench.folder / "compiler").write_text("#!/bin/sh\necho 'unknown option' >&2; exit 1\n")


def no_interpreter(bench, monkeypatch):
    (bench.folder / "compiler").write_text("#!/no/such/shell\n")


def no_sources(bench, monkeypatch):
    shutil.rmtree(bench.csrc)


def no_cache(bench, monkeypatch):
    monkeypatch.setenv("HPD_CACHE", str(bench.folder / "compiler"))


def no_library(bench, monkeypatch):
    """What the stand-in makes is no library: here torch tries to load it."""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (no_compiler, "no C++ compiler. Install g++, or name a compiler in CXX."),
        (no_such_compiler, "no C++ compiler: got no-such-compiler."),
        (broken_compiler, "compiler does not work: got unknown option"),
        (no_interpreter, "compiler does not work: got "),
        (no_sources, "no sources of native operations for cpu"),
        (no_cache, "native operations cannot be kept: got "),
        (no_library, "native operations do not load: got "),
    ],
)
def test_what_is_missing_is_named(bench, monkeypatch, caplog, fault, said):
    fault(bench, monkeypatch)
    assert not uses_native(CPU)
    told = warnings_of(caplog)[-1]
    assert "the slower reference runs" in told
    assert said in told
    monkeypatch.setenv("HPD_OPS", "native")
    with pytest.raises(OpsError) as caught:
        uses_native(CPU)
    assert said in str(caught.value)


def test_native_operations_elsewhere_than_linux_are_refused(bench, monkeypatch):
    monkeypatch.setattr(toolchain.sys, "platform", "win32")
    with pytest.raises(OpsError, match="on Linux only: got win32"):
        bench.recipe()


def test_a_graph_takes_the_outcome_as_it_is(bench, loads):
    """First use while torch.compile traces: the build runs, but outside of the graph."""

    @torch.compile(fullgraph=True, backend="eager")
    def twice_if_native(x):
        return x * 2 if uses_native(x) else x

    assert twice_if_native(torch.ones(3)).tolist() == [2, 2, 2]
    assert len(loads) == 1


def test_tensors_without_values_do_as_those_with(bench, loads):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert uses_native(torch.zeros(1))
    assert len(loads) == 1


def test_a_choice_is_logged_for_those_who_listen(bench, loads, caplog):
    with caplog.at_level(logging.INFO, logger="generators.ops"):
        uses_native(CPU)
    assert caplog.records[-1].getMessage() == f"native operations run on cpu: {loads[0]}"


def cpu_status():
    return next(record for record in status() if record.device_type == "cpu")


def test_status_neither_builds_nor_loads(bench, loads):
    before = cpu_status()
    assert (before.path, before.library) == ("native", None)
    assert before.reason.startswith("not built yet")
    assert before.compiler == f"{bench.folder / 'compiler'} 1.0"
    assert "-O3" in before.flags
    assert not bench.calls()
    assert not loads
    library = build(bench.recipe())
    after = cpu_status()
    assert (after.path, after.library, after.reason) == ("native", library, "built")


@pytest.mark.parametrize(("mode", "path"), [("auto", "reference"), ("native", "none")])
def test_status_says_why_not(bench, monkeypatch, mode, path):
    bench.break_compiler(ERROR)
    uses_native(CPU)
    monkeypatch.setenv("HPD_OPS", mode)
    assert cpu_status().path == path
    assert ERROR in cpu_status().reason
    # the same for a process that did not see it happen
    bench.new_process()
    assert cpu_status().path == path
    assert ERROR in cpu_status().reason


def test_status_says_that_the_reference_is_asked_for(bench, monkeypatch):
    library = build(bench.recipe())
    monkeypatch.setenv("HPD_OPS", "reference")
    found = cpu_status()
    assert (found.path, found.reason, found.library) == ("reference", "HPD_OPS=reference", library)


def test_status_reports_what_this_process_does(bench):
    uses_native(CPU)
    assert cpu_status().path == "reference"
    assert "do not load" in cpu_status().reason


def test_the_real_library_is_whole(native_cpu):
    """The one build of the true sources: every test that needs them uses it."""
    assert native_cpu == find_library(toolchain.read_recipe("cpu"))


def test_all_sources_are_installed_with_the_package():
    """Whoever installs a wheel builds from what lies in it."""
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert "generators" in settings["targets"]["wheel"]["packages"]
    assert not {"exclude", "only-include"} & (set(settings) | set(settings["targets"]["wheel"]))
    # hatch leaves out what git ignores
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    files = [path.relative_to(ROOT) for path in toolchain.CSRC.rglob("*")]
    assert files
    for path in files:
        assert not any(part.match(rule) for part in (path, *path.parents) for rule in ignored), path


class TestCuda:
    """What is asked of nvcc, seen through a stand-in."""

    @pytest.fixture(autouse=True)
    def nvcc(self, bench, monkeypatch):
        monkeypatch.setattr(torch.version, "cuda", "13.2")
        monkeypatch.setenv("CUDA_HOME", str(bench.folder))
        monkeypatch.setenv("HPD_CUDA_ARCHS", "90;80")
        (bench.folder / "bin").mkdir()
        (bench.csrc / "cuda").mkdir()
        (bench.csrc / "cuda" / "one.cu").touch()
        self.bench = bench
        self.write("V13.0.88")

    def write(self, version):
        path = self.bench.folder / "bin" / "nvcc"
        path.write_text(f"#!/bin/sh\necho 'release, {version}'\n")
        path.chmod(0o755)

    def test_builds_for_what_is_asked_for(self, monkeypatch):
        monkeypatch.setenv("CXX", f"sh {self.bench.folder / 'compiler'} -g")
        recipe = toolchain.read_recipe("cuda")
        assert recipe.compiler == (
            f"{self.bench.folder}/bin/nvcc", f"-ccbin={self.bench.folder / 'compiler'}"
        )  # fmt: skip
        assert recipe.version == f"{self.bench.folder}/bin/nvcc 13.0.88"
        targets = [flag for flag in recipe.flags if "arch" in flag]
        assert targets == [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 90)]
        assert "-march=native" not in recipe.flags

    def test_its_key_knows_nvcc_and_targets(self, monkeypatch):
        keys = [toolchain.read_recipe("cuda").key]
        self.write("V13.1.3")
        keys.append(toolchain.read_recipe("cuda").key)
        monkeypatch.setenv("HPD_CUDA_ARCHS", "80")
        keys.append(toolchain.read_recipe("cuda").key)
        assert len(set(keys)) == 3

    def test_builds_for_the_devices_that_are_here(self, monkeypatch):
        monkeypatch.delenv("HPD_CUDA_ARCHS")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (10, 3 * index))
        flags = toolchain.read_recipe("cuda").flags
        assert [flag[-6:] for flag in flags if "arch" in flag] == ["sm_100", "sm_103"]

    def test_what_does_not_fit_is_named(self, monkeypatch):
        self.write("V12.8.1")
        with pytest.raises(OpsError, match=r"nvcc does not fit torch: got 12\.8\.1, expected CUDA"):
            toolchain.read_recipe("cuda")
        monkeypatch.setenv("CUDA_HOME", "/nowhere")
        with pytest.raises(OpsError, match=r"no CUDA compiler: got CUDA_HOME=/nowhere\. Install"):
            toolchain.read_recipe("cuda")
        monkeypatch.setenv("HPD_CUDA_ARCHS", "80;ninety")
        with pytest.raises(OpsError, match="HPD_CUDA_ARCHS is not valid: got ninety, expected"):
            toolchain.read_recipe("cuda")
        monkeypatch.delenv("HPD_CUDA_ARCHS")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(OpsError, match=r"no CUDA device\. Set HPD_CUDA_ARCHS"):
            toolchain.read_recipe("cuda")
        monkeypatch.setattr(torch.version, "cuda", None)
        with pytest.raises(OpsError, match="this torch is built without CUDA"):
            toolchain.read_recipe("cuda")


class TestCudaWithoutNvcc:
    """What happens where no library for CUDA can be built."""

    @pytest.fixture(autouse=True)
    def bare(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(native, "_OPENED", {})
        monkeypatch.setattr(native, "_CHOSEN", {})
        monkeypatch.setattr(native, "build", self.fail)
        monkeypatch.setattr(native, "read_recipe", self.fail)
        monkeypatch.setattr("generators.ops.status.read_recipe", self.fail)
        monkeypatch.setattr(native.Driver, "of_system", lambda: None)
        self.registered = []
        monkeypatch.setattr(
            native.Operations, "register", lambda operations: self.registered.append(operations)
        )

    @staticmethod
    def fail(*arguments):
        raise OpsError("no CUDA compiler")

    def test_nvrtc_takes_its_place(self, monkeypatch):
        monkeypatch.setattr(native.nvrtc, "available", lambda: "NVRTC 13.0")
        (told,) = [one for one in status() if one.device_type == "cuda"]
        assert (told.path, told.way, told.compiler) == ("native", "NVRTC", "NVRTC 13.0")
        assert told.reason == "each kernel on first use, by NVRTC 13.0: no CUDA compiler"
        assert native._decide("cuda")
        assert native._decide("cuda")
        assert len(self.registered) == 1

    def test_without_a_driver_it_is_of_no_use(self, monkeypatch, caplog):
        def fail():
            raise OpsError("no driver of NVIDIA")

        monkeypatch.setattr(native.nvrtc, "available", lambda: "NVRTC 13.0")
        monkeypatch.setattr(native.Driver, "of_system", fail)
        assert not native._decide("cuda")
        assert "no driver of NVIDIA" in caplog.text
        assert not self.registered

    def test_a_library_that_was_built_is_used_by_the_driver(self, monkeypatch, tmp_path):
        library = tmp_path / "hpd_ops_cuda.fatbin"
        library.write_bytes(native._MAGIC)
        monkeypatch.setattr(native, "build", lambda recipe: library)
        monkeypatch.setattr(native, "read_recipe", lambda device_type: None)
        monkeypatch.setattr(native.nvrtc, "available", lambda: pytest.fail("not asked for"))
        assert native._decide("cuda")
        assert native._OPENED["cuda"] == library
        (operations,) = self.registered
        assert operations._start._code(RAISED, 0) == (str(library), native._MAGIC)

    @pytest.mark.parametrize("mode", ["auto", "native"])
    def test_without_it_there_is_the_reference_or_an_error(self, monkeypatch, mode, caplog):
        monkeypatch.setattr(native.nvrtc, "available", lambda: None)
        monkeypatch.setenv("HPD_OPS", mode)
        (told,) = [one for one in status() if one.device_type == "cuda"]
        assert told.path == ("reference" if mode == "auto" else "none")
        if mode == "native":
            with pytest.raises(OpsError, match="no CUDA compiler"):
                native._decide("cuda")
        else:
            assert not native._decide("cuda")
            assert "no CUDA compiler" in caplog.text
        assert not self.registered


def test_an_nvcc_that_does_not_fit_does_not_hide_one_that_does(monkeypatch):
    versions = {"/a/nvcc": "12.8.1", "/b/nvcc": "13.0.2"}
    found = iter(versions)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(toolchain.shutil, "which", lambda place: next(found, None))
    monkeypatch.setattr(toolchain, "_version_of", versions.get)
    monkeypatch.setattr(toolchain.Path, "glob", lambda folder, pattern: [toolchain.Path("x")])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert toolchain._find_nvcc() == ("/b/nvcc", "13.0.2")
