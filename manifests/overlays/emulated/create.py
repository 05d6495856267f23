"""Creates the VariantAutoscaling of a file, once its CRD is there; one that exists stays as it is."""

import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("ACCOUNT_DIR", "/var/run/secrets/kubernetes.io/serviceaccount"))
SERVER = os.environ.get("API_SERVER", "https://kubernetes.default.svc")
ATTEMPTS, PAUSE_SECONDS = 60, float(os.environ.get("PAUSE_SECONDS", "2"))


def create(body: bytes) -> str:
    """What the API server made of it: created, exists; another word asks for a further attempt."""
    namespace = (ACCOUNT / "namespace").read_text()
    request = urllib.request.Request(
        f"{SERVER}/apis/llmd.ai/v1alpha1/namespaces/{namespace}/variantautoscalings",
        data=body,
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}",
            "Content-Type": "application/yaml",
        },
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, context=context, timeout=10):
            return "created"
    except urllib.error.HTTPError as error:
        return "exists" if error.code == 409 else f"HTTP {error.code}: {error.read(500)!r}"
    except OSError as error:
        return str(error)


def main() -> int:
    """Try until it is there."""
    body = Path(sys.argv[1]).read_bytes()
    for _ in range(ATTEMPTS):
        done = create(body)
        print(done, flush=True)
        if done in {"created", "exists"}:
            return 0
        time.sleep(PAUSE_SECONDS)
    return 1


if __name__ == "__main__":
    sys.exit(main())
