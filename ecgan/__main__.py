"""``python -m ecgan`` is the ``ecgan`` command."""

import sys

from ecgan.cli import main

sys.exit(main())
