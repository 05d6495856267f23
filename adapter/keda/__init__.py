"""External scaler of KEDA: targets over gRPC, for triggers `external` and `external-push`.

Only `server` imports grpc, and is itself imported where the scaler is turned on.
"""

import os

# grpc would write a line for every handshake that fails, so for whatever a stranger sends; none of them is as
# the program's log is. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
