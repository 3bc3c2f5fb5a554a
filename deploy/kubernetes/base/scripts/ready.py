"""Exit with status 0 if this pod may have the farm's traffic: a readiness probe.

It may while its farm owns the store. A farm without workers still takes jobs and serves clips, so
it counts as ready here, although /readyz answers 503.
"""

import json
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

try:
    # /readyz answers within 5 s.
    with urlopen(sys.argv[1], timeout=8) as answer:  # noqa: S310 - the URL is the manifest's own
        body = answer.read()
except HTTPError as error:
    body = error.read()
except OSError as error:
    sys.exit(f"no answer: {error}")
try:
    status = json.loads(body)["status"]
except (ValueError, KeyError, TypeError):
    sys.exit(f"not the farm: {body[:200]!r}")
if status not in ("ok", "no worker yet"):
    sys.exit(body.decode())
