"""What is imported with the streams, and what is not."""

import subprocess
import sys


def test_without_torch_the_data_sets_say_how_to_get_it() -> None:
    program = "import sys; sys.modules['torch'] = None; import archive_builder.training.torch"
    failed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    last = failed.stderr.splitlines()[-1]
    assert last == "ImportError: archive_builder.training.torch needs PyTorch: pip install '.[torch]'"


def test_importing_the_package_imports_no_torch() -> None:
    program = "import sys, archive_builder, archive_builder.training.batches; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
