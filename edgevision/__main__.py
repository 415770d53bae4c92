"""`python -m edgevision`."""

import sys

from edgevision.cli import main

sys.exit(main())
