"""Imports of the streams: PyTorch is optional."""

import subprocess
import sys


def test_error_without_torch_explains_how_to_install_it() -> None:
    program = "import sys; sys.modules['torch'] = None; import archive_builder.training.torch"
    failed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    last = failed.stderr.splitlines()[-1]
    assert last == "ImportError: archive_builder.training.torch needs PyTorch: pip install '.[torch]'"


def test_importing_the_package_imports_no_torch() -> None:
    program = "import sys, archive_builder, archive_builder.training.batches; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
