"""examples/cluster: the commands in its files, run as Slurm and Kubernetes would run them, and its classifier."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import MODELS, ROOT

from dcgan_infer.cli import main

pytest.importorskip("pyarrow")

CLUSTER = ROOT / "examples" / "cluster"
PARTS = 16
PROGRAMS = {
    "dcgan-infer": f'exec {shlex.quote(sys.executable)} -m dcgan_infer "$@" --model {MODELS / "clothes.onnx"}',
    "srun": 'shift\nexec "$@"',
}


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """With dcgan-infer, of a small model, and an srun that does as srun does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, command in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / name).chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def small(text: str) -> str:
    """The same command with shards of 10 images."""
    assert text.count("--shard-size 10_000") == 1
    return text.replace("--shard-size 10_000", "--shard-size 10")


def shards_made(words: list[str], surroundings: dict[str, str]) -> int:
    done = subprocess.run(words, env=surroundings, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    made = re.search(r"images in (\d+) shards? of parquet", done.stdout)
    assert made or "nothing was to be made" in done.stdout
    return int(made[1]) if made else 0


def is_whole(place: Path) -> bool:
    return len(json.loads((place / "manifest.json").read_text())["shards"]) == 3


def test_slurms_script(surroundings: dict[str, str], tmp_path: Path) -> None:
    text = (CLUSTER / "slurm.sbatch").read_text()
    assert f"#SBATCH --array=0-{PARTS - 1}\n" in text
    script = tmp_path / "slurm.sbatch"
    script.write_text(small(text))
    place = tmp_path / "set"
    for task, count in ((15, 0), (2, 1), (0, 1), (1, 1)):
        task_of = surroundings | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_CPUS_PER_TASK": "1"}
        assert shards_made(["sh", str(script), str(place), "30"], task_of) == count
    assert is_whole(place)


def test_the_job_of_kubernetes(surroundings: dict[str, str], tmp_path: Path) -> None:
    job = pytest.importorskip("yaml").safe_load((CLUSTER / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert (job["kind"], job["spec"]["completionMode"]) == ("Job", "Indexed")
    assert job["spec"]["completions"] == PARTS
    assert all(
        rule["onExitCodes"]["containerName"] == container["name"]
        for rule in job["spec"]["podFailurePolicy"]["rules"][1:]
    )
    *shell, command = container["command"]
    named = {each["name"]: each["value"] for each in container["env"]}
    assert set(named) == {"N", "OUT"}
    assert all(type(value) is str for value in named.values())  # as Kubernetes demands
    place = tmp_path / "set"
    for index, count in ((15, 0), (0, 1), (1, 1), (2, 1)):
        pod = surroundings | {"N": "30", "OUT": str(place), "JOB_COMPLETION_INDEX": str(index)}
        assert shards_made([*shell, small(command)], pod) == count
    assert is_whole(place)


def test_options_in_the_readme_and_the_job_are_there() -> None:
    text = (CLUSTER / "README.md").read_text().replace("\\\n", "")
    (line,) = re.findall(r"^ray job submit .* -- (dcgan-infer .*)$", text, re.MULTILINE)
    result = CliRunner().invoke(main, [*shlex.split(line)[1:], "--list-models"])  # which reads all of them first
    assert result.exit_code == 0, result.output


def classifier() -> Any:
    spec = importlib.util.spec_from_file_location("train_on_shards", CLUSTER / "train_on_shards.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_classifier_learns_from_shards_what_real_digits_are(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    place = str(tmp_path / "digits")
    options = ["--format", "parquet", "--encoding", "raw", "--shard-size", "600", "--threads", "1"]
    made = CliRunner().invoke(main, ["-n", "1000", "-o", place, *options])
    assert made.exit_code == 0, made.output
    program = classifier()
    told = CliRunner().invoke(program.main, [place, "--epochs", "2"])
    assert told.exit_code == 0, told.output
    assert re.match(r".*: 1,000 images, 2 epochs; accuracy 0\.[6789]", told.stdout), told.stdout
    assert CliRunner().invoke(program.main, [place, "--real"]).exit_code == 2
    assert CliRunner().invoke(program.main, []).exit_code == 2
