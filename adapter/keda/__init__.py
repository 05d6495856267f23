"""External scaler of KEDA: targets over gRPC, for triggers `external` and `external-push`.

Only `server` imports grpc, and is itself imported where the scaler is turned on.
"""
