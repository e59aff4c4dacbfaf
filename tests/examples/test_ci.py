"""The pipelines of examples/ci: their commands, run here as the hosts would, leave what they publish."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from matrix_project import TOML, write_model

from isthmus.cli import app

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "ci"
PAIRS = TOML.replace('[chips.here]\ntarget = "host"\n\n', "")


def read(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text("utf-8"))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two models and a lock, and nothing built."""
    work = tmp_path / "work"
    work.mkdir()
    write_model(work / "first.onnx")
    write_model(work / "second.onnx", 2.0)
    (work / "isthmus.toml").write_text(PAIRS)
    monkeypatch.chdir(work)
    assert app.run(["build", "--no-measure", "-o", str(tmp_path / "elsewhere")]) == 0
    assert {path.name for path in work.iterdir()} == {
        "first.onnx", "second.onnx", "isthmus.toml", "isthmus.lock",
    }  # fmt: skip
    return work


def shell(command: str, folder: Path, variables: Mapping[str, str]) -> int:
    """Run one step; its exit status. What it wants to install is there already, and nothing is fetched."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PIP_NO_INDEX": "1", **variables}
    done = subprocess.run(["bash", "-e", "-c", command], cwd=folder, env=environment, check=False)
    return done.returncode


def run_github(folder: Path, summary: Path) -> int:
    """Every step with a command, those that always run also after one that failed; the job's exit status."""
    (job,) = read("github-actions.yml")["jobs"].values()
    variables = {
        name: value.replace("${{ github.workspace }}", str(folder)) for name, value in job["env"].items()
    }
    status = 0
    for step in job["steps"]:
        if "run" in step and (status == 0 or step.get("if") == "always()"):
            status = shell(step["run"], folder, {**variables, "GITHUB_STEP_SUMMARY": str(summary)}) or status
    return status


def test_github_actions(checkout: Path, tmp_path: Path) -> None:
    assert run_github(checkout, tmp_path / "summary.md") == 0
    assert "2 of 2 pairs pass" in (tmp_path / "summary.md").read_text("utf-8")
    (job,) = read("github-actions.yml")["jobs"].values()
    published = [s["with"] for s in job["steps"] if "upload" in s.get("uses", "")]
    paths = [with_[name] for with_ in published for name in ("path", "sarif_file") if name in with_]
    assert len(paths) == 2 and all((checkout / path).exists() for path in paths)
    cached = next(s["with"]["path"] for s in job["steps"] if "actions/cache@" in s.get("uses", ""))
    assert list((checkout / cached).rglob("*")), "the cache that is kept is the one that is used"


def test_a_budget_fails_the_job_and_is_published_all_the_same(checkout: Path, tmp_path: Path) -> None:
    (checkout / "isthmus.toml").write_text(PAIRS + "[budgets]\nsize = '1 kB'\n")
    assert run_github(checkout, tmp_path / "summary.md") == 1
    assert "0 of 2 pairs pass" in (tmp_path / "summary.md").read_text("utf-8")


def test_gitlab(checkout: Path) -> None:
    (job,) = read("gitlab-ci.yml").values()
    folder = str(checkout)
    variables = {n: v.replace("$CI_PROJECT_DIR", folder) for n, v in job["variables"].items()}
    assert shell("\n".join([*job["before_script"], *job["script"]]), checkout, variables) == 0
    artifacts = job["artifacts"]
    paths = [*artifacts["paths"], artifacts["reports"]["junit"], *job["cache"]["paths"]]
    assert all((checkout / path).exists() for path in paths)
    # A drifted model stops the pipeline.
    write_model(checkout / "first.onnx", 7.0)
    assert shell("\n".join(job["script"]), checkout, variables) == 2
