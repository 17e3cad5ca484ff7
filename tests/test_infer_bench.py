"""dcgan-bench: rows take turns as promised, figures mean what they say, and bad input is one line."""

from __future__ import annotations

import copy
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import MODELS, OLD, ROOT

import dcgan_infer
from dcgan_infer import __version__, bench, measure, shipped
from dcgan_infer.bench_cli import _rate, main, table
from dcgan_infer.contract.errors import ModelError
from dcgan_infer.contract.files import sha256_of
from dcgan_infer.contract.spec import PRECISION_KEY, reference_spec
from dcgan_infer.generator import ImageGenerator
from dcgan_infer.machine import Processor, processor
from dcgan_infer.model import open_model

PLAIN = "dcgan-mnist"
QUICK = ("--rounds", "1", "--burst", "0.002", "--rest", "0", "--threads", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*QUICK, *arguments])


def done(*arguments: str) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result


class Machine:
    """A clock that only functions and rests move on, and what happened when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[str] = []

    def function(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds
            self.events.append(name)

        return call

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.events.append("rest")

    def measure(self, functions: dict[str, Callable[[], None]], **options: Any) -> dict[str, list[measure.Burst]]:
        return measure.measure(functions, clock=lambda: self.now, sleep=self.sleep, **options)

    @property
    def turns(self) -> list[str]:
        """Events without repetitions."""
        return [event for event, before in zip(self.events, ["", *self.events], strict=False) if event != before]


def test_rows_take_turns_with_a_rest_before_each_burst() -> None:
    machine = Machine()
    functions = {name: machine.function(name, 0.01) for name in "abc"}
    machine.measure(functions, rounds=4, burst=0.1, rest=0.5)
    rounds = ["abc", "bca", "cab", "abc", "bca"]  # the first one warms up
    assert machine.turns == [event for names in rounds for name in names for event in ("rest", name)]


def test_a_burst_holds_as_many_calls_as_the_warm_up_found_to_fill_it() -> None:
    machine = Machine()
    bursts = machine.measure(
        {"fast": machine.function("fast", 1 / 64), "slow": machine.function("slow", 3.0)}, rounds=2, burst=0.25, rest=1
    )
    assert [(part.calls, part.seconds) for part in bursts["fast"]] == [(16, 0.25)] * 2
    assert [(part.calls, part.seconds) for part in bursts["slow"]] == [(1, 3.0)] * 2
    assert bursts["fast"][0].rate == 64
    assert measure.ratios(bursts["fast"], bursts["slow"]) == pytest.approx([192, 192])


def test_slow_first_calls_do_not_shorten_the_bursts_and_rests_are_not_measured() -> None:
    machine = Machine()
    costs = iter([0.125, *[1 / 64] * 99])

    def call() -> None:
        machine.now += next(costs)

    (burst,) = machine.measure({"row": call}, rounds=1, burst=0.25, rest=100)["row"]
    assert burst == measure.Burst(16, 0.25, 1 / 64, 1 / 64)


def test_median_and_least_are_of_single_calls() -> None:
    machine = Machine()
    costs = iter([1.0] * 3 + [1.0, 5.0, 0.5])

    def call() -> None:
        machine.now += next(costs)

    assert machine.measure({"row": call}, rounds=1, burst=3.0)["row"] == [measure.Burst(3, 6.5, 1.0, 0.5)]


def test_it_is_told_of_each_burst() -> None:
    machine = Machine()
    functions = {name: machine.function(name, 0.1) for name in "abc"}
    machine.measure(functions, rounds=3, burst=0.1, after_burst=lambda: machine.events.append("told"))
    assert machine.events.count("told") == 4 * 3


def test_share_of_sgemm() -> None:
    # 22,328,320 multiply-adds are 44,656,640 operations; 1,000 images/s of them are 44.66 of 100 GFLOP/s.
    assert bench.sgemm_share(reference_spec().multiply_adds, 1_000, 100e9) == pytest.approx(0.4465664)
    assert bench.sgemm_share(None, 1_000, 100e9) is None


def test_sgemm_is_the_product_that_it_counts() -> None:
    product = np.asarray(bench._sgemm(1)()[0])
    a = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)
    assert product.shape == (1024, 1024)
    assert np.abs(product - a @ np.full((1024, 1024), 0.7, np.float32)).max() < 1e-3


def test_the_file_of_sgemm_is_what_its_script_writes() -> None:
    pytest.importorskip("onnx")
    script = runpy.run_path(str(ROOT / "tools" / "make_sgemm.py"))
    assert script["sgemm"]() == bench._SGEMM_FILE.read_bytes()


def report(names: list[str], unknown: bool = False, **changes: Any) -> bench.Report:
    """Figures that are easy to check: row i makes 100 (i + 1) calls a second, sgemm 1e11 operations."""
    results = []
    needed = None if unknown else reference_spec().multiply_adds
    for batch in (1, 16):
        for number, name in enumerate(names):
            row = bench.Row(name, name, "", needed, "onnxruntime", lambda _batch, _seed: lambda: None)
            bursts = [measure.Burst(100 * (number + 1), 1.0, 0.010, 0.008), measure.Burst(100, 2.0, 0.012, 0.009)]
            share = bench.sgemm_share(row.multiply_adds, batch * bursts[0].rate, 1e11)
            results.append(bench.Result(row, batch, bursts, [number + 1.0, 1.0], share))
    fields: dict[str, Any] = {
        "processor": processor(Path("/nowhere")),
        "threads": 2,
        "rounds": 2,
        "burst": 0.3,
        "rest": 0.25,
        "seed": 0,
        "versions": {"onnxruntime": "1.32.0"},
        "sgemm": {1: [9e10, 8e10], 16: [1e11, 7e10]},
        "results": results,
    }
    return bench.Report(**fields | changes)


def test_the_table() -> None:
    lines = table(report(["one", "two"])).splitlines()
    assert lines[0] == "two is the fastest here: 2,000 images/s in batches of 16, 1.5 times one"
    assert "2 threads, onnxruntime 1.32.0" in lines
    assert "2 rounds of bursts of 0.3 s; products of large matrices: 100 GFLOP/s" in lines
    start = lines.index("batch 16")
    assert lines[start + 1].split() == ["one", "1,200", "1,600", "1.00", "1.00", "71%"]
    assert lines[start + 2].split() == ["two", "2,000", "3,200", "1.50", "1.00", "143%"]
    assert [line.split() for line in lines[-2:]] == [["one", "11.000", "8.000"], ["two", "11.000", "8.000"]]


def test_int8_is_weighed_in_words() -> None:
    found = report(["one", "two"])
    one, two = (result.row for result in found.results[:2])
    lines = table(replace(found, int8=[bench.Int8(two, one, {1: 2.24, 16: 0.9}, 0.52)])).splitlines()
    assert " ".join(lines[1:3]) == (
        "int8 is 2.2, 0.9 times as fast as one here in batches of 1, 16; its pixels are off by 0.52 of 255 grey levels "
        "on average: take two if that does not matter"
    )
    text = table(replace(found, int8=[bench.Int8(two, one, {1: ratio}, 0.04) for ratio in (0.7, 1.04)]))
    assert "two (the fastest of 2 in int8) is 1.0 times" in text.replace("\n", " ")
    assert ": no reason to take two here but its size" in text.replace("\n", " ")
    assert text.count(" times as fast as") == 1


def test_an_int8_file_is_held_against_the_fastest_of_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(OLD / name) for name in ("conditional-plain.onnx", "conditional-fp16.onnx", "quiet-int8.onnx")]
    rows = bench.open_rows(files, ["onnxruntime"], 1)
    assert [row.precision for row in rows] == ["fp32", "fp16", "int8"]
    assert bench._with_peers(rows) == []  # int8 of other weights
    plain = rows[0]
    assert plain.opened
    slow = replace(plain, name="slow", prepare=lambda _batch, _seed: lambda: time.sleep(0.01))
    opened = copy.copy(plain.opened)
    opened.metadata = {**opened.metadata, PRECISION_KEY: "int8"}
    monkeypatch.setattr(opened, "run", lambda feeds, n: -plain.opened.run(feeds, n))
    negative = replace(plain, name="negative", opened=opened)
    (found,) = bench.bench([slow, plain, negative], batches=(1,), threads=1, rounds=1, burst=0.02, rest=0).int8
    assert (found.row, found.peer, list(found.ratios), found.size) == (negative, plain, [1], 1.0)
    pictures = ImageGenerator(plain.opened).generate(bench._COMPARED, seed=0).astype(float)
    assert found.levels == pytest.approx(np.abs(255 - 2 * pictures).mean(), abs=0.5)


def test_the_table_is_at_most_80_columns_whatever_is_in_it() -> None:
    flags = tuple(f"avx512_{number}" for number in range(20))
    names = ["models/" + "x" * 200 + "/plain.onnx, openvino", "fused.onnx"]
    found = report(names, processor=Processor("A processor with a name " * 5, flags), threads=1024)
    lines = table(found).splitlines()
    assert max(map(len, lines)) == 80
    assert sum("x/plain.onnx, openvino" in line for line in lines) == 4


def test_where_nobody_knows_how_much_a_model_multiplies_no_share_is_shown() -> None:
    found = report(["one"], unknown=True)
    line = next(line for line in table(found).splitlines() if line.startswith("  one "))
    assert line.split() == ["one", "75", "100", "1.00", "1.00", "-"]
    assert len(line) == 80
    assert found.results[0].as_dict()["sgemm_share"] is None


def test_columns_stay_apart_whatever_the_rate() -> None:
    assert [_rate(number) for number in (0.4, 999_999.4, 999_999.6, 123_456_789.0)] == [
        "0",
        "999,999",
        "1.0M",
        "123.5M",
    ]


@pytest.mark.parametrize(
    "model",
    [MODELS / "colour.onnx", MODELS / "clothes-uint8.onnx", MODELS / "four.onnx", OLD / "conditional-seed.onnx"],
)
def test_other_models_are_measured_too(model: Path) -> None:
    (first, _) = json.loads(done(str(model), "--batch", "1,3", "--json").stdout)["results"]
    assert first["images_per_second"]["best"] > 0
    assert (first["multiply_adds_per_image"] is None) == (first["sgemm_share"] is None) == (model.parent == MODELS)


def test_json_tells_all() -> None:
    facts = json.loads(done(PLAIN, "dcgan-mnist-conditional", "--batch", "1,3", "--seed", "5", "--json").stdout)
    assert (facts["threads"], facts["rounds"], facts["burst_seconds"], facts["rest_seconds"]) == (1, 1, 0.002, 0)
    assert facts["seed"] == 5
    assert facts["versions"]["dcgan-toolkit"] == __version__
    assert facts["versions"].keys() == {"dcgan-toolkit", "python", "numpy", "onnxruntime"}
    assert facts["processor"]["name"]
    assert facts["sgemm"]["flops_per_round"].keys() == {"1", "3"}
    assert facts["sgemm"]["best_flops"] == max(
        *facts["sgemm"]["flops_per_round"]["1"], *facts["sgemm"]["flops_per_round"]["3"]
    )
    assert [(part["row"], part["batch"]) for part in facts["results"]] == [
        (PLAIN, 1), ("dcgan-mnist-conditional", 1), (PLAIN, 3), ("dcgan-mnist-conditional", 3),
    ]  # fmt: skip
    last = facts["results"][-1]
    assert last["sha256"] == sha256_of(shipped.path_of("dcgan-mnist-conditional", ".onnx"))
    assert last["runtime"] == "onnxruntime"
    assert last["multiply_adds_per_image"] == 22_453_760
    rate = last["images_per_second"]
    assert [rate["best"]] == rate["per_round"] == [rate["median"]]
    peer = facts["results"][-2]["images_per_second"]
    assert last["ratio"]["per_round"] == [pytest.approx(rate["best"] / peer["best"])]
    assert last["sgemm_share"] == pytest.approx(2 * 22_453_760 * rate["best"] / facts["sgemm"]["best_flops"])
    assert 0 < last["latency_ms"]["least"] <= last["latency_ms"]["median"]
    assert last["calls_per_round"] >= 1


def test_all_shipped_models_are_measured_by_default() -> None:
    facts = json.loads(done("--batch", "1", "--json").stdout)
    assert [part["row"] for part in facts["results"]] == shipped.names(".onnx")


def test_one_model_twice_is_two_rows() -> None:
    text = done(PLAIN, PLAIN, "--batch", "1").stdout
    assert f"  {PLAIN} " in text
    assert f"  {PLAIN} #2 " in text
    assert text.splitlines()[-1] == f"try: dcgan-infer --model {PLAIN} --batch-size 1"


def test_openvino_beside_onnxruntime() -> None:
    pytest.importorskip("openvino")
    facts = json.loads(
        done(PLAIN, "--batch", "2", "--runtime", "onnxruntime", "--runtime", "openvino", "--json").stdout
    )
    assert [part["row"] for part in facts["results"]] == [f"{PLAIN}, onnxruntime", f"{PLAIN}, openvino"]
    assert facts["versions"]["openvino"]


def test_both_runtimes_make_the_same_images() -> None:
    pytest.importorskip("openvino")
    for model in shipped.names(".onnx"):
        first, second = (np.array(row.prepare(3, 1)()) for row in bench.open_rows([model], bench.RUNTIMES, 1))
        assert np.abs(first - second).max() < 1e-4


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (3, 4, 6, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_images_may_be_float_or_uint8(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    bench._try(lambda: np.zeros(shape, dtype), open_model(MODELS / "colour.onnx"), 3, "onnxruntime")


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (3, 3, 4, 5), (1, 9, 4, 6), ()])
def test_a_model_that_makes_something_else_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"colour\.onnx returned shape .* for a batch of 3"):
        bench._try(lambda: np.zeros(shape), open_model(MODELS / "colour.onnx"), 3, "onnxruntime")


def test_plot(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    done(PLAIN, "--batch", "1,2", "--plot", "rate.png")
    assert Path("rate.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in folder.iterdir()] == ["rate.png"]


def test_a_failure_leaves_an_older_plot_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    Path("rate.png").write_text("old")
    assert run("none.onnx", "--plot", "rate.png").exit_code == 1

    def fail(*_arguments: object, **_options: object) -> None:
        raise ModelError("failed while measuring")

    monkeypatch.setattr(bench, "measure", fail)
    assert run(PLAIN, "--plot", "rate.png").exit_code == 1
    assert Path("rate.png").read_text() == "old"
    assert [path.name for path in folder.iterdir()] == ["rate.png"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--batch", ""], 2, "is no list of batch sizes"),
        (["--batch", "1,0"], 2, "is no list of batch sizes"),
        (["--batch", "1,many"], 2, "is no list of batch sizes"),
        (["--batch", "1,2,"], 2, "is no list of batch sizes"),
        (["--batch", "4097"], 2, "from 1 to 4096"),
        (["--runtime", "torch"], 2, "'torch' is not one of"),
        (["--rounds", "0"], 2, "'--rounds'"),
        (["--threads", "0"], 2, "'--threads'"),
        (["--burst", "0"], 2, "'--burst'"),
        (["--burst", "nan"], 2, "'--burst'"),
        (["--rest", "-1"], 2, "'--rest'"),
        (["--seed", "-1"], 2, "'--seed'"),
        (["--plot", "rate.txt"], 2, "must end in .png, .svg, .pdf"),
        (["--plot", "missing/rate.png"], 1, "can't write missing/rate.png: no such file or directory"),
        (["none.onnx"], 1, "there is no model 'none.onnx'"),
        (["."], 1, "can't use model text.onnx: it is no ONNX file"),
        ([str(OLD / "run")], 1, "is a run folder; make an ONNX file of it: dcgan-export "),
        ([str(OLD / "conditional.pt")], 1, "this is TorchScript, which runs in torch"),
        (["text.onnx"], 1, "can't use model text.onnx: it is no ONNX file"),
        ([str(Path(dcgan_infer.__file__).parent / "sgemm.onnx")], 1, "carries no generator spec"),
        (["x" * 300], 1, "file name too long"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, arguments: list[str], status: int, says: str) -> None:
    if "missing/rate.png" in arguments:
        pytest.importorskip("matplotlib")
    Path("text.onnx").write_text("no model")
    result = run(*arguments)
    assert result.exit_code == status, result.output
    errors = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try "))]
    assert len(errors) == 1, result.stderr
    assert says in result.stderr
    assert result.stdout == ""
    assert [path.name for path in folder.iterdir()] == ["text.onnx"]


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        ("openvino", ["--runtime", "openvino"], "openvino is not installed: pip install openvino"),
        ("matplotlib.figure", ["--plot", "rate.png"], "pip install 'dcgan-toolkit[plot]'"),
    ],
)
def test_a_missing_package_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, arguments: list[str], says: str
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise AssertionError("it was measured before the package was missed")

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(bench, "measure", fail)
    result = run(PLAIN, *arguments)
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_help_is_instant_and_names_the_defaults_of_the_library() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    assert max(map(len, text.splitlines())) <= 100
    for default in (",".join(map(str, bench.BATCHES)), measure.ROUNDS, measure.BURST, measure.REST):
        assert f"[default: {default}" in " ".join(text.split())
    assert CliRunner().invoke(main, ["--version"]).stdout.startswith("dcgan-bench, version ")
    code = (
        "import sys; from dcgan_infer.bench_cli import main; main(['--help'], standalone_mode=False)\n"
        "assert not {'numpy', 'onnxruntime', 'matplotlib', 'openvino'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_processor_of_intel_and_arm(tmp_path: Path) -> None:
    assert processor(tmp_path).name
    assert processor(tmp_path).flags == ()
    (tmp_path / "proc").mkdir()
    file = tmp_path / "proc" / "cpuinfo"
    file.write_text(
        "processor\t: 0\nmodel name\t: A  CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n\nmodel name\t: B\n"
    )
    assert processor(tmp_path) == Processor("A CPU @ 2 GHz", ("avx2", "avx512_vnni", "amx_int8"))
    file.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert processor(tmp_path).flags == ("asimd", "asimddp", "i8mm")
