"""`python -m benchmarks.coverage`: measure, and write the page."""

from .measure import main

raise SystemExit(main())
