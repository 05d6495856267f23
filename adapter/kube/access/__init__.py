"""Access to a cluster by a kubeconfig: certificates, a token, or a program that prints credentials."""
