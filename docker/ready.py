#!/opt/swell/bin/python
"""`swell-ready PORT`: exit 0 if the service on that port is ready; say why not otherwise. Imports nothing of Swell."""

import sys
import urllib.error
import urllib.request

try:
    with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/readyz", timeout=3) as answer:
        sys.stdout.write(answer.read().decode() + "\n")
except urllib.error.HTTPError as error:
    sys.exit(error.read().decode())
except OSError as error:
    sys.exit(f"no answer: {error}")
