"""`python -m adapter` is `variant-adapter`."""

import sys

from adapter import cli

sys.exit(cli.main())
