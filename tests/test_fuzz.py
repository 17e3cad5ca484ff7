"""A little of tests/stress: files damaged at random are refused in a line, or read; and the scripts see every fault."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "tests" / "stress"))

import fuzz
import fuzz_targets
import mutations
from fuzz_targets import JOBS, TARGETS

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
LIGHT = [name for name, target in TARGETS.items() if not target.torch]
TORCH = [name for name, target in TARGETS.items() if target.torch]
CASES = 23  # of each target: some 600 in all
SEED = 1


def forbidden(name: str, folder: Path, cases: int = CASES) -> list[str]:
    """What should not have happened, and the command that shows it."""
    outcomes = ((number, fuzz.run_case(name, number, SEED, folder)) for number in range(cases))
    return [
        f"{outcome.what}: tests/stress/fuzz.py --seed {SEED} --only {name} --case {number}"
        for number, outcome in outcomes
        if outcome.verdict == fuzz.FORBIDDEN
    ]


@pytest.mark.parametrize("name", LIGHT)
def test_a_parser_refuses_damaged_files_or_reads_them(name: str, tmp_path: Path) -> None:
    assert forbidden(name, tmp_path) == []


@needs_torch
@pytest.mark.parametrize("name", TORCH)
def test_a_reader_of_checkpoints_refuses_damaged_ones_or_reads_them(name: str, tmp_path: Path) -> None:
    assert forbidden(name, tmp_path) == []


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if not fuzz_targets.needs_torch(job)])
def test_a_command_refuses_damaged_files_in_a_line(name: str) -> None:
    _is_well(name)


@needs_torch
def test_an_export_refuses_a_damaged_file_and_leaves_nothing() -> None:
    _is_well("export-pt")


def _is_well(name: str) -> None:
    outcome = fuzz.run_command(name, 0, SEED, timeout=60)
    assert outcome.verdict != fuzz.FORBIDDEN, outcome


@pytest.mark.parametrize("name", [name for name in (*TARGETS, *JOBS) if name != "options"])  # words fit one option each
def test_right_files_are_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else damaged ones would be refused for another reason than their damage."""
    job = JOBS.get(name)
    target = job.target if job else TARGETS[name]
    if target.torch or (job and fuzz_targets.needs_torch(job)):
        pytest.importorskip("torch")
    for seed in target.seeds()[: 1 if job else None]:
        monkeypatch.setattr(fuzz_targets, "mutated", lambda random, seeds, form, seed=seed: seed)
        outcome = fuzz.run_case(name, 0, SEED, tmp_path)
        expected = fuzz.REFUSED if name in REFUSED else fuzz.ACCEPTED
        assert outcome.verdict == expected, outcome


REFUSED = {"artifact", "verify-manifest"}  # which are no checkpoint, and of other bytes


def test_a_seed_and_a_number_give_the_same_file() -> None:
    for name in LIGHT:
        seeds, form = TARGETS[name].seeds(), TARGETS[name].form
        first, again, other = (mutations.mutated(Random(number), seeds, form) for number in (5, 5, 6))
        assert first == again
        assert first != other


@pytest.mark.parametrize("form", mutations.FORMS)
def test_damage_by_format_is_damage(form: str) -> None:
    target = next(target for target in TARGETS.values() if target.form == form and (not target.torch or form != "zip"))
    if target.torch:
        pytest.importorskip("torch")
    seed = target.seeds()[0]
    changed = [mutations.mutated(Random(number), [seed], form) != seed for number in range(30)]
    assert sum(changed) > 20


def test_a_fault_in_a_parser_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(_content: bytes) -> None:
        raise ValueError("of no tree of ours")

    monkeypatch.setattr("dcgan_infer.contract.golden._parse", fault)
    assert len(forbidden("golden", tmp_path, 3)) == 3
    results = [(fuzz.Case("golden", 0), fuzz.run_case("golden", 0, SEED, tmp_path), 0.1)]
    (found,) = fuzz.faults_of(results, SEED)
    assert found.what == "ValueError: of no tree of ours"
    assert found.where.startswith("infer/dcgan_infer/contract/golden.py:")
    assert found.again.endswith("--seed 1 --keep FOLDER --only golden --case 0")
    total = fuzz.table(results).splitlines()[-1].split()
    assert total[:5] == ["total", "1", "0", "0", "1"]


@pytest.mark.parametrize(
    ("status", "stderr", "says"),
    [
        (0, "Traceback (most recent call last):\nValueError: x\n", False),
        (0, "x.py:1: RuntimeWarning: overflow\n", False),
        (3, "Error: x\n", False),
        (1, "", False),
        (1, "Error: one\ntwo\n", True),
        (1, "noise\nError: one\n", False),
        (1, "Error: \x1b[31mred\n", False),
        (2, "Error: wrong\n", False),
    ],
)
def test_a_wrong_end_of_a_command_is_seen(status: int, stderr: str, says: bool) -> None:
    with pytest.raises(AssertionError):
        fuzz_targets.judge(status, stderr, says)


def test_every_kind_of_fault_is_seen_and_crashes_have_their_case() -> None:
    done = subprocess.run(
        [sys.executable, fuzz.__file__, "--self-test"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(fuzz.PLANTED)
    assert "crash: SIGSEGV" in done.stdout
    assert "not done after" in done.stdout


def test_the_plan_has_so_many_cases_of_each() -> None:
    groups = fuzz.plan(1000, 100)
    cases = [case for group in groups for case in group]
    assert len(set(cases)) == len(cases) == 1100
    assert {case.name for case in cases} == {*TARGETS, *JOBS}
    assert {case.name for group in fuzz.plan(50, 50, ("zip",)) for case in group} == {"zip"}


def test_the_script_runs_and_writes_its_figures(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        fuzz.__file__,
        "--cases",
        "20",
        "--commands",
        "2",
        "--only",
        "spec",
        "--only",
        "infer-labels",
    ]
    done = subprocess.run([*command, "--json", str(report)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(report.read_text())
    assert sum(said["targets"]["spec"].values()) == 20
    assert said["faults"] == []


def test_soak_in_seconds(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    script = ROOT / "tests" / "stress" / "soak.py"
    command = [sys.executable, str(script), "--quick", "--only", "open", "--only", "threads", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["part"] for row in json.loads(report.read_text())} == {"open", "threads"}
