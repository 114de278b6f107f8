"""Worker processes started by a script."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from archive_builder import Archive

SCRIPT = """
from pathlib import Path
from archive_builder.run import pool
from archive_builder.{module} import {function}
pool.MOST_TOGETHER = pool.BYTES_TOGETHER = 1  # two small shards make two batches
{guard}{call}; print("done")
"""

CALLS = {
    ("builder.driver", "build"): "build(Path('survey/survey.toml'), Path('new'), workers=2)",
    ("forecast.plan", "plan"): "plan(Path('survey/survey.toml'), sample=1)",
    ("maintain.verify", "verify"): "list(verify(Path('archive'), deep=True, workers=2))",
    ("maintain.reindex", "reindex"): "reindex(Path('archive'), workers=2)",
    ("exporting.export", "export"): "export('archive', 'ids.csv', 'new', workers=2)",
}


@pytest.mark.parametrize(("module", "function"), CALLS)
def test_a_script_that_starts_workers_at_import_gets_an_error_on_one_line(
    demo_archive: Path, survey_copy: Path, tmp_path: Path, module: str, function: str
) -> None:
    shutil.copytree(demo_archive, tmp_path / "archive")
    with Archive(demo_archive) as archive:
        ids = [str(n) for batch in archive.batches() for n in batch.object_id]
    (tmp_path / "ids.csv").write_text("\n".join(["object_id", *ids]))

    def run(guard: str) -> subprocess.CompletedProcess[str]:
        text = SCRIPT.format(module=module, function=function, guard=guard, call=CALLS[module, function])
        (tmp_path / "script.py").write_text(text)
        return subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)

    bare = run("")
    assert (bare.returncode, bare.stdout) == (1, "")
    assert bare.stderr.count("Traceback") == 1  # the traceback of the script itself
    assert bare.stderr.splitlines()[-1] == (
        "archive_builder.errors.RequestError: the script starts worker processes, and each of them imports the script: "
        "make the call under if __name__ == '__main__'"
    )
    guarded = run('if __name__ == "__main__": ')
    assert (guarded.stdout, guarded.stderr, guarded.returncode) == ("done\n", "", 0)
