"""The command that measures everything on a GPU: all of it at tiny sizes, and what it does when a part fails."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.gpu import jobs, pruning, table
from experiments.gpu.book import LINES, LOG, Book, append, read
from experiments.gpu.sections import SECTIONS, Job, jobs_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "gpu_all.py"


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """The folder and the lines of all sections at tiny sizes; the time is ample, whatever else the machine does."""
    out = tmp_path_factory.mktemp("gpu")
    words = ["--out", out, "--tiny", "--minutes", "120", "--cache", out / "cache"]
    done = subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr + (out / LOG).read_text()
    return out, read(out / LINES)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_finds_something_and_nothing_fails(tiny_run, name):
    out, lines = tiny_run
    own = [line for line in lines if line["section"] == name]
    assert [line["status"] for line in own if "status" in line] == ["done"]
    assert not [line for line in own if "failed" in line]
    skipped = [line["name"] for line in own if "skipped" in line]
    assert skipped == (["product, TF32"] if name == "ceilings" else [])
    assert {line["part"] for line in own if "name" in line} == set(SECTIONS[name].parts)
    # Every column is filled by some line, but for those that only an accelerator's allocator knows.
    known = {key for line in own for key in line if line[key] is not None}
    missing = {key for key, _ in SECTIONS[name].columns.values()} - known
    assert missing <= {"allocator_peak_bytes", "bytes"}
    assert f"## {SECTIONS[name].title}\n" in (out / table.TABLE).read_text()


def test_a_watched_run_tells_host_solves_and_transfers_apart(tiny_run):
    for line in tiny_run[1]:
        if line.get("name") == "warm, by phase":
            phases = line["phases"]
            assert {"measure", "search", "refit", "cut"} <= phases.keys()
            for phase, kinds in (("search", ("device", "host solves")), ("refit", ("host solves", "transfers"))):
                assert all(0 < phases[phase][kind] < phases[phase]["all"] for kind in kinds)


def test_a_trace_is_small_and_names_what_took_longest(tiny_run):
    out, lines = tiny_run
    (trace,) = [line for line in lines if "largest" in line]
    assert (out / trace["file"]).stat().st_size == trace["bytes"] < pruning.TRACE_LIMIT
    assert len(trace["largest"]) == 10
    assert [entry["ms"] for entry in trace["largest"]] == sorted((e["ms"] for e in trace["largest"]), reverse=True)
    events = [
        {"name": "process_name", "pid": 1, "args": {"name": "/device:GPU:0"}},
        {"name": "process_name", "pid": 2, "args": {"name": "/host:CPU"}},
        *({"ph": "X", "pid": 1, "name": name, "dur": us} for name, us in (("a", 500), ("b", 2000), ("a", 1000))),
        {"ph": "X", "pid": 2, "name": "python", "dur": 9000},
    ]
    found = [(entry["name"], entry["ms"], entry["calls"]) for entry in pruning.largest(events)]
    assert found == [("b", 2.0, 1), ("a", 1.5, 2)]  # on the device, if there is one


def test_this_machine_agrees_with_the_stored_results(tiny_run):
    found = {line["name"]: line for line in tiny_run[1] if line["section"] == "agreement" and line["part"] == "default"}
    for name in ("tiny", "embedded"):
        # Another CPU rounds otherwise, and these programs were compiled without optimisation.
        assert found[f"{name}, dense"]["logits"] < 1e-4
        pruned = found[f"{name}, 60% removed"]
        assert pruned["neurons"] <= 0.05 * pruned["neurons_kept"]
    assert found["embedded, 60% removed"]["score"] == pytest.approx(pruned["stored_score"], abs=0.02)


def test_a_full_run_is_refused_on_a_cpu_and_beside_tiny_lines(tiny_run, tmp_path):
    out, _ = tiny_run
    for folder, more, message in (
        (out, [], "holds lines of a run with --tiny"),
        (tmp_path, ["--section", "ceilings", "--seconds", "9", "--parts", ""], "JAX found no accelerator"),
    ):
        done = subprocess.run([sys.executable, SCRIPT, "--out", folder, *more], capture_output=True, text=True)
        assert done.returncode == 1 and message in done.stderr


# --- processes: bash in place of a section


def run_jobs(tmp_path, script, names, seconds=60.0):
    (tmp_path / "script").write_text(script)
    good = jobs.run_all(
        [Job(name, (name,), 1.0) for name in names], ["bash", str(tmp_path / "script")], tmp_path, seconds
    )
    return good, read(tmp_path / LINES)


CASES = """
case $2 in  # the section's name
good) exit 0 ;;
bad) echo trouble >&2; echo "ValueError: of this kind" >&2; exit 3 ;;
killed) kill -9 $$ ;;
half) printf '{"section": "half", "name": "lost' >> LINES; exit 1 ;;
slow) sleep 600 & echo $! > CHILD; wait ;;
esac
"""


def test_what_fails_is_written_down_and_the_next_begins(tmp_path, capsys):
    script = CASES.replace("LINES", str(tmp_path / LINES))
    good, lines = run_jobs(tmp_path, script, ["good", "bad", "killed", "half", "good"])
    assert not good
    assert [line["status"] for line in lines] == ["done", "failed", "failed", "failed", "done"]
    assert [line.get("error") for line in lines] == [
        None, "ValueError: of this kind", "killed by signal 9", "exit code 1", None,
    ]  # fmt: skip
    assert '"lost' in (tmp_path / LINES).read_text()  # and does not spoil the line that follows
    assert "trouble" in (tmp_path / LOG).read_text()
    printed = capsys.readouterr()
    assert printed.out == "" and "[5/5] good good" in printed.err


def test_what_runs_out_of_time_is_killed_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "LEAST", 0.1)
    script = CASES.replace("CHILD", str(tmp_path / "child"))
    good, lines = run_jobs(tmp_path, script, ["slow", "good"], seconds=6.0)
    assert not good and [line["status"] for line in lines] == ["out of time", "done"]
    assert "killed after 3 s" in lines[0]["error"] and lines[0]["limit_seconds"] == pytest.approx(3, abs=0.1)
    child = Path("/proc") / (tmp_path / "child").read_text().strip()
    for _ in range(100):  # a killed process goes when its parent has seen it
        if not child.exists() or "Z" in (child / "stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the process that the section started is still there")


def test_no_process_is_started_where_no_time_is_left(tmp_path):
    good, lines = run_jobs(tmp_path, "exit 0", ["one", "two"], seconds=2.0)
    assert not good and [line["status"] for line in lines] == ["out of time"] * 2
    assert lines[0]["error"] == "no time was left"


def test_where_time_is_short_the_first_have_what_they_need(tmp_path):
    (tmp_path / "script").write_text("exit 0")
    weights = {"one": 50.0, "two": 50.0, "three": 2000.0}
    listed = [Job(name, (name,), weight) for name, weight in weights.items()]
    assert jobs.run_all(listed, ["bash", str(tmp_path / "script")], tmp_path, 60.0)
    assert [round(line["limit_seconds"]) for line in read(tmp_path / LINES)] == [50, 50, 60]


def test_some_parts_of_some_sections():
    listed = jobs_of(["kprune", "agreement", "speed"], False, ["float32", "default"])
    assert [(job.section, job.parts) for job in listed] == [
        ("kprune", ("float32",)), ("agreement", ("default",)), ("speed", ("float32",)),
    ]  # fmt: skip
    assert jobs_of(["trace"], True, ["float32"]) == []


def test_a_part_that_no_section_has_is_refused(tmp_path):
    words = ["--out", str(tmp_path / "out"), "--tiny", "--sections", "kprune", "--parts", "flot32"]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "no part flot32 in these sections, which have bfloat16, float32\n"
    assert not (tmp_path / "out").exists()


def test_every_part_is_a_process_where_allocators_are_read():
    full, tiny = (jobs_of(list(SECTIONS), small) for small in (False, True))
    assert [job.section for job in tiny] == list(SECTIONS)
    by_name = {name: [job.parts for job in full if job.section == name] for name in SECTIONS}
    for job in tiny:
        parts = SECTIONS[job.section].parts
        assert job.parts == tuple(parts)
        alone = [(part,) for part in parts]
        assert by_name[job.section] == ([job.parts] if SECTIONS[job.section].together else alone)
    assert any("allocator_peak_bytes" in column for column in SECTIONS["training"].columns.values())
    for section in SECTIONS.values():
        read_allocator = any("allocator_peak_bytes" in column for column in section.columns.values())
        assert not (section.together and read_allocator)
    assert sum(job.weight for job in full) == sum(job.weight for job in tiny)


def test_programs_are_kept_on_disk_and_memory_is_not_taken_in_advance(tmp_path):
    found = jobs.environment(tmp_path, tiny=False)
    assert found["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert found["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)
    assert found["PYTHONPATH"].split(":")[0] == str(ROOT)


# --- lines and the page they make


def book_of(tmp_path, seconds=60.0):
    return Book(tmp_path, "speed", "float32", seconds, False, "a card")


def test_a_case_that_fails_is_a_line_and_so_is_one_without_time(tmp_path):
    book = book_of(tmp_path)
    assert book.case("one", lambda: {"ms": np.float32(2.5), "of_flops": np.array([1, 2])})
    assert not book.case("two", lambda: {"ms": 1 / 0})
    assert not book.case("three", dict, needs=100.0)
    one, two, three = read(tmp_path / LINES)
    assert one["ms"] == 2.5 and one["of_flops"] == [1, 2] and one["device"] == "a card"
    assert two["failed"] == "ZeroDivisionError: division by zero" and book.failures == ["two"]
    assert three["skipped"].startswith("needs 100 s, ")


def test_the_page_has_the_last_of_equal_lines_and_says_what_is_missing(tmp_path):
    book = book_of(tmp_path)
    for speedup in (1.5, 2.5):
        book.write("32 x 128, 60% removed", ms=1.25, speedup=speedup, of_flops=0.5)
    book.write("8 x 128", failed="XlaRuntimeError: no memory")
    ended = {"section": "speed", "part": "bfloat16", "status": "out of time", "seconds": 9.0, "error": "killed"}
    append(tmp_path / LINES, ended)
    peaks = {"full": 10**9, "recap": 3 * 10**8}
    for part, peak in peaks.items():
        line = {"section": "training", "part": part, "device": "a card", "allocator_peak_bytes": peak}
        append(tmp_path / LINES, line | {"name": "step" if part == "full" else "tuning and the rest"})
    table.write(tmp_path)
    page = (tmp_path / table.TABLE).read_text()
    assert "| float32: 32 x 128, 60% removed | 1.250 | 2.50 | 50% |" in page and "1.50" not in page
    assert "- float32: 8 x 128 failed: XlaRuntimeError: no memory" in page
    assert "- speed bfloat16: out of time after 9.0 s: killed" in page
    assert "RECAP below full AdamW, by the allocator's peaks: 70% (goal: 65 %)." in page
    assert "| recap: tuning and the rest | 300 |" in page and "Sizes are tiny" not in page
    with pytest.raises(SystemExit, match="holds no lines"):
        table.write(tmp_path / "nowhere")


def test_extrapolated_seconds_lie_on_a_line_through_two_depths():
    fewer, more = {"seconds": 10.0, "compile_seconds": 0.0}, {"seconds": 45.0, "compile_seconds": 29.0}
    found = pruning.extrapolated(fewer, more, 16)
    assert found["seconds"] == pytest.approx(10 + 14 * 3.0) and found["extrapolated_from"] == [2, 4]


def test_lines_are_json(tmp_path):
    append(tmp_path / LINES, {"name": "a\nb"})
    assert json.loads((tmp_path / LINES).read_text()) == {"name": "a\nb"}
