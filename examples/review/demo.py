"""The whole system on this machine, for one review: starts `swell up`, runs the command, stops everything again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile

#: How long the system may take to start or to stop, seconds.
PATIENCE_S = 60


def main() -> int:
    """Run the demonstration; the exit code is that of the review."""
    workers = str(max(2, min(os.cpu_count() or 2, 8)))
    with tempfile.TemporaryDirectory(prefix="swell-demo-") as directory:
        environ = os.environ | {"SWELL_DATA_DIR": directory}
        print(f"$ swell up --workers {workers} --app examples.review.app:app", flush=True)
        command = [sys.executable, "-m", "swell", "up", "--json", "--workers", workers]
        up = subprocess.Popen(
            [*command, "--app", "examples.review.app:app"], stdout=subprocess.PIPE, env=environ, text=True
        )
        assert up.stdout is not None
        try:
            line = up.stdout.readline()
            if not line:
                return up.wait(PATIENCE_S)
            started = json.loads(line)
            print(f"the system is up: {json.dumps(started)}\n\n$ python -m examples.review {' '.join(sys.argv[1:])}")
            sys.stdout.flush()
            code = subprocess.call([sys.executable, "-m", "examples.review", *sys.argv[1:]], env=environ)
            print("\n$ swell ledger --check", flush=True)
            checked = subprocess.call([sys.executable, "-m", "swell", "ledger", "--check"], env=environ)
            return code or checked
        finally:
            if up.poll() is None:
                up.send_signal(signal.SIGINT)
            up.wait(PATIENCE_S)
            up.stdout.close()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
